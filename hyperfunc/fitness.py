"""From a block's outcome to one fitness per member: by a metric, a scorer of values, or a scorer of whole tensors.

A member one of whose runs raised has no fitness (NaN): it is dropped, and counted. Knows nothing of strategies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hyperfunc.errors import BudgetError, EvaluationError
from hyperfunc.evaluation.example import Example
from hyperfunc.evaluation.metrics import metric_score
from hyperfunc.evaluation.results import ScoreResult, mean_score
from hyperfunc.evaluation.scoring import (
    Scorer,
    as_tensor_scorer,
    is_asynchronous,
    score_all,
    score_batch,
    score_members,
)
from hyperfunc.evaluation.tensors import stack_values
from hyperfunc.plugins import current_plugins
from hyperfunc.population.outcomes import BlockOutcome

__all__ = ["Fitness", "MemberFitness", "Metric"]

Metric = Callable[[list[Any], list[Any]], float] | Scorer | str
"""A metric ``(predictions, expected) -> float``, a scorer, or a registered scorer's name; higher is better."""


@dataclass
class MemberFitness:
    """Fitness of a block's members.

    Attributes:
        values: float64 ``[P]``; NaN for a dropped member.
        errors: what a run or the metric raised, by member (the first of each).
        scores: float64 ``[P, E]`` where there is one score per example.
        outcome: kept only while an asynchronous scorer has not scored it.
    """

    values: Tensor
    errors: dict[int, Exception] = field(default_factory=dict)
    scores: Tensor | None = None
    outcome: BlockOutcome | None = None


class Fitness:
    """Scores blocks of members on one list of examples.

    Args:
        metric: how outputs are judged.
        examples: the examples that were run.

    Raises:
        EvaluationError: no examples, or the metric is neither callable nor a scorer.
    """

    def __init__(self, metric: Metric, examples: Sequence[Example]) -> None:
        if not examples:
            raise EvaluationError("nothing to evaluate: expected at least one example, got none")
        if isinstance(metric, type):
            raise EvaluationError(f"a metric is a scorer, not its class: write {metric.__name__}()")
        if isinstance(metric, str):
            metric = current_plugins().make("scorers", metric)
        self._scorer: Scorer | None = metric if hasattr(metric, "score") else None
        if self._scorer is None and not callable(metric):
            raise EvaluationError(
                f"a metric is a function (predictions, expected) -> float or a scorer with .score(), got {metric!r}"
            )
        self._metric: Any = metric
        self.examples = examples
        self._expected = [example.expected for example in examples]
        weights = [float(getattr(example, "weight", 1.0)) for example in examples]
        self._weights = weights if any(w != 1.0 for w in weights) else None
        self._tensor_scorer = as_tensor_scorer(self._scorer) if self._scorer is not None else None
        self._stacked = stack_values(self._expected) if self._tensor_scorer is not None else None

    @property
    def is_async(self) -> bool:
        """Whether scoring has to happen on the event loop."""
        return self._scorer is not None and is_asynchronous(self._scorer)

    def reduce(self, block: int, outcome: BlockOutcome) -> MemberFitness:
        """Score one block; an asynchronous scorer's turn comes in :meth:`finish`."""
        if self.is_async:
            return MemberFitness(torch.full((outcome.members,), math.nan, dtype=torch.float64), outcome=outcome)
        stacked = outcome.stacked
        if self._tensor_scorer is not None and self._stacked is not None and stacked is not None:
            scores = score_members(self._tensor_scorer, stacked, self._stacked).to("cpu", torch.float64)
            return MemberFitness(self._mean(scores), scores=scores)
        return self._member_by_member(outcome)

    def _mean(self, scores: Tensor) -> Tensor:
        if self._weights is None:
            return scores.mean(1)
        weights = torch.tensor(self._weights, dtype=torch.float64)
        counted = weights > 0  # what has no weight may be NaN
        return (scores[:, counted] * weights[counted]).sum(1) / weights.sum()

    def _member_by_member(self, outcome: BlockOutcome) -> MemberFitness:
        fitness = MemberFitness(torch.full((outcome.members,), math.nan, dtype=torch.float64))
        rows: list[Tensor] = []
        first_errors = _first_errors(outcome)
        metric_errors: dict[int, Exception] = {}
        for member in range(outcome.members):
            if member in first_errors:
                fitness.errors[member] = first_errors[member]
                rows.append(torch.full((outcome.examples,), math.nan, dtype=torch.float64))
                continue
            try:
                outputs = outcome.outputs_of(member)
                if self._scorer is None:
                    fitness.values[member] = metric_score(self._metric, outputs, self._expected)
                else:
                    results = score_batch(self._scorer, outputs, self._expected, [e.inputs for e in self.examples])
                    fitness.values[member] = mean_score(results, self._weights)
                    rows.append(_as_row(results))
            except BudgetError:
                raise
            except Exception as error:
                fitness.errors[member] = metric_errors[member] = error
                rows.append(torch.full((outcome.examples,), math.nan, dtype=torch.float64))
        if metric_errors and len(fitness.errors) == outcome.members:
            first = next(iter(metric_errors.values()))
            if isinstance(first, EvaluationError):
                raise first
            raise EvaluationError(
                f"the metric failed for every member it was asked for, first with {type(first).__name__}: {first}"
            ) from first
        if self._scorer is not None:
            fitness.scores = torch.stack(rows)
        return fitness

    async def finish(self, fitness: MemberFitness) -> MemberFitness:
        """Score with an asynchronous scorer what :meth:`reduce` left."""
        outcome = fitness.outcome
        if outcome is None or self._scorer is None:
            return fitness
        first_errors = _first_errors(outcome)
        rows = []
        for member in range(outcome.members):
            if member in first_errors:
                fitness.errors[member] = first_errors[member]
                rows.append(torch.full((outcome.examples,), math.nan, dtype=torch.float64))
                continue
            results = await score_all(
                self._scorer, outcome.outputs_of(member), self._expected, [e.inputs for e in self.examples]
            )
            fitness.values[member] = mean_score(results, self._weights)
            rows.append(_as_row(results))
        fitness.scores = torch.stack(rows)
        fitness.outcome = None
        return fitness


def _first_errors(outcome: BlockOutcome) -> dict[int, Exception]:
    first: dict[int, Exception] = {}
    for (member, example), error in sorted(outcome.errors.items(), key=lambda item: item[0]):
        if member not in first:
            error.add_note(f"raised by member {member} on example {example}")
            first[member] = error
    return first


def _as_row(results: Sequence[ScoreResult]) -> Tensor:
    return torch.tensor([math.nan if r.score is None else r.score for r in results], dtype=torch.float64)
