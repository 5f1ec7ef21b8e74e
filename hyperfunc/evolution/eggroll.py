"""EGGROLL: evolution with low-rank noise (Sarkar et al. 2025, "Evolution Strategies at the Hyperscale").

A member's matrix is the centre plus a perturbation of rank r that is never built:

    Wᵢ = W ± σ/√r · Aᵢ Bᵢᵀ,   Aᵢ [rows, r], Bᵢ [columns, r] with entries of mean 0 and variance 1
    ĝ  = 1 / (P σ √r) · Σ over pairs of (w⁺ - w⁻) Aᵢ Bᵢᵀ  =  1 / (P σ √r) · (diag(w⁺ - w⁻) A)ᵀ B

so a generation costs about one inference, and the update one matrix product over pairs. Entries of ``A Bᵀ / √r`` have
variance 1, so σ means what it means in OpenAI-ES. Fitness is relative: minus the mean of the member's group, over the
deviation of all members. Vectors, scalars, bounded and integer parameters, and matrices whose smaller side is not above
r (where factors would save nothing) get dense noise.

Rademacher factors (±1) take one bit per entry, are the same on every machine, and estimate a linear function's gradient
with less variance than Gaussian ones: ``E‖ĝ‖²/‖G‖²`` is ``mn`` against ``(m + 2)(n + 2)`` at rank 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.center import CenterState, CenterStrategy
from hyperfunc.evolution.sampling import dense_draws, factor_draws, mirrored
from hyperfunc.evolution.space import ParameterSpec
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock
from hyperfunc.population.update import dense_gradient, factored_gradient

__all__ = ["Eggroll"]


@dataclass(frozen=True, kw_only=True)
class Eggroll(CenterStrategy):
    """EGGROLL; further arguments as in :class:`~hyperfunc.evolution.center.CenterStrategy`.

    Args:
        rank: rank of a matrix's noise where its specification names none.
    """

    name: ClassVar[str] = "eggroll"

    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ConfigurationError(f"rank: expected at least 1, got {self.rank}")

    def factor_rank(self, spec: ParameterSpec) -> int | None:
        """The rank of a parameter's noise; ``None`` where it is dense."""
        if len(spec.shape) < 2 or not spec.is_free:
            return None
        rank = spec.noise_rank or self.rank
        return rank if rank < min(_matrix_shape(spec)) else None

    def ask(self, state: CenterState, block: int) -> MemberBlock:
        sigma = self.sigma_at(state)
        members: dict[str, DenseMembers | FactoredMembers] = {}
        for name, spec in state.group.parameters.items():
            center = state.center[name]
            rank = self.factor_rank(spec)
            if rank is None:
                draws = self._dense(state, name, spec, block)
                noise = mirrored(draws) if self.antithetic else draws
                members[name] = DenseMembers(spec.to_value(torch.add(center, noise, alpha=sigma)))
            else:
                left, right = self._factors(state, name, spec, block, rank)
                if self.antithetic:
                    left, right = mirrored(left), torch.cat([right, right])
                members[name] = FactoredMembers(spec.to_value(center), left, right, sigma / math.sqrt(rank))
        return members

    def block_gradient(self, state: CenterState, name: str, spec: ParameterSpec, block: int, weights: Tensor) -> Tensor:
        rank = self.factor_rank(spec)
        if rank is None:
            return dense_gradient(self._dense(state, name, spec, block), weights)
        left, right = self._factors(state, name, spec, block, rank)
        return factored_gradient(left, right, weights / math.sqrt(rank)).reshape(spec.shape)

    def _dense(self, state: CenterState, name: str, spec: ParameterSpec, block: int) -> Tensor:
        return dense_draws(
            (state.seed, state.generation, name, block),
            self.draw_count(block),
            spec.shape,
            kind=self.noise,
            dtype=spec.master_dtype,
            device=state.center[name].device,
        )

    def _factors(
        self, state: CenterState, name: str, spec: ParameterSpec, block: int, rank: int
    ) -> tuple[Tensor, Tensor]:
        """In the parameter's own dtype: what a narrow dtype rounds away must be missing from the update as well."""
        rows, columns = _matrix_shape(spec)
        return factor_draws(
            (state.seed, state.generation, name, block),
            self.draw_count(block),
            rows,
            columns,
            rank,
            kind=self.noise,
            dtype=spec.dtype,
            device=state.center[name].device,
        )


def _matrix_shape(spec: ParameterSpec) -> tuple[int, int]:
    """``[rows, columns]`` as which a tensor of 2 or more dimensions is perturbed; a convolution: ``[out, in·k·k]``."""
    return spec.shape[0], torch.Size(spec.shape[1:]).numel()
