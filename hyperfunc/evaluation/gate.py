"""Whether a candidate may pass: thresholds and no regression, with an exit code for CI. Knows evaluations only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.experiment import Evaluation
from hyperfunc.evaluation.statistics import permutation_test

__all__ = ["EvalGate", "GateCheck", "GateResult"]


@dataclass(frozen=True)
class GateCheck:
    """One condition: its name, whether it holds, and the figures in words."""

    name: str
    passed: bool
    message: str


@dataclass(frozen=True)
class GateResult:
    """All conditions of a gate.

    Attributes:
        checks: in the order: unscored, threshold, tags, objectives, regression, regression by tag.
    """

    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every condition holds."""
        return all(check.passed for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 when the gate is passed, else 1: for ``sys.exit``."""
        return 0 if self.passed else 1

    def __str__(self) -> str:
        lines = [f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.message}" for check in self.checks]
        return "\n".join([*lines, "gate passed" if self.passed else "gate FAILED"])


@dataclass(frozen=True)
class EvalGate:
    """Conditions that a candidate must meet.

    Args:
        threshold: lowest mean score; ``None`` for none.
        tag_thresholds: tag → lowest mean score of its examples.
        objective_thresholds: objective → lowest mean.
        no_regression: compare with the baseline that :meth:`check` is given.
        no_regression_tags: tags that are compared with the baseline each by itself. Their p-values are corrected for
            their number (Holm), so that more tags do not mean more false alarms.
        tolerance: how much worse than the baseline is still acceptable, ≥ 0, in units of the score.
        significance: how rare chance must make a drop before it counts as one, in (0, 0.5]. Where there are too few
            pairs for any drop to be so rare, the difference of the means decides, and the message says so.
        max_unscored: how many examples may have no finite score; a candidate that breaks has not passed.
        seed: of the permutation test.

    Raises:
        EvaluationError: a setting out of range, or a gate without any condition.
    """

    threshold: float | None = None
    tag_thresholds: Mapping[str, float] = field(default_factory=dict)
    objective_thresholds: Mapping[str, float] = field(default_factory=dict)
    no_regression: bool = False
    no_regression_tags: tuple[str, ...] = ()
    tolerance: float = 0.0
    significance: float = 0.05
    max_unscored: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = [self.threshold, *self.tag_thresholds.values(), *self.objective_thresholds.values()]
        if not all(limit is None or math.isfinite(limit) for limit in limits):
            raise EvaluationError(f"thresholds of a gate must be finite, got {limits}")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0 and 0 < self.significance <= 0.5):
            raise EvaluationError(
                f"expected tolerance ≥ 0 and 0 < significance ≤ 0.5, got {self.tolerance} and {self.significance}"
            )
        if self.max_unscored < 0:
            raise EvaluationError(f"max_unscored must be ≥ 0, got {self.max_unscored}")
        if all(limit is None for limit in limits) and not self.compares:
            raise EvaluationError("this gate has no condition; give a threshold, tag_thresholds or no_regression=True")

    @property
    def compares(self) -> bool:
        """Whether :meth:`check` needs a baseline."""
        return self.no_regression or bool(self.no_regression_tags)

    def check(self, candidate: Evaluation, baseline: Evaluation | None = None) -> GateResult:
        """Judge ``candidate``.

        Raises:
            EvaluationError: a baseline is needed and missing, or was evaluated on other examples; a tag or objective is
                named that the candidate does not have.
        """
        unscored = candidate.unscored_count
        checks = [
            GateCheck(
                "unscored",
                unscored <= self.max_unscored,
                f"{unscored} of {len(candidate.examples)} examples without a score, {self.max_unscored} allowed",
            )
        ]
        if self.threshold is not None:
            checks.append(self._at_least("threshold", candidate, self.threshold))
        for tag, threshold in self.tag_thresholds.items():
            checks.append(self._at_least(f"threshold of {tag}", candidate.with_tag(tag), threshold))
        objectives = candidate.objectives
        for name, threshold in self.objective_thresholds.items():
            if name not in objectives:
                known = ", ".join(objectives) or "none"
                raise EvaluationError(f"{candidate.name!r} has no objective {name!r}; known: {known}")
            value = objectives[name]
            checks.append(GateCheck(f"objective {name}", value >= threshold, f"{value:.4g}, at least {threshold:.4g}"))
        if self.compares:
            if baseline is None:
                raise EvaluationError("this gate compares with a baseline; give check(candidate, baseline)")
            checks.extend(self._no_regression(candidate, baseline.aligned_to(candidate)))
        return GateResult(tuple(checks))

    def _at_least(self, name: str, evaluation: Evaluation, threshold: float) -> GateCheck:
        # With unscored examples allowed, the mean is that of the scored ones.
        scored = [row for row in evaluation.examples if row.result.scored and row.weight > 0]
        if not scored:
            return GateCheck(name, False, f"no example has a score, at least {threshold:.4g} wanted")
        mean = Evaluation(evaluation.name, tuple(scored), evaluation.dataset_version).mean
        return GateCheck(name, mean >= threshold, f"mean {mean:.4g}, at least {threshold:.4g}")

    def _no_regression(self, candidate: Evaluation, baseline: Evaluation) -> list[GateCheck]:
        checks = [self._regression("no regression", candidate, baseline, 1)] if self.no_regression else []
        # Holm: the smallest p-value is held against significance / n, the next against significance / (n - 1), …; once
        # one is not significant, none after it is.
        by_p = sorted(self.no_regression_tags, key=lambda tag: self._p_value(*_tagged(tag, candidate, baseline)))
        tests: dict[str, GateCheck] = {}
        rank = 0
        for position, tag in enumerate(by_p):
            name = f"no regression of {tag}"
            tests[tag] = self._regression(name, *_tagged(tag, candidate, baseline), len(by_p) - rank)
            if not tests[tag].passed and rank == position:
                rank += 1
        return checks + [tests[tag] for tag in self.no_regression_tags]

    def _p_value(self, candidate: Evaluation, baseline: Evaluation) -> float:
        shifted, weights = self._shifted(candidate, baseline)
        if not shifted:
            return 1.0
        return permutation_test(shifted, weights=weights, alternative="less", seed=self.seed)

    def _shifted(self, candidate: Evaluation, baseline: Evaluation) -> tuple[list[float], list[float]]:
        """Differences of scored pairs, raised by the tolerance, and their weights."""
        pairs = [
            (float(b.result.score) - float(a.result.score) + self.tolerance, b.weight)
            for a, b in zip(baseline.examples, candidate.examples, strict=True)
            if a.result.score is not None and b.result.score is not None and a.result.scored and b.result.scored
        ]
        return [difference for difference, _ in pairs], [weight for _, weight in pairs]

    def _regression(self, name: str, candidate: Evaluation, baseline: Evaluation, tests: int) -> GateCheck:
        shifted, weights = self._shifted(candidate, baseline)
        if not shifted or sum(weights) == 0:
            return GateCheck(name, False, f"no example has a score in both {candidate.name!r} and {baseline.name!r}")
        difference = math.fsum(d * w for d, w in zip(shifted, weights, strict=True)) / math.fsum(weights)
        p_value = self._p_value(candidate, baseline)
        level = self.significance / tests
        moved = sum(d != 0 and w > 0 for d, w in zip(shifted, weights, strict=True))
        decidable = 2.0**-moved <= level
        passed = p_value > level if decidable else difference >= 0
        figures = f"difference {difference - self.tolerance:+.4g} over {len(shifted)} pairs, p={p_value:.3g}"
        if self.tolerance:
            figures += f", tolerance {self.tolerance:.4g}"
        if not decidable:
            figures += f"; {moved} differing pairs cannot reach p ≤ {level:.3g}, so the means decide"
        return GateCheck(name, passed, figures)


def _tagged(tag: str, candidate: Evaluation, baseline: Evaluation) -> tuple[Evaluation, Evaluation]:
    """Both restricted to the candidate's examples with ``tag``; the baseline may be older than the tag."""
    kept = [position for position, row in enumerate(candidate.examples) if tag in row.tags]
    part = candidate.with_tag(tag)
    rows = tuple(baseline.examples[position] for position in kept)
    return part, Evaluation(baseline.name, rows, baseline.dataset_version, baseline.usage, baseline.metadata)
