"""IPOP-CMA-ES: restart with twice the population whenever CMA-ES has converged (Auger and Hansen 2005, CEC).

Small populations go down the nearest valley quickly; large ones see past ripples. Doubling finds the size that a rugged
problem needs, at the price of a factor of about two.

What the program evaluates per generation stays ``population_size`` members, so that memory and kernels keep their
shape: a population of 8 times that many is asked for and told in 8 generations, and then learned from at once.

The best point ever evaluated is remembered, since a restart leaves it: :meth:`IPOPCMAES.best`. On noisy fitness (other
examples every generation) the luckiest point wins; prefer plain CMA-ES there.
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
from hyperfunc.evolution.cma_constants import cma_constants
from hyperfunc.evolution.cma_es import (
    Distribution,
    carries_ranks,
    initial_distribution,
    sample,
    update,
)
from hyperfunc.evolution.shaping import best_index, kept_members, shape_fitness
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.evolution.vectors import bounded_dimensions, members_from, normal_draws, pack, values_at
from hyperfunc.population.members import MemberBlock
from hyperfunc.population.noise import draw, generator_for

__all__ = ["IPOPCMAES", "IPOPState"]


@dataclass(frozen=True)
class IPOPState:
    """One CMA-ES run, the fitness gathered for its next update, and what outlives restarts."""

    group: ParameterGroup
    devices: dict[str, str]  # name -> where the program wants the parameter
    distribution: Distribution
    start: Tensor  # [n] latent where the first run began
    restarts: int
    multiple: int  # the population is `multiple * population_size`
    pending: Tensor  # [told * population_size] fitness of the current population, NaN where dropped
    history: list[float]  # best fitness of the latest updates of this run, oldest first
    best_point: Tensor  # [n] latent
    best_fitness: float  # -inf before anything finite was told
    seed: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class IPOPCMAES(Strategy[IPOPState]):
    """IPOP-CMA-ES.

    Args:
        population_size: members of the first run; doubled in effect at each restart.
        sigma: initial deviation of every run, in latent units.
        growth: factor on the population at each restart.
        fitness_tolerance: a run has converged when its best and current fitness vary by less than this.
        width_tolerance: or when every deviation is below this share of ``sigma``.
    """

    name: ClassVar[str] = "ipop-cma-es"
    state_types: ClassVar[tuple[type, ...]] = (IPOPState, Distribution)

    sigma: float = 0.3
    growth: int = 2
    fitness_tolerance: float = 1e-11
    width_tolerance: float = 1e-11

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0:
            raise ConfigurationError(f"sigma: expected above 0, got {self.sigma}")
        if self.population_size < 4:
            raise ConfigurationError(f"population_size: CMA-ES needs at least 4 members, got {self.population_size}")
        if self.growth < 1:
            raise ConfigurationError(f"growth: expected at least 1, got {self.growth}")

    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> IPOPState:
        start = pack(group, group.to_latent(values))
        return IPOPState(
            group=group,
            devices={name: str(values[name].device) for name in group.names},
            distribution=initial_distribution(start, self.sigma),
            start=start,
            restarts=0,
            multiple=1,
            pending=torch.empty(0, dtype=torch.float64),
            history=[],
            best_point=start,
            best_fitness=-math.inf,
            seed=seed,
            generation=0,
        )

    def ask(self, state: IPOPState, block: int) -> MemberBlock:
        return members_from(state.group, self._points(state, state.generation, block), state.devices)

    def tell(self, state: IPOPState, fitness: Tensor, *, groups: Tensor | None = None) -> IPOPState:
        fitness = self.check_fitness(fitness)
        state = self._remember(state, fitness)
        kept = kept_members(fitness, self.twins())
        # Groups are compared within the generation that they belong to, before generations are joined.
        comparable = (
            shape_fitness(fitness, "raw", twins=self.twins(), groups=groups).weights if groups is not None else fitness
        )
        pending = torch.cat([state.pending, torch.where(kept, comparable, torch.nan)])
        after = replace(state, generation=state.generation + 1, pending=pending)
        if pending.shape[0] < state.multiple * self.population_size:
            return after
        after = replace(after, pending=torch.empty(0, dtype=torch.float64))
        whole = shape_fitness(pending, "raw")
        if not carries_ranks(whole):
            return after
        first = state.generation + 1 - state.multiple
        points = torch.cat(
            [self._points(state, g, b) for g in range(first, state.generation + 1) for b in self.blocks()]
        )[whole.kept]
        values = whole.weights[whole.kept]
        distribution = update(state.distribution, points, values, cma_constants(points.shape[1], whole.count))
        history = [*state.history, float(values.max())][-self._history_length(state) :]
        after = replace(after, distribution=distribution, history=history)
        return self._restart(after) if self._has_converged(after, values) else after

    def mean(self, state: IPOPState) -> dict[str, Tensor]:
        return values_at(state.group, state.distribution.mean, state.devices)

    def best(self, state: IPOPState) -> dict[str, Tensor]:
        return values_at(state.group, state.best_point, state.devices)

    def step_size(self, state: IPOPState) -> float:
        d = state.distribution
        return d.sigma * math.sqrt(float(d.covariance.diagonal().mean()))

    def generation(self, state: IPOPState) -> int:
        return state.generation

    def _points(self, state: IPOPState, generation: int, block: int) -> Tensor:
        half = self.size_of(block) // 2 if self.antithetic else self.size_of(block)
        draws = normal_draws(state.group, state.seed, generation, block, half)
        draws = torch.cat([draws, -draws]) if self.antithetic else draws
        return sample(state.distribution, draws)

    def _remember(self, state: IPOPState, fitness: Tensor) -> IPOPState:
        index = best_index(fitness)
        if index is None or float(fitness[index]) <= state.best_fitness:
            return state
        block = index // self.block_size
        point = self._points(state, state.generation, block)[index - self.members_of(block).start]
        return replace(state, best_point=point, best_fitness=float(fitness[index]))

    def _history_length(self, state: IPOPState) -> int:
        return 10 + math.ceil(30 * state.start.shape[0] / (state.multiple * self.population_size))

    def _has_converged(self, state: IPOPState, values: Tensor) -> bool:
        """The stopping criteria of Auger and Hansen (2005), section II."""
        d = state.distribution
        deviations = d.sigma * d.covariance.diagonal().sqrt()
        full = len(state.history) >= self._history_length(state)
        spread = (
            max(*state.history, float(values.max())) - min(*state.history, float(values.min())) if full else math.inf
        )
        flat = full and (max(state.history) == min(state.history) or spread < self.fitness_tolerance)
        narrow = bool(
            (torch.maximum(deviations, (d.sigma * d.covariance_path).abs()) < self.width_tolerance * self.sigma).all()
        )
        ill = float(d.scales.max() / d.scales.min()) > 1e7  # condition number of C above 1e14
        axis = d.updates % d.mean.shape[0]
        no_effect = bool((d.mean == d.mean + 0.1 * d.sigma * d.scales[axis] * d.basis[:, axis]).all()) or bool(
            (d.mean == d.mean + 0.2 * deviations).any()
        )
        diverged = float(deviations.max()) > 1e4 * self.sigma * max(1.0, float(state.start.abs().max()))
        return flat or narrow or ill or no_effect or diverged

    def _restart(self, state: IPOPState) -> IPOPState:
        """A fresh distribution: anywhere inside finite bounds, around the start in open dimensions."""
        restarts = state.restarts + 1
        n = state.start.shape[0]
        generator = generator_for(state.seed, "restart", restarts)
        around = state.start + self.sigma * draw((n,), generator, dtype=torch.float64)
        inside = torch.rand(n, generator=generator, dtype=torch.float64)
        bounded = bounded_dimensions(state.group)
        return replace(
            state,
            distribution=initial_distribution(torch.where(bounded, inside, around), self.sigma),
            restarts=restarts,
            multiple=state.multiple * self.growth,
            history=[],
        )
