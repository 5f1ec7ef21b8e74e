"""PGPE: parameter-exploring policy gradients, in pairs (Sehnke et al. 2010, doi:10.1016/j.neunet.2009.12.004).

A Gaussian with its own deviation in every dimension follows the gradient of expected fitness in centre and deviation:

    x = m ± σ ⊙ ε
    Δm = 1/P · Σ over pairs of (w⁺ - w⁻) · σ ε
    Δσ = 1/P · Σ over pairs of (w⁺ + w⁻) · σ (ε² - 1),    relative change clipped

The centre follows Δm by ClipUp, as Toklu et al. (2020, arXiv:2008.02387) recommend, with their rule of thumb: the
radius of the initial search distribution is 15 times the greatest speed.
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
from hyperfunc.evolution.gradient import GradientAscent, OptimizerState
from hyperfunc.evolution.sampling import dense_draws, mirrored
from hyperfunc.evolution.shaping import Shaping, ShapingName, resolve_shaping, shape_fitness
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec
from hyperfunc.population.members import DenseMembers, MemberBlock
from hyperfunc.population.update import blocked_sum, dense_gradient

__all__ = ["PGPE", "PGPEState"]

RADIUS_PER_SPEED = 15.0


@dataclass(frozen=True)
class PGPEState:
    """Centre and deviations, both in latent units, and the centre's optimizer."""

    group: ParameterGroup
    center: dict[str, Tensor]  # name -> [*shape]
    deviation: dict[str, Tensor]  # name -> [*shape], above 0
    optimizer: OptimizerState
    seed: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class PGPE(Strategy[PGPEState]):
    """PGPE with antithetic pairs.

    Args:
        sigma: initial deviation of every dimension, in latent units.
        ascent: how the centre moves; ``None``: ClipUp with lr = radius / 30, where radius = ``sigma · √dimensions``.
        deviation_lr: learning rate of the deviations.
        max_change: greatest relative change of a deviation in one generation.
        shaping: how fitness becomes weights.
    """

    name: ClassVar[str] = "pgpe"
    state_types: ClassVar[tuple[type, ...]] = (PGPEState,)

    antithetic: bool = True
    sigma: float = 0.1
    ascent: GradientAscent | None = None
    deviation_lr: float = 0.1
    max_change: float = 0.2
    shaping: ShapingName | Shaping = "centered_ranks"

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_shaping(self.shaping)
        if not self.antithetic:
            raise ConfigurationError("antithetic: PGPE samples in pairs; expected True, got False")
        if not self.sigma > 0:
            raise ConfigurationError(f"sigma: expected above 0, got {self.sigma}")
        if not self.deviation_lr >= 0:
            raise ConfigurationError(f"deviation_lr: expected 0 or more, got {self.deviation_lr}")
        if not 0 < self.max_change < 1:
            raise ConfigurationError(f"max_change: expected a number in (0, 1), got {self.max_change}")

    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> PGPEState:
        center = group.to_latent(values)
        deviation = {name: torch.full_like(c, self.sigma) for name, c in center.items()}
        return PGPEState(group, center, deviation, {}, seed, 0)

    def ask(self, state: PGPEState, block: int) -> MemberBlock:
        members = {}
        for name, spec in state.group.parameters.items():
            noise = mirrored(self._draws(state, name, spec, block))
            members[name] = DenseMembers(spec.to_value(state.center[name] + state.deviation[name] * noise))
        return members

    def tell(self, state: PGPEState, fitness: Tensor, *, groups: Tensor | None = None) -> PGPEState:
        shaped = shape_fitness(self.check_fitness(fitness), self.shaping, twins=self.twins(), groups=groups)
        after = replace(state, generation=state.generation + 1)
        if shaped.is_silent:
            return after
        specs = state.group.parameters
        differences, sums = [], []
        # The baseline: a pair's mean counts relative to all pairs', so that offsets of fitness cannot move σ.
        baseline = float(shaped.weights.sum()) / shaped.count
        for block in self.blocks():
            plus, minus = torch.where(
                shaped.kept[self.members_of(block)], shaped.weights[self.members_of(block)], baseline
            ).chunk(2)
            differences.append(plus - minus)
            sums.append(plus + minus - 2 * baseline)
        ascent, center_gradient, deviation = self.center_ascent(state.group), {}, {}
        for name, spec in specs.items():
            width = state.deviation[name]
            slope = blocked_sum(dense_gradient(self._draws(state, name, spec, b), d) for b, d in enumerate(differences))
            spread = blocked_sum(
                dense_gradient(self._draws(state, name, spec, b).square() - 1, s) for b, s in enumerate(sums)
            )
            center_gradient[name] = slope * width / shaped.count
            change = self.deviation_lr * spread / shaped.count  # relative to σ
            deviation[name] = width * (1 + change.clamp(-self.max_change, self.max_change))
        unbounded = [name for name, spec in specs.items() if spec.bounds is None]
        center, optimizer = ascent.step(state.center, center_gradient, state.optimizer, decayed=unbounded)
        center = {name: specs[name].project(c) for name, c in center.items()}
        return replace(after, center=center, deviation=deviation, optimizer=optimizer)

    def center_ascent(self, group: ParameterGroup) -> GradientAscent:
        """The given ascent, or ClipUp by the rule of thumb for this group's size."""
        if self.ascent is not None:
            return self.ascent
        max_speed = self.sigma * math.sqrt(max(group.size, 1)) / RADIUS_PER_SPEED
        return GradientAscent("clipup", lr=max_speed / 2)

    def mean(self, state: PGPEState) -> dict[str, Tensor]:
        return state.group.to_value(state.center)

    def step_size(self, state: PGPEState) -> float:
        squares = sum(float(d.double().square().sum()) for d in state.deviation.values())
        return math.sqrt(squares / max(state.group.size, 1))

    def generation(self, state: PGPEState) -> int:
        return state.generation

    def _draws(self, state: PGPEState, name: str, spec: ParameterSpec, block: int) -> Tensor:
        return dense_draws(
            (state.seed, state.generation, name, block),
            self.size_of(block) // 2,
            spec.shape,
            dtype=spec.master_dtype,
            device=state.center[name].device,
        )
