"""Running a system under candidate texts, one score and the feedback per example. Knows nothing of proposals.

Every run has its own θ as an argument; the live system is not touched. Results come in the order of the examples, so
that they are the same at any concurrency.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperfunc.errors import ConfigurationError, EvaluationError
from hyperfunc.evaluation.concurrency import run_together
from hyperfunc.evaluation.example import Example
from hyperfunc.evaluation.metrics import metric_score
from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scoring import Scorer, score_all
from hyperfunc.plugins import current_plugins
from hyperfunc.scope import current_scope, enter_scope
from hyperfunc.tape import Tape
from hyperfunc.usage import Usage
from hyperfunc_llm.errors import ContentError

__all__ = ["FeedbackFunction", "Trial", "TrialRunner", "example_keys"]

FeedbackFunction = Callable[[dict[str, Any], Any, Any], Any]
"""``(inputs, output, expected)`` to a text, or to several named ones (columns); plain or async."""


@dataclass(frozen=True)
class Trial:
    """One run of one example under one θ.

    Attributes:
        score: higher is better.
        feedback: texts by column.
        failure: why there is no output, if the run failed on a reply that cannot be used.
        tape: what was called; empty after a failure.
    """

    example: Example
    output: Any
    score: float
    feedback: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""
    tape: Tape = field(default_factory=Tape)


def example_keys(examples: Sequence[Example]) -> list[str]:
    """One name per example: its id, numbered where the same example comes again."""
    seen: dict[str, int] = {}
    names = []
    for example in examples:
        count = seen[example.id] = seen.get(example.id, 0) + 1
        names.append(example.id if count == 1 else f"{example.id}#{count}")
    return names


class TrialRunner:
    """Runs and scores examples under texts.

    A plain metric is asked one example at a time; it should be a mean over examples, as accuracy is.

    Args:
        system: has ``execute(inputs, record=True, theta=…)``.
        metric: ``(predictions, expected) -> float``, a scorer, or a registered scorer's name.
        feedback_fn: further feedback.
        concurrency: most runs at a time.
        failure_score: score of a run that failed on an unusable reply; every other error ends the optimization.
        seed: of the runs' scopes.
    """

    def __init__(
        self,
        system: Any,
        metric: Any,
        feedback_fn: FeedbackFunction | None = None,
        *,
        concurrency: int = 16,
        failure_score: float = 0.0,
        seed: int = 0,
    ) -> None:
        if concurrency < 1:
            raise ConfigurationError(f"concurrency must be at least 1, got {concurrency}")
        if isinstance(metric, str):
            metric = current_plugins().make("scorers", metric)
        if not isinstance(metric, Scorer) and not callable(metric):
            raise EvaluationError(
                f"a metric is a function (predictions, expected) -> float or a scorer with .score(), got {metric!r}"
            )
        self.system = system
        self._metric = metric
        self._feedback_fn = feedback_fn
        self.concurrency = concurrency
        self.failure_score = failure_score
        self.seed = seed
        self.evaluations = 0

    async def run(self, texts: Mapping[str, Any], examples: Sequence[Example]) -> list[Trial]:
        """One trial per example, in order.

        Evaluations are reserved together and in advance, so that it does not depend on timing whether they fit.

        Raises:
            BudgetExceededError: they do not fit into the budget; nothing was run.
        """
        budget = current_scope().budget
        usage = Usage(evaluations=len(examples))
        if budget is not None:
            budget.reserve(usage).settle(usage)
        self.evaluations += len(examples)
        gate = asyncio.Semaphore(self.concurrency)

        async def one(position: int, example: Example) -> Trial:
            async with gate:
                with enter_scope(seed=self.seed, example=position, evaluating=True):
                    return await self._trial(texts, example)

        return await run_together([one(position, example) for position, example in enumerate(examples)])

    async def _trial(self, texts: Mapping[str, Any], example: Example) -> Trial:
        try:
            output, tape = await self.system.execute(example.inputs, record=True, theta=texts)
        except ContentError as error:
            said = f"the run failed: {error}"
            return Trial(example, None, self.failure_score, {"failure": said}, said)
        score, columns = await self.judge(output, example)
        if self._feedback_fn is not None:
            given = self._feedback_fn(example.inputs, output, example.expected)
            given = await given if inspect.isawaitable(given) else given
            extra = {"feedback": given} if isinstance(given, str) else given or {}
            columns = {**columns, **{name: str(text) for name, text in extra.items()}}
        return Trial(example, output, score, {n: t for n, t in columns.items() if t.strip()}, tape=tape)

    async def judge(self, output: Any, example: Example) -> tuple[float, dict[str, str]]:
        """One output's score, and what the scorer says about it by column.

        Raises:
            EvaluationError: no finite score.
        """
        if not isinstance(self._metric, Scorer):
            score = metric_score(self._metric, [output], [example.expected])
            columns: dict[str, str] = {}
        else:
            (result,) = await score_all(self._metric, [output], [example.expected], [example.inputs])
            score, columns = _score_of(result), {"scorer": result.feedback}
        if not math.isfinite(score):
            raise EvaluationError(f"the metric gave {score} for an example; texts cannot be compared by it")
        return score, columns


def _score_of(result: ScoreResult) -> float:
    if result.score is None:
        raise EvaluationError(f"the scorer gave no score for an example ({result.feedback or 'no reason given'})")
    return result.score
