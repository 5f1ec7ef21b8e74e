"""Repeats: unbiased pass@k, means and spread where scores are missing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import Repeats, ScoreResult, pass_at_k, pass_hat_k, repeat_evaluation

COUNTS = st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(COUNTS)
def test_estimates_are_shares_of_all_subsets(counts):
    attempts, successes, k = counts
    outcomes = [True] * successes + [False] * (attempts - successes)
    subsets = list(itertools.combinations(outcomes, k))
    assert pass_at_k(attempts, successes, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert pass_hat_k(attempts, successes, k) == pytest.approx(sum(map(all, subsets)) / len(subsets))


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_pass_at_k_has_no_bias(chance):
    attempts, k = 10, 3
    weights = [math.comb(attempts, c) * chance**c * (1 - chance) ** (attempts - c) for c in range(attempts + 1)]
    expectation = sum(w * pass_at_k(attempts, c, k) for c, w in enumerate(weights))
    plug_in = sum(w * (1 - (1 - c / attempts) ** k) for c, w in enumerate(weights))
    assert expectation == pytest.approx(1 - (1 - chance) ** k)
    assert plug_in < expectation


@pytest.mark.parametrize("counts", [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4), (0, 0, 1)])
def test_impossible_counts_are_refused(counts):
    for estimate in (pass_at_k, pass_hat_k):
        with pytest.raises(EvaluationError, match="successes ≤ attempts"):
            estimate(*counts)


def test_means_deviations_and_passes():
    repeats = Repeats(torch.tensor([[1.0, 0.0, 0.5], [1.0, 1.0, math.nan]]))
    assert repeats.example_means.tolist() == [1.0, 0.5, 0.5]
    assert repeats.example_deviations[:2].tolist() == pytest.approx([0.0, math.sqrt(0.5)])
    assert math.isnan(repeats.example_deviations[2])
    assert repeats.mean == pytest.approx(2 / 3)
    assert repeats.unscored_count == 1
    assert repeats.pass_at_k(1) == pytest.approx(0.5)
    assert repeats.pass_at_k(2) == pytest.approx(2 / 3)
    assert repeats.pass_hat_k(2) == pytest.approx(1 / 3)
    assert repeats.pass_at_k(2, threshold=0.5) == 1.0


def test_missing_results_become_nan_and_lengths_are_checked():
    repeats = Repeats.from_results([[ScoreResult(1), ScoreResult(None)], [ScoreResult(0), ScoreResult(None)]])
    assert repeats.mean == 0.5
    assert repeats.unscored_count == 2
    with pytest.raises(EvaluationError, match="2 first_repeat and 1 another_repeat"):
        Repeats.from_results([[ScoreResult(1)] * 2, [ScoreResult(1)]])
    with pytest.raises(EvaluationError, match="at least one"):
        Repeats.from_results([])
    with pytest.raises(EvaluationError, match=r"\[repeats, examples\]"):
        Repeats(torch.zeros(3))


async def test_every_repeat_knows_its_number():
    async def evaluate_once(repeat):
        return [ScoreResult(repeat), ScoreResult(0)]

    repeats = await repeat_evaluation(evaluate_once, 3)
    assert repeats.scores.tolist() == [[0, 0], [1, 0], [2, 0]]
    with pytest.raises(EvaluationError, match="at least 1"):
        await repeat_evaluation(evaluate_once, 0)
