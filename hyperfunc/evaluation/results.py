"""What a scorer says about one output, and means over many. Knows nothing of scorers, programs or tensors' members."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, SupportsFloat

from hyperfunc.errors import EvaluationError
from hyperfunc.usage import Usage

__all__ = ["ScoreResult", "check_lengths", "mean_score"]


@dataclass(frozen=True)
class ScoreResult:
    """A score and the reasons for it; higher is better.

    The score is kept as it is given: never clamped, so losses are negative numbers and a NaN stays a NaN. ``None``
    means that no score could be given (a judge's unreadable reply, a human who skipped): such results count in no mean.

    Attributes:
        score: the figure to maximize, or ``None``.
        feedback: what to do better, in words; empty when there is nothing to say.
        details: anything a reader may want (the distance, the parts of a composite, …).
        objectives: further named figures, each higher is better (accuracy, brevity, …).
        cost: what scoring used, where it used anything.
    """

    score: float | None
    feedback: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    objectives: Mapping[str, float] = field(default_factory=dict)
    cost: Usage | None = None

    def __init__(
        self,
        score: SupportsFloat | None,
        feedback: str = "",
        details: Mapping[str, Any] | None = None,
        objectives: Mapping[str, float] | None = None,
        cost: Usage | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "score", None if score is None else as_score(score, "score of a ScoreResult"))
        put(self, "feedback", str(feedback))
        put(self, "details", dict(details or {}))
        put(
            self,
            "objectives",
            {name: as_score(value, f"objective {name!r}") for name, value in (objectives or {}).items()},
        )
        put(self, "cost", cost)

    @property
    def scored(self) -> bool:
        """Whether there is a finite score."""
        return self.score is not None and math.isfinite(self.score)

    def replace(self, **changes: Any) -> ScoreResult:
        """A copy with some attributes changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict; ``cost`` as the dict of its fields."""
        return {
            "score": self.score,
            "feedback": self.feedback,
            "details": dict(self.details),
            "objectives": dict(self.objectives),
            "cost": None if self.cost is None else self.cost.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScoreResult:
        """The inverse of :meth:`to_dict`; missing keys take their defaults."""
        cost = data.get("cost")
        return cls(
            data.get("score"),
            data.get("feedback", ""),
            data.get("details"),
            data.get("objectives"),
            None if cost is None else Usage.from_dict(cost),
        )


def as_score(value: Any, what: str) -> float:
    """``value`` as a float: Python and NumPy numbers, booleans, tensors of one element.

    Raises:
        EvaluationError: anything else (strings too, though ``float()`` would read them).
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, SupportsFloat):
        raise EvaluationError(f"{what} must be a number, got {value!r} ({type(value).__qualname__})")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor of several elements
        raise EvaluationError(f"{what} must be one number, got {type(value).__qualname__}: {error}") from error


def mean_score(results: Iterable[ScoreResult], weights: Sequence[float] | None = None) -> float:
    """Weighted mean of the scores that were given.

    Results with ``score=None`` are left out, with their weights. A NaN makes the mean NaN: a failure must be seen.
    NaN as well when nothing was scored, or when all that was scored has weight 0.

    Args:
        results: one per example.
        weights: one per result, ≥ 0; all 1 without them.
    """
    results = list(results)
    if weights is not None:
        check_lengths(results=results, weights=weights)
    pairs = [
        (result.score, 1.0 if weights is None else weights[position])
        for position, result in enumerate(results)
        if result.score is not None and (weights is None or weights[position] != 0)
    ]
    if not pairs:
        return math.nan
    largest = max(weight for _, weight in pairs)  # weights are relative; scaled so, the smallest do not lose digits
    return sum(score * (weight / largest) for score, weight in pairs) / sum(weight / largest for _, weight in pairs)


def check_lengths(**named: Sequence[Any] | None) -> int:
    """The common length of the named sequences; those that are ``None`` are left out.

    Raises:
        EvaluationError: two lengths differ (both are named), or there is nothing in them.
    """
    present = [(name, len(values)) for name, values in named.items() if values is not None]
    first_name, first_length = present[0]
    for name, length in present[1:]:
        if length != first_length:
            raise EvaluationError(
                f"{first_name} and {name} must have one entry per example, got {first_length} {first_name} "
                f"and {length} {name}"
            )
    if first_length == 0:
        raise EvaluationError(f"nothing to score: {' and '.join(name for name, _ in present)} are empty")
    return first_length
