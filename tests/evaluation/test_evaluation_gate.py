"""Gates: thresholds, no regression with significance, tags, exit codes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import Dataset, EvalGate, Evaluation, Example, ScoreResult

COUNT = 40
DATA = Dataset(Example({"x": n}, n, tags=(f"t{n % 4}",)) for n in range(COUNT))


def evaluation(scores, name="candidate"):
    results = [score if isinstance(score, ScoreResult) else ScoreResult(score) for score in scores]
    return Evaluation.from_results(name, DATA, results)


BASE = evaluation([0.8] * COUNT, "baseline")


def failed(result):
    return [check.name for check in result.checks if not check.passed]


def test_a_threshold_passes_and_fails_with_exit_codes():
    gate = EvalGate(threshold=0.8)
    assert gate.check(BASE).passed
    assert gate.check(BASE).exit_code == 0
    low = gate.check(evaluation([0.8] * 39 + [0.79]))
    assert (low.exit_code, failed(low)) == (1, ["threshold"])
    assert "FAIL  threshold: mean 0.7998, at least 0.8" in str(low)
    assert str(low).endswith("gate FAILED")
    assert str(gate.check(BASE)).endswith("gate passed")


def test_tags_and_objectives_have_thresholds_of_their_own():
    scores = [ScoreResult(0.0 if n % 4 == 1 else 1.0, objectives={"brevity": 0.4}) for n in range(COUNT)]
    gate = EvalGate(tag_thresholds={"t0": 0.5, "t1": 0.5}, objective_thresholds={"brevity": 0.5})
    assert failed(gate.check(evaluation(scores))) == ["threshold of t1", "objective brevity"]
    with pytest.raises(EvaluationError, match="no objective 'brevity'"):
        gate.check(BASE)
    with pytest.raises(EvaluationError, match="tag 't9'"):
        EvalGate(tag_thresholds={"t9": 0.5}).check(BASE)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_examples_without_a_score_fail_the_gate_unless_allowed(missing):
    candidate = evaluation([0.9] * 39 + [missing])
    assert failed(EvalGate(threshold=0.8).check(candidate)) == ["unscored"]
    assert EvalGate(threshold=0.8, max_unscored=1).check(candidate).passed
    assert failed(EvalGate(threshold=0.8, max_unscored=COUNT).check(evaluation([missing] * COUNT))) == ["threshold"]


def test_a_significant_drop_fails_and_noise_does_not():
    gate = EvalGate(no_regression=True)
    noise = np.random.default_rng(0).normal(0, 0.1, COUNT)
    noise -= noise.mean() + 0.001  # a little worse on average
    assert gate.check(evaluation(0.8 + noise), BASE).passed
    assert failed(gate.check(evaluation(0.7 + noise), BASE)) == ["no regression"]
    assert EvalGate(no_regression=True, tolerance=0.15).check(evaluation(0.7 + noise), BASE).passed
    assert gate.check(evaluation([0.9] * COUNT), BASE).passed
    assert gate.check(BASE, BASE).passed


def test_few_differing_pairs_are_decided_by_the_means():
    gate = EvalGate(no_regression=True)
    one_worse = gate.check(evaluation([0.8] * 39 + [0.1]), BASE)
    assert failed(one_worse) == ["no regression"]
    assert "1 differing pairs cannot reach p ≤ 0.05, so the means decide" in str(one_worse)
    assert gate.check(evaluation([0.8] * 39 + [0.9]), BASE).passed


def test_a_tag_may_not_regress_behind_a_good_mean():
    scores = [0.5 if n % 4 == 2 else 1.0 for n in range(COUNT)]
    assert EvalGate(no_regression=True).check(evaluation(scores), BASE).passed
    gate = EvalGate(no_regression=True, no_regression_tags=("t0", "t1", "t2", "t3"))
    assert failed(gate.check(evaluation(scores), BASE)) == ["no regression of t2"]


def test_the_second_worst_tag_is_held_against_the_rest_of_the_level():
    # Of ten differences of one size, the signs of t0 have p = 11/1024 and those of t1 p = 56/1024.
    drops = {0: [-1] * 9 + [1], 1: [-1] * 8 + [1] * 2}
    scores = [0.8 + 0.1 * drops.get(n % 4, [0] * 10)[n // 4] for n in range(COUNT)]
    both = EvalGate(no_regression_tags=("t0", "t1"), significance=0.06)
    assert failed(both.check(evaluation(scores), BASE)) == ["no regression of t0", "no regression of t1"]
    stricter = EvalGate(no_regression_tags=("t0", "t1"), significance=0.02)
    assert failed(stricter.check(evaluation(scores), BASE)) == []


def test_more_tags_do_not_mean_more_false_alarms():
    gate = EvalGate(no_regression_tags=("t0", "t1", "t2", "t3"), significance=0.05)
    generator = np.random.default_rng(0)
    alarms = sum(not gate.check(evaluation(0.8 + generator.normal(0, 0.1, COUNT)), BASE).passed for _ in range(120))
    assert alarms <= 13  # 6 expected; uncorrected: 22


def test_a_baseline_without_common_scores_fails():
    result = EvalGate(no_regression=True).check(BASE, evaluation([None] * COUNT, "silent"))
    assert failed(result) == ["no regression"]
    assert "no example has a score in both" in str(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no condition"),
        ({"threshold": math.nan}, "finite"),
        ({"threshold": 1, "tolerance": -1}, "tolerance"),
        ({"threshold": 1, "significance": 0}, "significance"),
        ({"threshold": 1, "max_unscored": -1}, "max_unscored"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(EvaluationError, match=message):
        EvalGate(**options)


def test_a_needed_baseline_must_be_given_and_fit():
    with pytest.raises(EvaluationError, match="give check"):
        EvalGate(no_regression=True).check(BASE)
    other = Evaluation.from_results("o", DATA[:3], [ScoreResult(1)] * 3)
    with pytest.raises(EvaluationError, match="different examples"):
        EvalGate(no_regression=True).check(BASE, other)
