"""Improving tensors by a strategy, a generation at a time. Knows nothing of journals, events or when to end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperfunc.errors import BudgetExceededError, EvaluationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.evolution.state import dump_state, load_state
from hyperfunc.fitness import MemberFitness
from hyperfunc.optimization.members import MemberEvaluation
from hyperfunc.optimization.progress import RunProgress

__all__ = ["AllMembersFailedError", "TensorSearch"]


class AllMembersFailedError(EvaluationError):
    """No member of a generation has a finite fitness."""


class TensorSearch:
    """One strategy at work on one group of tensors.

    Args:
        strategy: what asks and tells.
        group: the tensors.
        evaluation: gives members their fitness.
        progress: the run's numbers, which :meth:`step` and :meth:`select` bring up to date.
        seed: of noise.

    Attributes:
        state: the strategy's; with θ and the generation number it is all there is to the search.
        completed: generations so far.
    """

    def __init__(
        self,
        strategy: Strategy[Any],
        group: ParameterGroup,
        evaluation: MemberEvaluation,
        progress: RunProgress,
        *,
        seed: int,
    ) -> None:
        self.strategy = strategy
        self.evaluation = evaluation
        self.progress = progress
        self.completed = 0
        tensors = progress.best_theta.tensors
        self.state = strategy.init(group, {name: tensors[name] for name in group.names}, seed)

    @property
    def initial(self) -> dict[str, Tensor]:
        """The tensors under search at their values in the run's first θ."""
        tensors = self.progress.best_theta.tensors
        return {name: tensors[name] for name in self.strategy.mean(self.state)}

    async def step(self) -> MemberFitness:
        """One generation: ask, run, score, tell. The next centre is not evaluated; see :meth:`select`.

        Raises:
            BudgetExceededError: the generation does not fit into the budget, or a call inside it did not; the state
                is as before.
            AllMembersFailedError: nobody has a fitness; the state is as before.
        """
        scored = await self.evaluation.generation(self.strategy, self.state, self.completed)
        fitness = scored.members
        self.progress.evaluations += scored.evaluations
        self.progress.note_errors(fitness.errors)
        for error in fitness.errors.values():
            if isinstance(error, BudgetExceededError):
                raise error
        if not bool(torch.isfinite(fitness.values).any()):
            raise self._all_failed()
        self.state = self.strategy.tell(self.state, fitness.values)
        self.completed += 1
        return fitness

    async def select(self, tensors: Mapping[str, Tensor] | None = None) -> float:
        """Evaluate ``tensors`` (default: the strategy's best) on the selection data; adopt them if best so far."""
        if not self.evaluation.runner.execution:
            return math.nan  # how to run is decided by the first population
        chosen = dict(self.strategy.best(self.state) if tensors is None else tensors)
        scored = await self.evaluation.single(chosen)
        value = float(scored.members.values[0])
        self.progress.evaluations += scored.evaluations
        self.progress.note_errors(scored.members.errors)
        self.progress.offer(value, self.evaluation.runner.program.theta.replace(chosen))
        return value

    def dump(self) -> tuple[dict[str, Tensor], Any]:
        """The strategy's state as tensors and JSON values."""
        return dump_state(self.state)

    def load(self, tensors: Mapping[str, Tensor], meta: Any, completed: int) -> None:
        """Take up what :meth:`dump` gave after ``completed`` generations."""
        self.state = load_state(self.strategy, tensors, meta)
        self.completed = completed

    def _all_failed(self) -> AllMembersFailedError:
        first = next(iter(self.progress.errors), None)
        detail = "every fitness is NaN or infinite"
        if first is not None:
            detail = f"the first raised {type(first).__name__}: {first}"
        which = "the first generation" if self.completed == 0 else f"generation {self.completed}"
        error = AllMembersFailedError(f"no member of {which} has a finite fitness; {detail}")
        error.__cause__ = first
        return error
