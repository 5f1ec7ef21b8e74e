"""Is b better than a, or is it luck? Paired tests and confidence intervals. Knows numbers only.

Two candidates are compared on the *same* examples, so that what makes an example hard cancels out; all figures are
about the differences ``b - a``. Whatever is drawn is drawn from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.results import check_lengths

__all__ = [
    "Alternative",
    "Comparison",
    "Interval",
    "bootstrap_interval",
    "compare",
    "permutation_test",
    "student_t_interval",
    "student_t_quantile",
]

Alternative = Literal["two-sided", "greater", "less"]
_LARGEST_EXACT = 14  # 2¹⁴ sign patterns: 16 384, fewer than would be drawn otherwise
_CHUNK = 4_000_000  # random numbers held at a time


class Interval(NamedTuple):
    """A confidence interval of a mean."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """``b`` against ``a`` on the examples where both have a score.

    Attributes:
        mean_a: weighted mean of a.
        mean_b: weighted mean of b.
        difference: ``mean_b - mean_a``.
        interval: of the difference, at ``confidence``.
        confidence: coverage of the interval, in (0, 1).
        p_value: of the paired permutation test, by ``alternative``; 1 where all pairs are equal.
        alternative: ``"greater"`` asks whether b is better.
        wins: examples on which b is higher.
        losses: examples on which b is lower.
        ties: examples on which they are equal.
        dropped: examples left out, because a or b has no finite score there.
    """

    mean_a: float
    mean_b: float
    difference: float
    interval: Interval
    confidence: float
    p_value: float
    alternative: Alternative
    wins: int
    losses: int
    ties: int
    dropped: int

    @property
    def pairs(self) -> int:
        """How many examples were compared."""
        return self.wins + self.losses + self.ties

    @property
    def significant(self) -> bool:
        """Whether ``p_value`` is at most ``1 - confidence``."""
        return self.p_value <= 1 - self.confidence

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return {**asdict(self), "interval": list(self.interval)}

    def __str__(self) -> str:
        return (
            f"{self.mean_a:.4g} -> {self.mean_b:.4g}: {self.difference:+.4g} "
            f"[{self.interval.low:+.4g}, {self.interval.high:+.4g}] at {self.confidence:.0%}, p={self.p_value:.3g}, "
            f"{self.wins} wins, {self.losses} losses, {self.ties} ties"
            + (f", {self.dropped} dropped" if self.dropped else "")
        )


def compare(
    a: Sequence[float | None],
    b: Sequence[float | None],
    *,
    weights: Sequence[float] | None = None,
    confidence: float = 0.95,
    alternative: Alternative = "two-sided",
    interval: Literal["bootstrap", "t"] = "bootstrap",
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two candidates' scores on the same examples.

    Pairs in which either side is ``None``, NaN or infinite are left out and counted as ``dropped``; who drops the hard
    examples looks better than it is, so look at that count.

    Args:
        a: scores of the baseline, one per example.
        b: scores of the candidate, in the same order.
        weights: of the examples, ≥ 0; all 1 without them. The ``"t"`` interval knows no weights.
        confidence: of the interval, in (0, 1).
        alternative: of the test.
        interval: percentile bootstrap, or Student's t (better below some 15 pairs, where differences are near normal).
        resamples: draws of the bootstrap, and of the test where it is not exact.
        seed: any integer.

    Raises:
        EvaluationError: lengths differ, or no pair is left, or an argument is out of its range.
    """
    count = check_lengths(a=a, b=b, weights=weights)
    if interval == "t" and weights is not None:
        raise EvaluationError('interval="t" cannot weigh examples; use interval="bootstrap"')
    array_a, array_b = _as_array(a), _as_array(b)
    weight_array = np.ones(count) if weights is None else _as_array(weights)
    if not (np.isfinite(weight_array) & (weight_array >= 0)).all():
        raise EvaluationError("weights must be finite and ≥ 0")
    kept = np.isfinite(array_a) & np.isfinite(array_b)
    used = kept & (weight_array > 0)
    if not used.any():
        raise EvaluationError(f"none of {count} examples has a finite score on both sides (and a weight above 0)")
    array_a, array_b, weight_array = array_a[used], array_b[used], weight_array[used]
    differences = array_b - array_a
    shares = weight_array / weight_array.sum()
    return Comparison(
        mean_a=float(shares @ array_a),
        mean_b=float(shares @ array_b),
        difference=float(shares @ differences),
        interval=(
            student_t_interval(differences.tolist(), confidence=confidence)
            if interval == "t"
            else bootstrap_interval(
                differences.tolist(),
                weights=weight_array.tolist(),
                confidence=confidence,
                resamples=resamples,
                seed=seed,
            )
        ),
        confidence=confidence,
        p_value=permutation_test(
            differences.tolist(),
            weights=weight_array.tolist(),
            alternative=alternative,
            resamples=resamples,
            seed=seed,
        ),
        alternative=alternative,
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
        dropped=int(count - kept.sum()),
    )


def permutation_test(
    differences: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """p-value of the paired permutation test: were a and b alike, every difference might as well have the other sign.

    Up to 14 differences that are not 0 all sign patterns are gone through. Beyond, ``resamples`` patterns are drawn and
    the observed one is counted among them, ``(hits + 1) / (resamples + 1)``, so that p is never 0 and the test keeps
    its level (Phipson & Smyth 2010).

    Args:
        differences: ``b - a`` per example, finite.
        weights: of the examples, ≥ 0.
        alternative: ``"greater"``: b is better than a.
        resamples: ≥ 1.
        seed: any integer.
    """
    _check_resamples(resamples)
    if alternative not in get_args(Alternative):
        raise EvaluationError(f"alternative must be one of {get_args(Alternative)}, got {alternative!r}")
    terms = _finite("differences", differences)
    if weights is not None:
        check_lengths(differences=differences, weights=weights)
        terms = terms * np.asarray(weights, dtype=np.float64)
    terms = terms[terms != 0]
    if terms.size == 0:
        return 1.0
    observed = terms.sum()
    # Equal sums must not differ by their order of summation.
    tolerance = 1e-12 * np.abs(terms).sum()
    exact = terms.size <= _LARGEST_EXACT
    total = 2**terms.size if exact else resamples
    generator = np.random.default_rng(_seed(seed))
    rows = max(1, _CHUNK // terms.size)
    hits = 0
    for start in range(0, total, rows):
        size = min(rows, total - start)
        if exact:
            patterns = (np.arange(start, start + size)[:, None] >> np.arange(terms.size)) & 1
        else:
            patterns = generator.integers(0, 2, size=(size, terms.size), dtype=np.int8)
        sums = (1.0 - 2.0 * patterns) @ terms
        if alternative == "greater":
            extreme = sums >= observed - tolerance
        elif alternative == "less":
            extreme = sums <= observed + tolerance
        else:
            extreme = np.abs(sums) >= abs(observed) - tolerance
        hits += int(extreme.sum())
    return hits / total if exact else (hits + 1) / (total + 1)


def bootstrap_interval(
    values: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the (weighted) mean: examples are drawn with replacement, with their weights.

    Args:
        values: finite.
        weights: of the values, ≥ 0.
        confidence: in (0, 1).
        resamples: ≥ 1.
        seed: any integer.
    """
    _check_confidence(confidence)
    _check_resamples(resamples)
    array = _finite("values", values)
    weight_array = np.ones_like(array)
    if weights is not None:
        check_lengths(values=values, weights=weights)
        weight_array = np.asarray(weights, dtype=np.float64)
    generator = np.random.default_rng(_seed(seed))
    rows = max(1, _CHUNK // array.size)
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, rows):
        chosen = generator.integers(0, array.size, size=(min(rows, resamples - start), array.size))
        totals = weight_array[chosen].sum(1)
        drawn = totals > 0  # a resample of weightless examples has no mean
        means.append((weight_array * array)[chosen].sum(1)[drawn] / totals[drawn])
    every = np.concatenate(means)
    if every.size == 0:
        raise EvaluationError("all weights are 0")
    tail = (1 - confidence) / 2
    low, high = np.quantile(every, [tail, 1 - tail])
    return Interval(float(low), float(high))


def student_t_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of at least two finite values."""
    _check_confidence(confidence)
    array = _finite("values", values)
    if array.size < 2:
        raise EvaluationError(f"a t interval needs at least 2 values, got {array.size}")
    mean = float(array.mean())
    reach = (
        student_t_quantile(1 - (1 - confidence) / 2, array.size - 1) * float(array.std(ddof=1)) / math.sqrt(array.size)
    )
    return Interval(mean - reach, mean + reach)


def student_t_quantile(probability: float, degrees_of_freedom: int) -> float:
    """The value that Student's t stays below with ``probability`` in (0, 1); found by bisection to 12 digits."""
    if not 0 < probability < 1 or degrees_of_freedom < 1:
        raise EvaluationError(f"expected 0 < probability < 1 and ≥ 1 degree, got {probability}, {degrees_of_freedom}")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, degrees_of_freedom)
    low, high = 0.0, 1.0
    while _student_t_below(high, degrees_of_freedom) < probability:
        low, high = high, high * 2
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _student_t_below(middle, degrees_of_freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student_t_below(t: float, degrees_of_freedom: int) -> float:
    """P(T ≤ t) for t ≥ 0 and a whole number of degrees: Abramowitz & Stegun 26.7.3 and 26.7.4, finite sums."""
    angle = math.atan(t / math.sqrt(degrees_of_freedom))
    cosine_squared = math.cos(angle) ** 2
    odd = degrees_of_freedom % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if degrees_of_freedom == 1 else term
    for index in range(3 if odd else 2, degrees_of_freedom - 1, 2):
        term *= cosine_squared * (index - 1) / index
        total += term
    inside = math.sin(angle) * total
    inside = 2 / math.pi * (angle + inside) if odd else inside
    return 0.5 + inside / 2


def _as_array(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def _finite(name: str, values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise EvaluationError(f"{name} must be finite numbers, at least one; got {array.size} of shape {array.shape}")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence must lie between 0 and 1, got {confidence}")


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise EvaluationError(f"resamples must be at least 1, got {resamples}")


def _seed(seed: int) -> list[int]:
    """Any integer as words that NumPy takes; negative ones differ from positive ones."""
    return [int(seed < 0), abs(seed)]
