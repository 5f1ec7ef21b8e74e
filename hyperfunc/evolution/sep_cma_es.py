"""sep-CMA-ES: CMA-ES with a diagonal covariance (Ros and Hansen 2008, doi:10.1007/978-3-540-87700-4_30).

Time and memory are linear in the dimension, and the covariance is learned ``(n + 2) / 3`` times faster than the full
one. It scales every dimension but cannot turn: on problems whose dimensions are strongly coupled, full CMA-ES needs
fewer evaluations. Bounds, dropped members and ties as in :mod:`hyperfunc.evolution.cma_es`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.cma_constants import CMAConstants, cma_constants
from hyperfunc.evolution.cma_es import carries_ranks
from hyperfunc.evolution.shaping import average_over_ties, shape_fitness
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.evolution.vectors import members_from, normal_draws, pack, values_at
from hyperfunc.population.members import MemberBlock

__all__ = ["SepCMAES", "SepCMAState"]

SMALLEST_VARIANCE = 1e-300


@dataclass(frozen=True)
class SepCMAState:
    """``N(m, σ² diag(C))`` over latent vectors of ``n`` dimensions; float64."""

    group: ParameterGroup
    devices: dict[str, str]  # name -> where the program wants the parameter
    center: Tensor  # [n] m
    scale: float  # σ
    variances: Tensor  # [n] diagonal of C
    step_path: Tensor  # [n] p_σ
    covariance_path: Tensor  # [n] p_c
    updates: int
    seed: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class SepCMAES(Strategy[SepCMAState]):
    """sep-CMA-ES; arguments as in :class:`~hyperfunc.evolution.cma_es.CMAES`."""

    name: ClassVar[str] = "sep-cma-es"
    state_types: ClassVar[tuple[type, ...]] = (SepCMAState,)

    sigma: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0:
            raise ConfigurationError(f"sigma: expected above 0, got {self.sigma}")
        if self.population_size < 4:
            raise ConfigurationError(
                f"population_size: sep-CMA-ES needs at least 4 members, got {self.population_size}"
            )

    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> SepCMAState:
        center = pack(group, group.to_latent(values))
        devices = {name: str(values[name].device) for name in group.names}
        zeros = torch.zeros_like(center)
        return SepCMAState(group, devices, center, self.sigma, torch.ones_like(center), zeros, zeros, 0, seed, 0)

    def ask(self, state: SepCMAState, block: int) -> MemberBlock:
        return members_from(state.group, self._points(state, block), state.devices)

    def tell(self, state: SepCMAState, fitness: Tensor, *, groups: Tensor | None = None) -> SepCMAState:
        relative = shape_fitness(self.check_fitness(fitness), "raw", twins=self.twins(), groups=groups)
        after = replace(state, generation=state.generation + 1)
        if not carries_ranks(relative):
            return after
        points = torch.cat([self._points(state, block) for block in self.blocks()])[relative.kept]
        constants = cma_constants(points.shape[1], relative.count, separable=True)
        return _adapt(after, points, relative.weights[relative.kept], constants)

    def mean(self, state: SepCMAState) -> dict[str, Tensor]:
        return values_at(state.group, state.center, state.devices)

    def step_size(self, state: SepCMAState) -> float:
        return state.scale * math.sqrt(float(state.variances.mean()))

    def generation(self, state: SepCMAState) -> int:
        return state.generation

    def _points(self, state: SepCMAState, block: int) -> Tensor:
        half = self.size_of(block) // 2 if self.antithetic else self.size_of(block)
        draws = normal_draws(state.group, state.seed, state.generation, block, half)
        draws = torch.cat([draws, -draws]) if self.antithetic else draws
        return state.center + state.scale * draws * state.variances.sqrt()


def _adapt(
    state: SepCMAState,
    points: Tensor,  # [P, n] as sampled, not folded
    fitness: Tensor,  # [P] finite, higher is better, not constant
    c: CMAConstants,
) -> SepCMAState:
    n = points.shape[1]
    parents = average_over_ties(fitness, c.parents)
    y = (points - state.center) / state.scale
    y_mean = parents @ y
    step_path = (1 - c.step_decay) * state.step_path + math.sqrt(
        c.step_decay * (2 - c.step_decay) * c.selection_mass
    ) * y_mean / state.variances.sqrt()
    length = float(step_path.norm())
    settled = length / math.sqrt(1 - (1 - c.step_decay) ** (2 * (state.updates + 1)))
    stalled = settled >= (1.4 + 2 / (n + 1)) * c.expected_norm
    covariance_path = (1 - c.path_decay) * state.covariance_path
    if not stalled:
        covariance_path = covariance_path + math.sqrt(c.path_decay * (2 - c.path_decay) * c.selection_mass) * y_mean
    lost = c.path_decay * (2 - c.path_decay) if stalled else 0.0
    variances = (
        (1 + c.rank_one * lost - c.rank_one - c.rank_mu) * state.variances
        + c.rank_one * covariance_path.square()
        + c.rank_mu * (parents @ y.square())
    )
    growth = min(1.0, c.step_decay / c.step_damping * (length / c.expected_norm - 1))
    return replace(
        state,
        center=state.center + state.scale * y_mean,
        scale=state.scale * math.exp(growth),
        variances=variances.clamp(min=SMALLEST_VARIANCE),
        step_path=step_path,
        covariance_path=covariance_path,
        updates=state.updates + 1,
    )
