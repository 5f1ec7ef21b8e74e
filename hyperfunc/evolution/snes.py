"""SNES: separable natural evolution strategy (Schaul, Glasmachers and Schmidhuber 2011, doi:10.1145/2001576.2001692).

A Gaussian with its own deviation in every dimension, moved along the natural gradient of rank utilities u:

    x = m + σ ⊙ s,  s ~ N(0, I)
    m ← m + η_m σ · Σ uᵢ sᵢ
    σ ← σ · exp(η_σ / 2 · Σ uᵢ (sᵢ² - 1))

It adapts σ from whatever it began with, so it is the strategy for scalars and bounded settings. Antithetic members
(optional) share their ``s²``.
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
from hyperfunc.evolution.sampling import dense_draws, mirrored
from hyperfunc.evolution.shaping import average_over_ties, shape_fitness
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec
from hyperfunc.population.members import DenseMembers, MemberBlock
from hyperfunc.population.update import blocked_sum, dense_gradient

__all__ = ["SNES", "SNESState", "utilities"]

LARGEST_SHARE_OF_RANGE = 0.5
SMALLEST_SHARE_OF_LEVEL = 0.3


@dataclass(frozen=True)
class SNESState:
    """Centre and deviations, both in latent units."""

    group: ParameterGroup
    center: dict[str, Tensor]  # name -> [*shape]
    deviation: dict[str, Tensor]  # name -> [*shape], above 0
    seed: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class SNES(Strategy[SNESState]):
    """SNES.

    Args:
        sigma: initial deviation of every dimension, in latent units (of the range, for bounded dimensions).
        center_lr: ``η_m``; the paper's value is 1.
        deviation_lr: ``η_σ``; ``None``: the paper's ``(3 + ln d) / (5 √d)``.
        smallest_sigma: deviations stay above it. A bounded dimension's also stay below half its range, from where on
            it would sample little but its two bounds; an integer dimension's above 0.3 of the step between two whole
            numbers, so that about one member in ten still tries a neighbour.
    """

    name: ClassVar[str] = "snes"
    state_types: ClassVar[tuple[type, ...]] = (SNESState,)

    sigma: float = 0.3
    center_lr: float = 1.0
    deviation_lr: float | None = None
    smallest_sigma: float = 1e-12

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.smallest_sigma <= self.sigma:
            raise ConfigurationError(
                f"sigma: expected above 0 and at least smallest_sigma={self.smallest_sigma}, got {self.sigma}"
            )
        if not self.center_lr > 0:
            raise ConfigurationError(f"center_lr: expected above 0, got {self.center_lr}")
        if self.deviation_lr is not None and not self.deviation_lr >= 0:
            raise ConfigurationError(f"deviation_lr: expected 0 or more, or None, got {self.deviation_lr}")

    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> SNESState:
        center = group.to_latent(values)
        return SNESState(group, center, {n: torch.full_like(c, self.sigma) for n, c in center.items()}, seed, 0)

    def ask(self, state: SNESState, block: int) -> MemberBlock:
        members = {}
        for name, spec in state.group.parameters.items():
            draws = self._draws(state, name, spec, block)
            noise = mirrored(draws) if self.antithetic else draws
            members[name] = DenseMembers(spec.to_value(state.center[name] + state.deviation[name] * noise))
        return members

    def tell(self, state: SNESState, fitness: Tensor, *, groups: Tensor | None = None) -> SNESState:
        shaped = shape_fitness(self.check_fitness(fitness), utilities_of, twins=self.twins(), groups=groups)
        after = replace(state, generation=state.generation + 1)
        if shaped.is_silent:
            return after
        dimensions = max(state.group.size, 1)
        rate = self.deviation_lr
        if rate is None:
            rate = (3 + math.log(dimensions)) / (5 * math.sqrt(dimensions))
        weights = [shaped.weights[self.members_of(block)] for block in self.blocks()]
        center, deviation = {}, {}
        for name, spec in state.group.parameters.items():
            slope, spread = [], []
            for block, u in enumerate(weights):
                s = self._draws(state, name, spec, block)
                slope.append(dense_gradient(s, self._odd(u)))
                spread.append(dense_gradient(s.square() - 1, self._even(u)))
            width = state.deviation[name]
            moved = state.center[name] + self.center_lr * width * blocked_sum(slope)
            center[name] = spec.project(moved)
            deviation[name] = self._limit(spec, width * torch.exp(0.5 * rate * blocked_sum(spread)))
        return replace(after, center=center, deviation=deviation)

    def mean(self, state: SNESState) -> dict[str, Tensor]:
        return state.group.to_value(state.center)

    def step_size(self, state: SNESState) -> float:
        squares = sum(float(d.double().square().sum()) for d in state.deviation.values())
        return math.sqrt(squares / max(state.group.size, 1))

    def generation(self, state: SNESState) -> int:
        return state.generation

    def _limit(self, spec: ParameterSpec, deviation: Tensor) -> Tensor:
        deviation = deviation.clamp(min=self.smallest_sigma)
        level = torch.ones_like(deviation)  # what one whole number is in latent units
        if spec.bounds is not None:
            low, high = (side.to(device=deviation.device, dtype=deviation.dtype) for side in spec.bounds)
            bounded = torch.isfinite(low)
            deviation = torch.where(bounded, deviation.clamp(max=max(LARGEST_SHARE_OF_RANGE, self.sigma)), deviation)
            level = torch.where(bounded, 1 / (high - low), level)
        if spec.integer is not None:
            wide_enough = torch.maximum(deviation, SMALLEST_SHARE_OF_LEVEL * level)
            deviation = torch.where(spec.integer.to(deviation.device), wide_enough, deviation)
        return deviation

    def _odd(self, weights: Tensor) -> Tensor:
        """Per draw, the weight of ``s``: ``u⁺ - u⁻`` for twins."""
        return weights.chunk(2)[0] - weights.chunk(2)[1] if self.antithetic else weights

    def _even(self, weights: Tensor) -> Tensor:
        """Per draw, the weight of ``s²``: ``u⁺ + u⁻`` for twins."""
        return weights.chunk(2)[0] + weights.chunk(2)[1] if self.antithetic else weights

    def _draws(self, state: SNESState, name: str, spec: ParameterSpec, block: int) -> Tensor:
        return dense_draws(
            (state.seed, state.generation, name, block),
            self.size_of(block) // (2 if self.antithetic else 1),
            spec.shape,
            dtype=spec.master_dtype,
            device=state.center[name].device,
        )


def utilities(count: int) -> Tensor:
    """``[count]`` utilities by rank, best first: ``max(0, ln(n/2 + 1) - ln(rank))``, normalized, minus ``1/n``."""
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    positive = (math.log(count / 2 + 1) - ranks.log()).clamp(min=0)
    return positive / positive.sum() - 1 / count


def utilities_of(fitness: Tensor) -> Tensor:
    """Each member's utility, ties averaged."""
    return average_over_ties(fitness, utilities(fitness.shape[0]))
