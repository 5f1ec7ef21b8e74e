"""Many outputs at once: order, concurrency, blame and cancellation."""

from __future__ import annotations

import asyncio
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperfunc.errors import BudgetExceededError, EvaluationError
from hyperfunc.evaluation import (
    CompositeScorer,
    ExactMatch,
    FunctionScorer,
    ScoreResult,
    is_asynchronous,
    mean_score,
    score_all,
    score_batch,
    stack_values,
)
from hyperfunc.usage import Usage


class Meeting:
    """An asynchronous scorer whose calls wait for each other: it ends only if ``size`` of them run at once."""

    def __init__(self, size: int):
        self.barrier = asyncio.Barrier(size)
        self.running = self.most_running = 0

    async def score(self, output, expected, inputs=None):
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self.barrier.wait()
        self.running -= 1
        return ScoreResult(output)


async def test_asynchronous_scorers_run_at_once_and_keep_the_order():
    meeting = Meeting(8)
    async with asyncio.timeout(30):
        results = await score_all(meeting, list(range(8)), [None] * 8)
    assert [result.score for result in results] == list(range(8))


async def test_concurrency_is_a_ceiling():
    meeting = Meeting(2)
    async with asyncio.timeout(30):
        results = await score_all(meeting, list(range(8)), [None] * 8, concurrency=2)
    assert meeting.most_running == 2
    assert [result.score for result in results] == list(range(8))


async def test_one_failure_cancels_the_others_and_names_its_example():
    cancelled = []

    async def judge(output):
        if output == 2:
            raise ValueError("no verdict")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(output)
            raise

    with pytest.raises(EvaluationError, match="FunctionScorer failed on example 2: ValueError: no verdict") as caught:
        await score_all(FunctionScorer(judge), [0, 1, 2, 3], [None] * 4)
    assert isinstance(caught.value.__cause__, ValueError)
    assert set(cancelled) <= {0, 1, 3}
    assert {0, 1} <= set(cancelled)


async def test_cancellation_passes_through():
    started = asyncio.Event()

    async def judge(output):
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(score_all(FunctionScorer(judge), [1, 2], [None] * 2))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_scorers_that_answer_at_once_now_and_then():
    async def later(value):
        return value

    mixed = FunctionScorer(lambda output: later(output) if output % 3 == 1 else output)
    results = await score_all(mixed, list(range(10)), [None] * 10)
    assert [result.score for result in results] == list(range(10))


def test_scorers_say_whether_they_are_asynchronous():
    async def judge(output):
        return 1.0

    class Judge:
        async def __call__(self, output):
            return 1.0

    assert is_asynchronous(Meeting.__new__(Meeting))
    assert is_asynchronous(FunctionScorer(judge))
    assert is_asynchronous(FunctionScorer(Judge()))
    assert not is_asynchronous(FunctionScorer(len))
    assert not is_asynchronous(ExactMatch())
    nested = CompositeScorer([(CompositeScorer([(FunctionScorer(judge), 1)]), 1), (ExactMatch(), 1)])
    assert is_asynchronous(nested)
    with pytest.raises(EvaluationError, match="a part of this CompositeScorer, is asynchronous"):
        nested.score_batch([1], [1])


async def test_a_spent_budget_passes_unchanged():
    async def judge(output):
        raise BudgetExceededError("spent", limit="usd")

    def plain(output):
        raise BudgetExceededError("spent", limit="usd")

    for function in (judge, plain):
        with pytest.raises(BudgetExceededError):
            await score_all(FunctionScorer(function), [1, 2], [None] * 2)
    with pytest.raises(BudgetExceededError):
        score_batch(FunctionScorer(plain), [1, 2], [None] * 2)


async def test_what_is_no_score_result_is_refused():
    class Wrong:
        def score(self, output, expected, inputs=None):
            return 0.5

    with pytest.raises(EvaluationError, match="must return a ScoreResult, got float"):
        await score_all(Wrong(), [1], [1])
    with pytest.raises(EvaluationError, match="must return a ScoreResult, got float"):
        score_batch(Wrong(), [1], [1])


def test_asynchronous_scorers_are_refused_by_the_synchronous_way():
    async def judge(output):
        return 1.0

    with pytest.raises(EvaluationError, match="await score_all"):
        score_batch(FunctionScorer(judge), [1], [1])


async def test_lengths_and_empty_lists_are_named():
    with pytest.raises(EvaluationError, match="2 outputs and 3 expected"):
        score_batch(ExactMatch(), [1, 2], [1, 2, 3])
    with pytest.raises(EvaluationError, match="2 outputs and 1 inputs"):
        await score_all(ExactMatch(), [1, 2], [1, 2], [{}])
    with pytest.raises(EvaluationError, match="nothing to score"):
        await score_all(ExactMatch(), [], [])
    with pytest.raises(EvaluationError, match="concurrency"):
        await score_all(ExactMatch(), [1], [1], concurrency=0)


async def test_inputs_reach_the_scorer():
    scorer = FunctionScorer(lambda o, e, i: i["n"])
    results = await score_all(scorer, [0, 0], [0, 0], [{"n": 1}, {"n": 2}])
    assert [result.score for result in results] == [1, 2]
    assert [result.score for result in score_batch(scorer, [0], [0], [{"n": 3}])] == [3]


# --- results ----------------------------------------------------------------------------------------------------------


@given(st.floats())
def test_scores_are_kept_as_given(score):
    kept = ScoreResult(score).score
    assert kept == score or (math.isnan(kept) and math.isnan(score))


def test_score_results_take_numbers_and_nothing_else():
    assert ScoreResult(torch.tensor([0.5])).score == 0.5
    assert ScoreResult(True).score == 1.0
    assert ScoreResult(None).scored is False
    assert ScoreResult(math.nan).scored is False
    assert ScoreResult(0).scored is True
    for wrong in ("0.5", [1], torch.ones(2), 1j):
        with pytest.raises(EvaluationError, match="number"):
            ScoreResult(wrong)
    with pytest.raises(EvaluationError, match="objective 'cost'"):
        ScoreResult(1, objectives={"cost": "low"})


def test_score_results_round_trip_as_dicts():
    result = ScoreResult(0.5, "so so", {"k": [1]}, {"brevity": 1}, Usage(calls=2, usd=0.1))
    assert ScoreResult.from_dict(result.to_dict()) == result
    assert ScoreResult.from_dict({"score": None}) == ScoreResult(None)
    assert result.replace(feedback="good").feedback == "good"


@given(st.lists(st.tuples(st.none() | st.floats(-1e6, 1e6), st.floats(0, 1e3)), min_size=1, max_size=20))
def test_mean_is_over_scored_results_only(pairs):
    results = [ScoreResult(score) for score, _ in pairs]
    weights = [weight for _, weight in pairs]
    scored = [(score, weight) for score, weight in pairs if score is not None and weight > 0]
    mean = mean_score(results, weights)
    if not scored or sum(w for _, w in scored) == 0:
        assert math.isnan(mean)
    else:
        low, high = min(s for s, _ in scored), max(s for s, _ in scored)
        assert low - 1e-6 <= mean <= high + 1e-6


def test_means_of_tiny_weights_keep_their_digits():
    assert mean_score([ScoreResult(1.5), ScoreResult(0.5)], [5e-324, 5e-324]) == 1.0


def test_mean_shows_failures_and_refuses_other_lengths():
    assert math.isnan(mean_score([ScoreResult(1), ScoreResult(math.nan)]))
    assert mean_score([ScoreResult(1), ScoreResult(math.nan)], [1, 0]) == 1.0
    assert mean_score([ScoreResult(1), ScoreResult(None), ScoreResult(0)]) == 0.5
    assert math.isnan(mean_score([]))
    with pytest.raises(EvaluationError, match="1 results and 2 weights"):
        mean_score([ScoreResult(1)], [1, 2])


# --- expected values as one tensor ------------------------------------------------------------------------------------


def test_expected_values_stack_where_they_are_numbers_of_one_shape():
    assert torch.equal(stack_values([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    assert stack_values([1, 2]).dtype == torch.int64
    assert stack_values([1, 2.5]).dtype == torch.float32
    assert stack_values([torch.ones(2), [0.0, 1.0]]).shape == (2, 2)
    assert stack_values([True, False]).dtype == torch.bool
    for values in (["a", "b"], [1.0, None], [torch.ones(2), torch.ones(3)], [[1, 2], [1]], [["a"]], []):
        assert stack_values(values) is None
