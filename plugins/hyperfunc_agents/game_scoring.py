"""Scoring episodes by their return, and what many returns say together. Knows results only."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.statistics import Interval, student_t_interval
from hyperfunc_agents.game_results import EpisodeResult

__all__ = ["EpisodeReturn", "ReturnSummary", "summarize_returns"]


@dataclass(frozen=True)
class EpisodeReturn:
    """The return of an episode; its feedback tells the episode in words.

    Args:
        feedback_steps: most steps that the feedback tells, where a trajectory was recorded.
    """

    feedback_steps: int = 12

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Raises EvaluationError: the output is no :class:`EpisodeResult`."""
        result = _episode(output)
        return ScoreResult(result.total_reward, result.describe(self.feedback_steps), {"steps": result.steps})

    def score_batch(
        self, outputs: Sequence[Any], expected: Sequence[Any], inputs: Sequence[Mapping[str, Any]] | None = None
    ) -> list[ScoreResult]:
        """As :meth:`score`; the words are left out where there is no trajectory to tell."""
        results = []
        for output in outputs:
            episode = _episode(output)
            told = episode.describe(self.feedback_steps) if episode.trajectory else ""
            results.append(ScoreResult(episode.total_reward, told))
        return results


@dataclass(frozen=True)
class ReturnSummary:
    """Returns of several episodes.

    Attributes:
        mean: their mean.
        interval: Student's confidence interval of the mean; infinite for a single episode.
        episodes: how many.
        steps: actions in all.
        done, truncated: how many ended by themselves, and by a limit.
    """

    mean: float
    interval: Interval
    episodes: int
    steps: int
    done: int
    truncated: int


def summarize_returns(results: Sequence[EpisodeResult], *, confidence: float = 0.95) -> ReturnSummary:
    """The mean return with its confidence interval.

    Raises:
        EvaluationError: no results, or something else among them.
    """
    found = [_episode(result) for result in results]
    if not found:
        raise EvaluationError("summarize_returns: expected at least one episode, got none")
    returns = [result.total_reward for result in found]
    interval = (
        student_t_interval(returns, confidence=confidence)
        if len(returns) > 1
        else Interval(float("-inf"), float("inf"))
    )
    return ReturnSummary(
        statistics.fmean(returns),
        interval,
        len(found),
        sum(result.steps for result in found),
        sum(result.done for result in found),
        sum(result.truncated for result in found),
    )


def _episode(output: Any) -> EpisodeResult:
    if not isinstance(output, EpisodeResult):
        raise EvaluationError(
            f"expected an EpisodeResult, got {type(output).__name__}; set agent_type = 'game' on the system"
        )
    return output
