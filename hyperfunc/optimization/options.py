"""What a user says about a run: how long, on what, and what to be told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.history import Generation
from hyperfunc.optimization.schedule import find_schedule

__all__ = ["Callback", "GenerationView", "LoopOptions", "TensorOptimizer"]


@runtime_checkable
class TensorOptimizer(Protocol):
    """What ``system_optimizer=`` may be: it names a number of generations and builds a strategy."""

    steps: int

    def build(self, group: ParameterGroup) -> Strategy[Any]:
        """The strategy for these parameters."""
        ...


@dataclass(frozen=True)
class GenerationView:
    """What a callback sees after a generation: values only."""

    generation: Generation
    center: Mapping[str, Tensor]
    best_fitness: float


Callback = Callable[[GenerationView], bool | Awaitable[bool | None] | None]
"""Called after every generation; a true result ends the run (``finish_reason="callback"``)."""


@dataclass(frozen=True)
class LoopOptions:
    """How long to go on, on what, and what to adopt.

    Attributes:
        minibatch: examples per generation, the same for all members; ``None`` takes all.
        seed: of noise and minibatches.
        validate_every: generations between two evaluations of the centre on the selection data.
        patience: end after this many evaluations of the centre without improvement.
        target: end when the selection fitness reaches this.
        callbacks: called after every generation.
        run: the run's name, for events and the journal.
        checkpoint_every: generations between two records of the whole state, where a journal is kept.
        schedule: how steps are shared out between tensors and texts; see :mod:`hyperfunc.optimization.schedule`.
        pretest: find out first, with at most 5 % of the budget, whether texts could gain anything.
    """

    minibatch: int | None = None
    seed: int = 0
    validate_every: int = 5
    patience: int | None = None
    target: float | None = None
    callbacks: Sequence[Callback] = ()
    run: str = "run"
    checkpoint_every: int = 1
    schedule: str = "joint"
    pretest: bool = True

    def __post_init__(self) -> None:
        for name in ("minibatch", "validate_every", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name}: expected a whole number >= 1, got {value}")
        find_schedule(self.schedule)
