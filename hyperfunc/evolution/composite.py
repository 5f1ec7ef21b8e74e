"""Several strategies on one population: each optimizes its own parameters, all learn from the same fitness.

Member ``i`` of the whole is member ``i`` of every part, so the parts share population and block size. Where one part is
antithetic its twins bind the whole: a dropped member takes its twin out for every part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.shaping import kept_members
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import MemberBlock, MemberValues

__all__ = ["CompositeState", "CompositeStrategy", "Part"]


@dataclass(frozen=True)
class Part:
    """A strategy and the names of the parameters that it optimizes."""

    strategy: Strategy[Any]
    names: tuple[str, ...]


@dataclass(frozen=True)
class CompositeState:
    """The parts' states, in the order of the parts."""

    parts: tuple[Any, ...]
    generation: int


@dataclass(frozen=True, kw_only=True)
class CompositeStrategy(Strategy[CompositeState]):
    """A strategy made of strategies.

    Args:
        parts: each with its own parameters; together they name every parameter of the group, each once.

    Raises:
        ConfigurationError: no parts, unequal population or block sizes, or a parameter named twice.
    """

    name: ClassVar[str] = "composite"

    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigurationError("parts: expected at least one, got none")
        first = self.parts[0].strategy
        for part in self.parts:
            sizes = (part.strategy.population_size, part.strategy.block_size)
            if sizes != (first.population_size, first.block_size):
                raise ConfigurationError(
                    f"parts share one population: expected population_size={first.population_size} and "
                    f"block_size={first.block_size} as in {first.name!r}, got {sizes} in {part.strategy.name!r}"
                )
        names = [name for part in self.parts for name in part.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigurationError(f"parts: expected each parameter once, got {', '.join(twice)} in several")
        object.__setattr__(self, "population_size", first.population_size)
        object.__setattr__(self, "block_size", first.block_size)
        object.__setattr__(self, "antithetic", any(part.strategy.antithetic for part in self.parts))
        super().__post_init__()

    @property
    def state_types(self) -> tuple[type, ...]:  # type: ignore[override]
        """This strategy's own state, then the parts'."""
        return (CompositeState, *(t for part in self.parts for t in part.strategy.state_types))

    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> CompositeState:
        unnamed = set(group.names) - {name for part in self.parts for name in part.names}
        if unnamed:
            raise ConfigurationError(
                f"parts: expected every parameter in one of them, missing {', '.join(sorted(unnamed))}"
            )
        return CompositeState(
            tuple(part.strategy.init(group.select(part.names), values, seed) for part in self.parts), 0
        )

    def ask(self, state: CompositeState, block: int) -> MemberBlock:
        members: dict[str, MemberValues] = {}
        for part, part_state in zip(self.parts, state.parts, strict=True):
            members.update(part.strategy.ask(part_state, block))
        return members

    def tell(self, state: CompositeState, fitness: Tensor, *, groups: Tensor | None = None) -> CompositeState:
        fitness = self.check_fitness(fitness)
        fitness = torch.where(kept_members(fitness, self.twins()), fitness, torch.nan)
        told = (
            part.strategy.tell(part_state, fitness, groups=groups)
            for part, part_state in zip(self.parts, state.parts, strict=True)
        )
        return replace(state, parts=tuple(told), generation=state.generation + 1)

    def mean(self, state: CompositeState) -> dict[str, Tensor]:
        return {n: v for part, s in zip(self.parts, state.parts, strict=True) for n, v in part.strategy.mean(s).items()}

    def best(self, state: CompositeState) -> dict[str, Tensor]:
        return {n: v for part, s in zip(self.parts, state.parts, strict=True) for n, v in part.strategy.best(s).items()}

    def step_size(self, state: CompositeState) -> float:
        """The root mean square of the parts' step sizes."""
        sizes = [part.strategy.step_size(s) for part, s in zip(self.parts, state.parts, strict=True)]
        return math.sqrt(sum(size * size for size in sizes) / len(sizes))

    def generation(self, state: CompositeState) -> int:
        return state.generation
