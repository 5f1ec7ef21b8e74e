"""Several scorers as one: the weighted mean of their scores."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.concurrency import run_together
from hyperfunc.evaluation.results import ScoreResult, mean_score
from hyperfunc.evaluation.scoring import Scorer, as_tensor_scorer, is_asynchronous, score_batch
from hyperfunc.usage import Usage

__all__ = ["CompositeScorer"]


class CompositeScorer:
    """Weighted mean over the parts that gave a score; a part that gave none (``score=None``) takes its weight along.

    With an asynchronous part, ``score`` returns an awaitable, in which the parts run concurrently. ``details`` holds
    ``individual_scores``, one entry per part in order; ``objectives`` are those of the parts.

    Args:
        scorers: pairs ``(scorer, weight)``, weights ≥ 0 and not all 0.
        combine_feedback: whether the feedback of parts with a score of 1 or more is kept too.

    Raises:
        EvaluationError: no parts, or weights that are negative, not finite, or all 0.
    """

    def __init__(self, scorers: Sequence[tuple[Scorer, float]], combine_feedback: bool = True) -> None:
        parts = [(scorer, float(weight)) for scorer, weight in scorers]
        if not parts:
            raise EvaluationError("CompositeScorer needs at least one (scorer, weight)")
        weights = [weight for _, weight in parts]
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) == 0:
            raise EvaluationError(f"weights of a CompositeScorer must be ≥ 0, finite and not all 0, got {weights}")
        self.scorers = parts
        self.combine_feedback = combine_feedback

    @property
    def asynchronous(self) -> bool:
        """Whether a part is asynchronous."""
        return any(is_asynchronous(scorer) for scorer, _ in self.scorers)

    @property
    def supports_tensors(self) -> bool:
        """Whether all parts can score tensors."""
        return all(as_tensor_scorer(scorer) is not None for scorer, _ in self.scorers)

    def score(
        self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None
    ) -> ScoreResult | Awaitable[ScoreResult]:
        """Score with every part; awaitable when one of them is asynchronous."""
        results = [scorer.score(output, expected, inputs) for scorer, _ in self.scorers]
        ready = [result for result in results if isinstance(result, ScoreResult)]
        return self._combine(ready) if len(ready) == len(results) else self._wait(results)

    def score_batch(
        self,
        outputs: Sequence[Any],
        expected: Sequence[Any],
        inputs: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[ScoreResult]:
        """:meth:`score` for every pair, in order.

        Raises:
            EvaluationError: a part is asynchronous; await ``score_all`` instead.
        """
        for scorer, _ in self.scorers:
            if is_asynchronous(scorer):
                raise EvaluationError(
                    f"{type(scorer).__qualname__}, a part of this CompositeScorer, is asynchronous; "
                    "await score_all(...) instead of score_batch(...)"
                )
        return score_batch(self, outputs, expected, inputs)

    def score_tensor(
        self,
        outputs: Tensor,  # [members, examples, *features]
        expected: Tensor,  # [examples, *features]
    ) -> Tensor:  # [members, examples]
        """Weighted mean of the parts' scores.

        Raises:
            EvaluationError: a part cannot score tensors.
        """
        total: Tensor | None = None
        for scorer, weight in self.scorers:
            tensor_scorer = as_tensor_scorer(scorer)
            if tensor_scorer is None:
                raise EvaluationError(f"{type(scorer).__qualname__}, a part of this CompositeScorer, scores no tensors")
            if weight == 0:
                continue  # as in the mean of single results: 0 × NaN must not spoil the rest
            part = tensor_scorer.score_tensor(outputs, expected) * weight
            total = part if total is None else total + part
        assert total is not None  # the weights are not all 0
        return total / sum(weight for _, weight in self.scorers)

    async def _wait(self, results: list[ScoreResult | Awaitable[ScoreResult]]) -> ScoreResult:
        async def settle(result: ScoreResult | Awaitable[ScoreResult]) -> ScoreResult:
            return await result if inspect.isawaitable(result) else result

        return self._combine(await run_together(map(settle, results)))

    def _combine(self, results: list[ScoreResult]) -> ScoreResult:
        names = [type(scorer).__name__ for scorer, _ in self.scorers]
        weights = [weight for _, weight in self.scorers]
        scored = any(result.score is not None and weight > 0 for result, weight in zip(results, weights, strict=True))
        feedback = [
            f"[{name}] {result.feedback}"
            for name, result in zip(names, results, strict=True)
            if result.feedback and (self.combine_feedback or result.score is None or not result.score >= 1.0)
        ]
        individual = [
            {"scorer": name, "score": result.score, "weight": weight}
            for name, result, weight in zip(names, results, weights, strict=True)
        ]
        costs = [result.cost for result in results if result.cost is not None]
        return ScoreResult(
            mean_score(results, weights) if scored else None,
            " | ".join(feedback),
            {"individual_scores": individual},
            {key: value for result in results for key, value in result.objectives.items()},
            sum(costs, Usage()) if costs else None,
        )
