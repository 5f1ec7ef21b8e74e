"""OpenAI-ES: dense noise of a given size, antithetic pairs, ranked fitness (Salimans et al. 2017, arXiv:1703.03864).

    xᵢ = m ± σ εᵢ,  εᵢ ~ N(0, I)        ĝ = 1 / (P σ) · Σ over pairs of (w⁺ - w⁻) ε        m ← optimizer(m, ĝ)

Every parameter gets noise of its full shape; :mod:`hyperfunc.evolution.eggroll` is the same method with low-rank noise
for matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfunc.evolution.center import CenterState, CenterStrategy
from hyperfunc.evolution.sampling import dense_draws, mirrored
from hyperfunc.evolution.shaping import Shaping, ShapingName
from hyperfunc.evolution.space import ParameterSpec
from hyperfunc.population.members import DenseMembers, MemberBlock
from hyperfunc.population.update import dense_gradient

__all__ = ["OpenAIES"]


@dataclass(frozen=True, kw_only=True)
class OpenAIES(CenterStrategy):
    """OpenAI-ES; arguments as in :class:`~hyperfunc.evolution.center.CenterStrategy`."""

    name: ClassVar[str] = "openai-es"

    shaping: ShapingName | Shaping = "centered_ranks"

    def ask(self, state: CenterState, block: int) -> MemberBlock:
        sigma = self.sigma_at(state)
        members = {}
        for name, spec in state.group.parameters.items():
            draws = self._draws(state, name, spec, block)
            noise = mirrored(draws) if self.antithetic else draws
            members[name] = DenseMembers(spec.to_value(torch.add(state.center[name], noise, alpha=sigma)))
        return members

    def block_gradient(self, state: CenterState, name: str, spec: ParameterSpec, block: int, weights: Tensor) -> Tensor:
        return dense_gradient(self._draws(state, name, spec, block), weights)

    def _draws(self, state: CenterState, name: str, spec: ParameterSpec, block: int) -> Tensor:
        return dense_draws(
            (state.seed, state.generation, name, block),
            self.draw_count(block),
            spec.shape,
            kind=self.noise,
            dtype=spec.master_dtype,
            device=state.center[name].device,
        )
