"""Paired tests and intervals, against SciPy, against enumeration, and against their promised error rates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import bootstrap_interval, compare, permutation_test, student_t_interval
from hyperfunc.evaluation.statistics import student_t_quantile

stats = pytest.importorskip("scipy.stats")

DIFFERENCES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=8)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 31, 100, 1001])
@pytest.mark.parametrize("probability", [0.025, 0.4, 0.5, 0.75, 0.975, 0.9995])
def test_quantiles_of_t_agree_with_scipy(degrees, probability):
    assert student_t_quantile(probability, degrees) == pytest.approx(
        stats.t.ppf(probability, degrees), rel=1e-9, abs=1e-11
    )


def test_t_interval_agrees_with_scipy():
    values = [0.3, -0.1, 0.7, 0.2, 0.45]
    expected = stats.t.interval(0.9, len(values) - 1, np.mean(values), stats.sem(values))
    assert student_t_interval(values, confidence=0.9) == pytest.approx(expected)


@given(DIFFERENCES, st.sampled_from(["two-sided", "greater", "less"]))
def test_small_permutation_tests_are_exact(differences, alternative):
    observed = sum(differences)
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    hit = {
        "two-sided": lambda s: abs(s) >= abs(observed),
        "greater": lambda s: s >= observed,
        "less": lambda s: s <= observed,
    }[alternative]
    assert permutation_test(differences, alternative=alternative) == pytest.approx(sum(map(hit, sums)) / len(sums))


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_drawn_permutation_tests_agree_with_scipy(alternative):
    differences = np.random.default_rng(0).normal(0.25, 1, size=40)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=20_000, rng=1
    ).pvalue
    assert permutation_test(differences, alternative=alternative, resamples=20_000) == pytest.approx(
        expected, abs=0.015
    )


@given(DIFFERENCES)
def test_p_values_mirror_when_the_candidates_change_places(differences):
    swapped = [-d for d in differences]
    assert permutation_test(differences, alternative="greater") == permutation_test(swapped, alternative="less")
    assert permutation_test(differences) == permutation_test(swapped)


def test_the_permutation_test_keeps_its_level():
    generator = np.random.default_rng(0)
    false_alarms = sum(
        permutation_test(generator.standard_t(3, size=20), alternative="greater", resamples=999) <= 0.05
        for _ in range(600)
    )
    assert false_alarms <= 48  # 600 × 0.05 = 30; more than 48 has a chance of 0.1 %


def test_the_bootstrap_interval_covers():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        low, high = bootstrap_interval(generator.exponential(1.0, size=60), resamples=500, seed=seed)
        covered += low <= 1.0 <= high
    assert 265 <= covered <= 297  # 285 expected; skewed data cost a little


def test_equal_candidates_are_never_significant():
    result = compare([0.5] * 50, [0.5] * 50)
    assert (result.p_value, result.difference, result.ties, tuple(result.interval)) == (1.0, 0.0, 50, (0.0, 0.0))
    assert not result.significant


def test_a_clear_winner_is_significant():
    result = compare([0.0] * 30, [1.0] * 29 + [0.0], alternative="greater")
    assert result.significant
    assert (result.wins, result.ties, result.losses, result.pairs) == (29, 1, 0, 30)
    assert result.interval.low > 0.8
    assert "29 wins, 0 losses, 1 ties" in str(result)
    assert result.to_dict()["interval"] == list(result.interval)


def test_drawn_p_values_are_never_zero():
    assert permutation_test([1.0] * 40, alternative="greater", resamples=99) == 1 / 100


def test_missing_scores_drop_their_pair_and_are_counted():
    result = compare([1.0, None, 0.0, math.inf, 1.0], [1.0, 1.0, math.nan, 0.0, 2.0])
    assert (result.pairs, result.dropped, result.mean_a, result.mean_b) == (2, 3, 1.0, 1.5)
    assert "3 dropped" in str(result)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(1, 3)), min_size=1, max_size=5),
    st.integers(0, 3),
)
def test_a_weight_counts_like_so_many_copies_in_the_means(rows, seed):
    a, b, weights = (list(map(float, column)) for column in zip(*rows, strict=True))
    weighted = compare(a, b, weights=weights, resamples=50, seed=seed)
    copies = [row for row in rows for _ in range(row[2])]
    plain = compare([r[0] for r in copies], [r[1] for r in copies], resamples=50, seed=seed)
    assert weighted.difference == pytest.approx(plain.difference)
    assert weighted.mean_a == pytest.approx(plain.mean_a)
    low, high = weighted.interval
    assert min(y - x for x, y, _ in rows) - 1e-9 <= low <= high <= max(y - x for x, y, _ in rows) + 1e-9


def test_weightless_examples_change_nothing():
    assert compare([0, 9.0], [1, 0.0], weights=[1, 0]).difference == 1.0
    assert compare([0.0, 1.0], [1.0, 3.0], interval="t").interval.low < 0


def test_the_same_seed_gives_the_same_figures_and_large_inputs_are_chunked():
    values = np.random.default_rng(1).normal(size=3000)
    assert bootstrap_interval(values, resamples=2000, seed=3) == bootstrap_interval(values, resamples=2000, seed=3)
    assert bootstrap_interval(values, resamples=2000, seed=3) != bootstrap_interval(values, resamples=2000, seed=-3)
    assert permutation_test(values, resamples=2000, seed=3) == permutation_test(values, resamples=2000, seed=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare([1.0], [1.0, 2.0]), "1 a and 2 b"),
        (lambda: compare([], []), "nothing to score"),
        (lambda: compare([None], [1.0]), "none of 1 examples has a finite score"),
        (lambda: compare([1.0], [1.0], weights=[0.0]), "none of 1 examples"),
        (lambda: compare([1.0], [1.0], weights=[-1.0]), "weights"),
        (lambda: compare([1.0], [1.0], weights=[1.0], interval="t"), "cannot weigh"),
        (lambda: compare([1.0], [1.0], confidence=1.0), "confidence"),
        (lambda: compare([1.0], [1.0], resamples=0), "resamples"),
        (lambda: compare([1.0], [1.0], alternative="better"), "alternative"),
        (lambda: student_t_interval([1.0]), "at least 2 values"),
        (lambda: bootstrap_interval([]), "at least one"),
        (lambda: bootstrap_interval([math.nan]), "finite"),
        (lambda: bootstrap_interval([1.0], weights=[0.0]), "all weights are 0"),
        (lambda: student_t_quantile(1.0, 3), "probability"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(EvaluationError, match=message):
        call()
