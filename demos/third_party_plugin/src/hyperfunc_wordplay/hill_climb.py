"""The strategy ``hill-climb``: a (1+λ) evolution strategy with the one-fifth success rule (Rechenberg 1973)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import DenseMembers, MemberBlock
from hyperfunc.population.noise import generator_for

__all__ = ["HillClimb", "HillClimbState"]

_WIDEN, _NARROW = math.exp(0.2), math.exp(-0.05)  # balanced where one generation in five succeeds


@dataclass(frozen=True)
class HillClimbState:
    """Everything that changes.

    Attributes:
        center: latent by name; the best member so far.
        sigma: standard deviation of the noise, in latent units.
    """

    group: ParameterGroup
    center: dict[str, Tensor]
    sigma: float
    generation: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class HillClimb(Strategy[HillClimbState]):
    """Member 0 is the centre itself; the others are noise around it, and the best of all is the next centre.

    Measuring the centre again each generation keeps a lucky measurement from being defended for ever.

    Args:
        sigma: standard deviation in the first generation, in latent units.
    """

    name: ClassVar[str] = "hill-climb"
    state_types: ClassVar[tuple[type, ...]] = (HillClimbState,)

    population_size: int = 16
    sigma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0:
            raise ConfigurationError(f"sigma: expected above 0, got {self.sigma}")

    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> HillClimbState:
        return HillClimbState(group, group.to_latent(values), self.sigma, 0, seed)

    def _latents(self, state: HillClimbState, block: int) -> dict[str, Tensor]:
        """``[K, *shape]`` by name, before bounds and rounding."""
        members = self.members_of(block)
        latents = {}
        for name, center in state.center.items():
            generator = generator_for(state.seed, "hill-climb", state.generation, name, block)
            noise = torch.randn((self.size_of(block), *center.shape), generator=generator, dtype=torch.float32)
            if members.start == 0:
                noise[0] = 0
            latents[name] = center + state.sigma * noise.to(center)
        return latents

    def ask(self, state: HillClimbState, block: int) -> MemberBlock:
        values = state.group.to_value(self._latents(state, block))
        return {name: DenseMembers(value) for name, value in values.items()}

    def tell(self, state: HillClimbState, fitness: Tensor, *, groups: Tensor | None = None) -> HillClimbState:
        fitness = self.check_fitness(fitness)
        usable = torch.isfinite(fitness)
        told = replace(state, generation=state.generation + 1)
        if not bool(usable.any()) or bool((fitness[usable] == fitness[usable][0]).all()):
            return told
        winner = int(fitness.masked_fill(~usable, -math.inf).argmax())
        if winner == 0:
            return replace(told, sigma=state.sigma * _NARROW)
        block, position = divmod(winner, self.block_size)
        center = {name: latents[position] for name, latents in self._latents(state, block).items()}
        return replace(told, center=center, sigma=state.sigma * _WIDEN)

    def mean(self, state: HillClimbState) -> dict[str, Tensor]:
        return state.group.to_value(state.center)

    def step_size(self, state: HillClimbState) -> float:
        return state.sigma

    def generation(self, state: HillClimbState) -> int:
        return state.generation
