"""The keyword arguments of ``optimize``, in one piece. Knows nothing of what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyperfunc.budget import Budget
from hyperfunc.errors import ConfigurationError
from hyperfunc.journal import Journal
from hyperfunc.optimization.options import Callback, LoopOptions
from hyperfunc.scheduling.economy import NO_ECONOMY, Economy
from hyperfunc.scope import current_scope
from hyperfunc.settings import Settings

__all__ = ["OptimizeArguments"]


@dataclass(frozen=True)
class OptimizeArguments:
    """The keyword arguments of ``optimize``; explained at :meth:`hyperfunc.system.HyperSystem.optimize`."""

    only: str | Sequence[str] | None = None
    freeze: str | Sequence[str] | None = None
    minibatch: int | None = None
    seed: int = 0
    steps: int | None = None
    validate_every: int | None = None
    patience: int | None = None
    target: float | None = None
    callbacks: Sequence[Callback] = ()
    settings: Settings | None = None
    run: str | None = None
    resume: bool = False
    journal: Journal | str | Path | None = None
    checkpoint_every: int = 1
    budget: Budget | None = None
    economy: Economy = NO_ECONOMY
    schedule: str = "joint"
    pretest: bool = True

    def __post_init__(self) -> None:
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise ConfigurationError(f"budget: expected a Budget, such as Budget(usd=2.0), got {self.budget!r}")
        if not isinstance(self.economy, Economy):
            raise ConfigurationError(
                f"economy: expected an Economy, such as Economy(minibatch=AdaptiveMinibatch()), got {self.economy!r}"
            )
        if self.steps is not None and self.steps < 0:
            raise ConfigurationError(f"steps: expected 0 or more generations, got {self.steps}")

    def in_scope(self) -> OptimizeArguments:
        """With the budget of the scope around, where none is given."""
        around = current_scope().budget
        return replace(self, budget=around) if self.budget is None and isinstance(around, Budget) else self

    @property
    def is_durable(self) -> bool:
        """Whether the run is kept in a journal."""
        return self.run is not None or self.journal is not None or self.resume

    def loop_options(self, *, has_validation: bool, seed: int | None) -> LoopOptions:
        return LoopOptions(
            minibatch=self.minibatch,
            seed=self.seed if seed is None else seed,
            validate_every=self.validate_every or (1 if has_validation else 5),
            patience=self.patience,
            target=self.target,
            callbacks=self.callbacks,
            run=self.run or "run",
            checkpoint_every=self.checkpoint_every,
            schedule=self.schedule,
            economy=self.economy,
            pretest=self.pretest,
        )
