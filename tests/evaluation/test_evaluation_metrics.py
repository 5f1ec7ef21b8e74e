"""metric_fn(predictions, expected) over one member and over a population."""

from __future__ import annotations

import math
from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfunc.errors import BudgetExceededError, EvaluationError
from hyperfunc.evaluation import MSE, metric_over_population, metric_score, score_members, split_predictions

Answer = namedtuple("Answer", ["value", "label"])


def negative_squared_error(predictions, expected):
    return sum(-((float(p) - e) ** 2) for p, e in zip(predictions, expected, strict=True)) / len(predictions)


def test_predictions_behave_as_the_tensors_of_0_3():
    (predictions,) = split_predictions(torch.tensor([[0.25, 0.75]]), members=1, examples=2)
    first = predictions[0]
    assert type(first) is torch.Tensor
    assert (first.item(), float(first), first.shape, bool(first > 0.5)) == (0.25, 0.25, torch.Size([]), False)
    assert torch.equal(torch.stack(predictions), torch.tensor([0.25, 0.75]))
    assert torch.equal(first * predictions[1], torch.tensor(0.1875))


def test_predictions_keep_their_features_and_lose_their_gradients():
    outputs = torch.randn(3, 4, 2, requires_grad=True)
    members = list(split_predictions(outputs, members=3, examples=4))
    assert [len(member) for member in members] == [4, 4, 4]
    assert torch.equal(members[2][1], outputs.detach()[2, 1])
    assert not members[0][0].requires_grad


def test_structures_of_tensors_are_split_and_constants_pass_through():
    outputs = {"answer": Answer(torch.arange(6.0).reshape(2, 3), "unit"), "parts": [torch.zeros(2, 3, 5)], "n": None}
    second = list(split_predictions(outputs, members=2, examples=3))[1]
    assert second[2]["answer"] == Answer(torch.tensor(5.0), "unit")
    assert second[0]["parts"][0].shape == (5,)
    assert second[0]["n"] is None
    assert list(split_predictions("same", members=1, examples=2)) == [["same", "same"]]
    assert list(split_predictions({}, members=1, examples=2)) == [[{}, {}]]


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 4), (1, 3)])
def test_outputs_without_the_two_axes_are_refused(shape):
    with pytest.raises(EvaluationError, match=r"\[members, examples, ...\] = \[2, 3, ...\], got"):
        split_predictions(torch.zeros(shape), members=2, examples=3)


def test_nothing_to_split_is_refused():
    with pytest.raises(EvaluationError, match="0 examples"):
        split_predictions(torch.zeros(2, 0), members=2, examples=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_a_python_metric_agrees_with_the_tensor_scorer(members, examples, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(members, examples, generator=generator)
    expected = torch.randn(examples, generator=generator)
    scores = metric_over_population(
        negative_squared_error, split_predictions(outputs, members=members, examples=examples), expected.tolist()
    )
    assert scores.values.dtype == torch.float64
    assert torch.allclose(scores.values, score_members(MSE(), outputs, expected).double().mean(1), atol=1e-5)


def test_a_member_whose_metric_raises_is_that_members_failure():
    def picky(predictions, expected):
        if predictions[0] < 0:
            raise ValueError("negative")
        return float(predictions[0])

    scores = metric_over_population(picky, [[1.0], [-1.0], [2.0]], [0])
    assert scores.values[[0, 2]].tolist() == [1.0, 2.0]
    assert math.isnan(scores.values[1])
    assert scores.failure_count == 1
    assert isinstance(scores.errors[1], ValueError)


def test_a_metric_that_fails_for_all_is_an_error_with_its_cause():
    def broken(predictions, expected):
        return 1 / 0

    with pytest.raises(
        EvaluationError, match="broken failed for all 2 members, first with ZeroDivisionError"
    ) as caught:
        metric_over_population(broken, [[1], [2]], [0])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(EvaluationError, match="its only member"):
        metric_over_population(broken, [[1]], [0])


def test_nan_is_a_value_and_no_error():
    scores = metric_over_population(lambda p, e: math.nan, [[1], [2]], [0])
    assert scores.values.isnan().all()
    assert scores.errors == (None, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, BudgetExceededError("spent", limit="usd")])
def test_interrupts_and_spent_budgets_pass_through(error):
    def metric(predictions, expected):
        raise error

    with pytest.raises(BaseException) as caught:
        metric_over_population(metric, [[1], [2]], [0])
    assert isinstance(caught.value, KeyboardInterrupt | BudgetExceededError)


@pytest.mark.parametrize("value", [None, "0.9", torch.ones(2), [0.5]])
def test_a_metric_that_returns_no_number_is_refused(value):
    with pytest.raises(EvaluationError, match="number"):
        metric_score(lambda p, e: value, [1], [1])


def test_tensors_and_booleans_are_numbers():
    assert metric_score(lambda p, e: torch.tensor(0.5), [1], [1]) == 0.5
    assert metric_score(lambda p, e: p == e, [1], [1]) == 1.0


def test_asynchronous_metrics_are_refused():
    async def metric(predictions, expected):
        return 1.0

    with pytest.raises(EvaluationError, match="asynchronous"):
        metric_score(metric, [1], [1])


def test_a_metric_may_edit_its_lists():
    expected = [3, 1, 2]

    def sorting(predictions, wanted):
        assert wanted == [3, 1, 2]
        wanted.sort()
        predictions.clear()
        return 1.0

    assert metric_over_population(sorting, [(1, 2, 3), (1, 2, 3)], expected).values.tolist() == [1.0, 1.0]
    assert expected == [3, 1, 2]


def test_lengths_are_named():
    with pytest.raises(EvaluationError, match="1 predictions and 2 expected"):
        metric_over_population(negative_squared_error, [[1.0]], [1.0, 2.0])
    with pytest.raises(EvaluationError, match="at least one member"):
        metric_over_population(negative_squared_error, [], [1.0])
    with pytest.raises(EvaluationError, match="nothing to score"):
        metric_score(negative_squared_error, [], [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_predictions_leave_the_accelerator_unless_what_is_expected_lives_there():
    outputs = torch.ones(1, 2, device="cuda")
    (here,) = split_predictions(outputs, members=1, examples=2, expected=[1.0, 1.0])
    (there,) = split_predictions(outputs, members=1, examples=2, expected=[torch.ones((), device="cuda")] * 2)
    assert here[0].device.type == "cpu"
    assert there[0].device.type == "cuda"
