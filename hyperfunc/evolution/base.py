"""The contract of every strategy: pure ``init / ask / tell`` over a population laid out in blocks.

A strategy is an immutable bundle of settings; everything that changes is in the state that goes in and comes out, a
frozen dataclass of tensors, numbers, strings and dicts (see :mod:`hyperfunc.evolution.state` for files). Noise is never
stored: it is drawn again from (seed, generation, parameter, block), both of which the state holds.

Axes: ``P`` members of the population, ``K`` members of one block. Members are numbered block after block. In an
antithetic strategy the first half of a block perturbs with ``+noise``, the second half with ``-noise``, in the same
order; two such members are *twins*.

Knows nothing of programs, examples, or how fitness is measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError, ShapeError
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import MemberBlock

__all__ = ["Strategy"]

DEFAULT_BLOCK_SIZE = 64

StateT = TypeVar("StateT")


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC, Generic[StateT]):
    """One evolution strategy.

    Args:
        population_size: members per generation, at least 2.
        block_size: members per block, the unit of noise, memory and distribution; 0 takes the whole population up to
            64. The last block is smaller where the population is no multiple of it. Other block sizes mean other
            noise, hence other (equally valid) results.
        antithetic: members come in twins ``±noise``; population and block sizes must then be even.

    Raises:
        ConfigurationError: sizes out of range or odd.
    """

    name: ClassVar[str]
    state_types: ClassVar[tuple[type, ...]]
    """The dataclasses that a state of this strategy is made of, beyond those of the space."""

    population_size: int = 64
    block_size: int = 0
    antithetic: bool = False

    def __post_init__(self) -> None:
        for name in ("population_size", "block_size"):
            if not isinstance(getattr(self, name), int):
                raise ConfigurationError(f"{name}: expected a whole number, got {getattr(self, name)!r}")
        if self.population_size < 2:
            raise ConfigurationError(f"population_size: expected at least 2 members, got {self.population_size}")
        if self.block_size < 0:
            raise ConfigurationError(
                f"block_size: expected a positive number or 0 for the default, got {self.block_size}"
            )
        block = min(self.block_size or DEFAULT_BLOCK_SIZE, self.population_size)
        object.__setattr__(self, "block_size", block)
        if self.antithetic and (self.population_size % 2 or block % 2):
            raise ConfigurationError(
                f"antithetic members come in pairs: expected even population_size and block_size, got "
                f"{self.population_size} and {block}; make both even or set antithetic=False"
            )

    # ------------------------------------------------------------------ the algorithm

    @abstractmethod
    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> StateT:
        """The state before the first generation, centred on ``values``. Any integer is a valid seed, 0 included."""

    @abstractmethod
    def ask(self, state: StateT, block: int) -> MemberBlock:
        """The members of one block, in value space: inside their bounds, integers whole, in the parameters' dtypes."""

    @abstractmethod
    def tell(self, state: StateT, fitness: Tensor, *, groups: Tensor | None = None) -> StateT:
        """The state after one generation.

        Args:
            fitness: ``[P]``, float64, higher is better; NaN for a member whose evaluation was dropped. Infinite values
                count as dropped. Where nothing remains, or all that remains is equal, only the generation moves on.
            groups: ``[P]`` integers; members of one group (that saw the same examples) are compared with each other.
        """

    @abstractmethod
    def mean(self, state: StateT) -> dict[str, Tensor]:
        """The current centre, in value space."""

    def best(self, state: StateT) -> dict[str, Tensor]:
        """The value that this strategy recommends; the centre, unless it restarts and remembers a better one."""
        return self.mean(state)

    @abstractmethod
    def step_size(self, state: StateT) -> float:
        """The current σ for reports: the root mean square over all dimensions, in latent units."""

    @abstractmethod
    def generation(self, state: StateT) -> int:
        """How many generations were told."""

    # ------------------------------------------------------------------ the population's layout

    def blocks(self) -> range:
        """The block numbers of one generation, in order."""
        return range(-(-self.population_size // self.block_size))

    def members_of(self, block: int) -> slice:
        """The members of one block as a slice of the population.

        Raises:
            ConfigurationError: there is no such block.
        """
        if block not in self.blocks():
            raise ConfigurationError(f"block: expected 0 to {len(self.blocks()) - 1}, got {block}")
        start = block * self.block_size
        return slice(start, min(start + self.block_size, self.population_size))

    def size_of(self, block: int) -> int:
        """The number of members of one block."""
        members = self.members_of(block)
        return int(members.stop - members.start)

    def twins(self) -> Tensor | None:
        """``[P]`` int64: the index of each member's antithetic twin; ``None`` where members stand alone."""
        if not self.antithetic:
            return None
        indices = torch.arange(self.population_size)
        return torch.cat([indices[self.members_of(b)].roll(self.size_of(b) // 2) for b in self.blocks()])

    def check_fitness(self, fitness: Tensor) -> Tensor:
        """``fitness`` as float64 ``[P]`` on the CPU.

        Raises:
            ShapeError: it has another shape.
        """
        if tuple(fitness.shape) != (self.population_size,):
            raise ShapeError(
                f"fitness: expected shape [{self.population_size}], one per member, got {list(fitness.shape)}"
            )
        return fitness.detach().to(device="cpu", dtype=torch.float64)
