"""The same examples evaluated several times: means, spread, pass@k and pass^k. Knows nothing of what was run.

A program that samples has no score but a distribution of them. One axis more, ``repeats``, keeps it visible.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.results import ScoreResult, check_lengths

__all__ = ["Repeats", "pass_at_k", "pass_hat_k", "repeat_evaluation"]


def pass_at_k(attempts: int, successes: int, k: int) -> float:
    """Chance that at least one of ``k`` attempts succeeds, estimated without bias from ``attempts`` of them.

    ``1 - C(n - c, k) / C(n, k)``: the share of the k-subsets of all attempts that hold a success (Chen et al. 2021,
    arXiv:2107.03374, §2.1). The plug-in estimate ``1 - (1 - c/n)^k`` is too low.

    Args:
        attempts: n, how many attempts were made.
        successes: c, how many of them succeeded.
        k: from 1 to ``attempts``.
    """
    _check_counts(attempts, successes, k)
    return 1.0 - math.comb(attempts - successes, k) / math.comb(attempts, k)


def pass_hat_k(attempts: int, successes: int, k: int) -> float:
    """Chance that all of ``k`` attempts succeed, ``C(c, k) / C(n, k)`` (Yao et al. 2024, arXiv:2406.12045, §4).

    Arguments as in :func:`pass_at_k`.
    """
    _check_counts(attempts, successes, k)
    return math.comb(successes, k) / math.comb(attempts, k)


@dataclass(frozen=True)
class Repeats:
    """Scores of the same examples, several times.

    Attributes:
        scores: float64 ``[repeats, examples]``; NaN where nothing could be scored.
    """

    scores: Tensor

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or 0 in self.scores.shape:
            raise EvaluationError(
                f"scores must be [repeats, examples], neither of them 0; got {list(self.scores.shape)}"
            )
        object.__setattr__(self, "scores", self.scores.detach().to("cpu", torch.float64))

    @classmethod
    def from_results(cls, results: Sequence[Sequence[ScoreResult]]) -> Repeats:
        """One sequence of results per repeat; ``score=None`` becomes NaN."""
        if not results:
            raise EvaluationError("repeats need at least one evaluation, got none")
        for one in results:
            check_lengths(first_repeat=results[0], another_repeat=one)
        rows = [[math.nan if r.score is None else r.score for r in one] for one in results]
        return cls(torch.tensor(rows, dtype=torch.float64))

    @property
    def example_means(self) -> Tensor:  # [examples]
        """Mean over the repeats that were scored; NaN where none was."""
        return self.scores.nanmean(0)

    @property
    def example_deviations(self) -> Tensor:  # [examples]
        """Standard deviation over the repeats that were scored; NaN where fewer than two were."""
        counts = (~self.scores.isnan()).sum(0)
        squares = (self.scores - self.example_means).square().nansum(0)
        return torch.where(counts > 1, (squares / (counts - 1).clamp(min=1)).sqrt(), math.nan)

    @property
    def mean(self) -> float:
        """Mean over examples of :attr:`example_means`, examples that were never scored left out; NaN if all were."""
        return self.example_means.nanmean().item()

    @property
    def unscored_count(self) -> int:
        """How many of the single scores are missing."""
        return int(self.scores.isnan().sum())

    def pass_at_k(self, k: int, *, threshold: float = 1.0) -> float:
        """Mean over examples of :func:`pass_at_k`; an attempt succeeds with a score of ``threshold`` or more.

        An attempt without a score counts as a failure: a program that breaks has not passed.
        """
        return self._mean_over_examples(pass_at_k, k, threshold)

    def pass_hat_k(self, k: int, *, threshold: float = 1.0) -> float:
        """Mean over examples of :func:`pass_hat_k`; successes as in :meth:`pass_at_k`."""
        return self._mean_over_examples(pass_hat_k, k, threshold)

    def _mean_over_examples(self, estimate: Callable[[int, int, int], float], k: int, threshold: float) -> float:
        attempts, examples = self.scores.shape
        successes = (self.scores >= threshold).sum(0).tolist()
        return math.fsum(estimate(attempts, count, k) for count in successes) / examples


async def repeat_evaluation(evaluate_once: Callable[[int], Awaitable[Sequence[ScoreResult]]], repeats: int) -> Repeats:
    """``evaluate_once(repeat)`` for every repeat, one after the other.

    The number of the repeat is given so that it can be part of seeds and of cache keys: a cache that does not know it
    would answer every repeat with the first reply.

    Args:
        evaluate_once: results of all examples, in the same order every time.
        repeats: ≥ 1.
    """
    if repeats < 1:
        raise EvaluationError(f"repeats must be at least 1, got {repeats}")
    return Repeats.from_results([await evaluate_once(repeat) for repeat in range(repeats)])


def _check_counts(attempts: int, successes: int, k: int) -> None:
    if not 0 <= successes <= attempts or not 1 <= k <= attempts:
        raise EvaluationError(
            f"expected 0 ≤ successes ≤ attempts and 1 ≤ k ≤ attempts, got {attempts=}, {successes=}, {k=}"
        )
