"""The built-in scorers: on plain values as in 0.3, and on tensors, where both ways must agree."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import (
    MSE,
    Accuracy,
    ClassificationAccuracy,
    CompositeScorer,
    ContainsMatch,
    CrossEntropy,
    ExactMatch,
    FunctionScorer,
    MeanSquaredError,
    NumericDistance,
    RegexMatch,
    ScoreResult,
    as_tensor_scorer,
    score_all,
    score_members,
)
from hyperfunc.usage import Usage


class AsyncJudge:
    """A scorer of which score is a coroutine function."""

    def __init__(self, result: ScoreResult):
        self.result = result

    async def score(self, output, expected, inputs=None):
        return self.result


# --- plain values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scorer", "output", "expected", "score"),
    [
        (ExactMatch(), "hello", "hello", 1.0),
        (ExactMatch(), "hello", "Hello", 0.0),
        (ExactMatch(case_sensitive=False), "hello", "Hello", 1.0),
        (ExactMatch(strip_whitespace=True), " hello\n", "hello", 1.0),
        (ExactMatch(), None, "", 1.0),
        (ExactMatch(), 7, "7", 1.0),
        (ExactMatch(), 1, 1.0, 1.0),
        (ExactMatch(), float("nan"), float("nan"), 0.0),
        (ExactMatch(), {"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}, 1.0),
        (ExactMatch(), {"a": torch.ones(2)}, {"a": torch.ones(2)}, 1.0),
        (ExactMatch(), {"a": torch.ones(2)}, {"a": torch.zeros(2)}, 0.0),
        (ExactMatch(), {"a": 1}, {"b": 1}, 0.0),
        (ExactMatch(), [1, 2], [1, 2, 3], 0.0),
        (ExactMatch(), ["A"], ["a"], 0.0),
        (ExactMatch(case_sensitive=False), ["A"], ["a"], 1.0),
        (ExactMatch(), torch.tensor(0.1), 0.1, 1.0),
        (ExactMatch(), torch.tensor([2.0]), 2, 1.0),
        (ExactMatch(), np.array([1, 2]), np.array([1, 2]), 1.0),
        (ExactMatch(), torch.tensor([1, 2]), torch.tensor([1, 3]), 0.0),
        (ExactMatch(), torch.ones(2), torch.ones(3), 0.0),
        (NumericDistance(), 3.005, 3.0, 1.0),
        (NumericDistance(), 5.0, 3.0, 0.5),
        (NumericDistance(), "5.0", "3", 0.5),
        (NumericDistance(max_distance=4), 5.0, 3.0, 0.5),
        (NumericDistance(max_distance=1), 5.0, 3.0, 0.0),
        (NumericDistance(), float("nan"), 3.0, 0.0),
        (NumericDistance(), float("-inf"), 3.0, 0.0),
        (NumericDistance(), "many", 3.0, 0.0),
        (NumericDistance(), None, 3.0, 0.0),
        (NumericDistance(), torch.tensor(5.0), 3.0, 0.5),
        (NumericDistance(), [3.0, 5.0], [3.0, 3.0], 0.75),
        (ClassificationAccuracy(), "cat", "cat", 1.0),
        (ClassificationAccuracy(), "Cat", "cat", 0.0),
        (ClassificationAccuracy(), torch.tensor(2), 2, 1.0),
        (ClassificationAccuracy(), torch.tensor([0.1, 0.9]), 1, 1.0),
        (ClassificationAccuracy(), 2, torch.tensor(2), 1.0),
        (ContainsMatch(), "It is Paris.", "paris", 1.0),
        (ContainsMatch(case_sensitive=True), "It is Paris.", "paris", 0.0),
        (ContainsMatch(), "answer: 42", 42, 1.0),
        (ContainsMatch(), None, "x", 0.0),
        (RegexMatch(), "Call 555-1234", r"\d{3}-\d{4}", 1.0),
        (RegexMatch(r"^yes"), "YES sir", None, 1.0),
        (RegexMatch(r"^yes", flags=0), "YES sir", None, 0.0),
        (RegexMatch(r"yes", full_match=True), "yes sir", None, 0.0),
        (MSE(), 3.0, 1.0, -4.0),
        (MSE(), [1.0, 3.0], [1.0, 1.0], -2.0),
        (Accuracy(), torch.tensor([0.0, 3.0, 1.0]), 1, 1.0),
        (Accuracy(), 2, 1, 0.0),
        (Accuracy(threshold=0.5), 0.7, 1, 1.0),
        (Accuracy(threshold=0.5), 0.5, 1, 0.0),
    ],
)
def test_score_of_one_output(scorer, output, expected, score):
    result = scorer.score(output, expected)
    assert result.score == pytest.approx(score, abs=1e-7)
    assert (result.feedback == "") == (score in (1.0, 0.0) and result.score == (0.0 if scorer == MSE() else 1.0))
    assert scorer.score_batch([output], [expected])[0].score == result.score


def test_feedback_says_what_was_wrong():
    assert ExactMatch().score("a", "b").feedback == "expected 'b', got 'a'"
    assert "200 vs 1" in ExactMatch().score("a" * 200, "b").feedback
    assert NumericDistance().score(3.14, 3.0).feedback.startswith("off by 0.1400")
    assert NumericDistance().score(float("inf"), 3.0).feedback.startswith("not finite")
    assert NumericDistance().score(3.14, 3.0).details["diff"] == pytest.approx(0.14)
    assert ClassificationAccuracy().score("a", "b").details == {"predicted": "a", "expected": "b"}
    assert RegexMatch(r"\d+").score("ab 12", None).details == {"match": "12"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegexMatch("("), "no regular expression"),
        (lambda: RegexMatch().score("a", "("), "no regular expression"),
        (lambda: RegexMatch().score("a", 3), "must be a string"),
        (lambda: ContainsMatch().score("a", ""), "needs a text to look for"),
        (lambda: NumericDistance(tolerance=-1), "tolerance"),
        (lambda: NumericDistance(max_distance=0), "max_distance"),
        (lambda: NumericDistance().score(1.0, "three"), "needs a number"),
        (lambda: CrossEntropy(label_smoothing=2), "label_smoothing"),
        (lambda: CrossEntropy().score([0.1, 0.9], 2), r"0\.\.1"),
        (lambda: CrossEntropy().score([0.1, 0.9], -1), r"0\.\.1"),
        (lambda: CrossEntropy().score([0.1], 0), "at least 2 classes"),
        (lambda: Accuracy(threshold=math.inf), "threshold"),
        (lambda: Accuracy().score(0.9, 1), "threshold=0.5"),
        (lambda: MSE().score([1.0, 2.0], 1.0), re.escape("[1, 1, 2] and [1]")),
        (lambda: MSE().score("text", 1.0), "expected numbers"),
        (lambda: CompositeScorer([]), "at least one"),
        (lambda: CompositeScorer([(ExactMatch(), -1.0)]), "≥ 0"),
        (lambda: CompositeScorer([(ExactMatch(), 0.0)]), "not all 0"),
    ],
)
def test_misuse_is_named(make, message):
    with pytest.raises(EvaluationError, match=message):
        make()


def test_losses_are_not_clamped_and_nan_stays_nan():
    assert MSE().score(1e6, 0.0).score == pytest.approx(-1e12)
    assert math.isnan(MSE().score(float("nan"), 0.0).score)
    assert MeanSquaredError is MSE


def test_cross_entropy_is_the_log_likelihood():
    logits = torch.tensor([0.2, -1.0, 3.0])
    hard = -functional.cross_entropy(logits, torch.tensor(2)).item()
    assert CrossEntropy().score(logits, 2).score == pytest.approx(hard, rel=1e-5)
    shares = torch.tensor([0.2, 0.3, 0.5])
    soft = -functional.cross_entropy(logits, shares).item()
    assert CrossEntropy().score(logits, shares).score == pytest.approx(soft, rel=1e-5)
    smoothed = -functional.cross_entropy(logits, torch.tensor(1), label_smoothing=0.1).item()
    assert CrossEntropy(label_smoothing=0.1).score(logits, 1).score == pytest.approx(smoothed, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 10, 15, 16, 17])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_agrees_with_torch_for_any_number_of_classes(classes, smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(3, 7, classes, generator=generator)
    logits[0, 0, 0] = -math.inf
    expected = torch.randint(1, classes, (7,), generator=generator)
    scores = score_members(CrossEntropy(smoothing), logits, expected)
    reference = [-functional.cross_entropy(m, expected, reduction="none", label_smoothing=smoothing) for m in logits]
    assert torch.allclose(scores, torch.stack(reference), rtol=1e-5, atol=1e-5)
    soft = torch.softmax(torch.randn(7, classes, generator=generator), -1)
    reference = [-functional.cross_entropy(m, soft, reduction="none") for m in logits[1:]]
    assert torch.allclose(score_members(CrossEntropy(), logits[1:], soft), torch.stack(reference), rtol=1e-5)


# --- composites -------------------------------------------------------------------------------------------------------


def test_composite_is_the_weighted_mean_and_keeps_its_parts():
    result = CompositeScorer([(ExactMatch(), 1), (ContainsMatch(), 3)]).score("It is 4", "4")
    assert result.score == pytest.approx(0.75)
    assert result.feedback == "[ExactMatch] expected '4', got 'It is 4'"
    assert result.details["individual_scores"] == [
        {"scorer": "ExactMatch", "score": 0.0, "weight": 1.0},
        {"scorer": "ContainsMatch", "score": 1.0, "weight": 3.0},
    ]


async def test_composite_weighs_scored_parts_only_and_adds_costs():
    silent = AsyncJudge(ScoreResult(None, "unreadable reply", cost=Usage(calls=1)))
    good = AsyncJudge(ScoreResult(0.5, "fine", objectives={"brevity": 0.1}, cost=Usage(calls=2)))
    composite = CompositeScorer([(silent, 10), (good, 1), (ExactMatch(), 1)])
    result = await composite.score("a", "a")
    assert result.score == pytest.approx(0.75)
    assert result.cost == Usage(calls=3)
    assert result.objectives == {"brevity": 0.1}
    assert "[AsyncJudge] unreadable reply" in result.feedback
    unscored = await CompositeScorer([(silent, 1)]).score("a", "a")
    assert unscored.score is None
    batch = await score_all(composite, ["a", "b"], ["a", "a"])
    assert [r.score for r in batch] == pytest.approx([0.75, 0.25])


def test_composite_without_combined_feedback_drops_praise():
    praise = FunctionScorer(lambda output: (1.0, "well done"))
    assert CompositeScorer([(praise, 1)], combine_feedback=False).score("a", "a").feedback == ""
    assert CompositeScorer([(praise, 1)]).score("a", "a").feedback == "[FunctionScorer] well done"


def test_composite_scores_tensors_only_when_all_parts_can():
    assert as_tensor_scorer(CompositeScorer([(MSE(), 1), (ContainsMatch(), 1)])) is None
    both = CompositeScorer([(MSE(), 1), (NumericDistance(), 2)])
    assert as_tensor_scorer(both) is both
    assert as_tensor_scorer(ContainsMatch()) is None
    with pytest.raises(EvaluationError, match="ContainsMatch"):
        CompositeScorer([(MSE(), 1), (ContainsMatch(), 1)]).score_tensor(torch.zeros(1, 1), torch.zeros(1))


# --- functions as scorers ---------------------------------------------------------------------------------------------


async def test_functions_with_one_two_or_three_arguments():
    async def judge(output, expected, inputs):
        return inputs["bonus"], "so so"

    assert FunctionScorer(len).score("abc", None).score == 3.0
    assert FunctionScorer(lambda o, e: o == e).score(1, 1).score == 1.0
    assert FunctionScorer(lambda *a: len(a)).score(1, 1).score == 3.0
    assert FunctionScorer(lambda o: None).score(1, 1).score is None
    assert (await FunctionScorer(judge).score(1, 1, {"bonus": 0.5})) == ScoreResult(0.5, "so so")


@pytest.mark.parametrize("answer", ["0.5", (1, "a", 2), torch.ones(2), [1.0]])
def test_functions_that_return_no_score_are_refused(answer):
    with pytest.raises(EvaluationError):
        FunctionScorer(lambda o: answer).score(1, 1)


def test_functions_with_wrong_signatures_are_refused():
    with pytest.raises(EvaluationError, match="a scoring function takes"):
        FunctionScorer(lambda: 1)
    with pytest.raises(EvaluationError, match="a scoring function takes"):
        FunctionScorer(lambda a, b, c, d: 1)


# --- tensors: one call equals a loop over single outputs --------------------------------------------------------------

REGRESSION = [MSE(), NumericDistance(), NumericDistance(0.3, 1.5), ExactMatch(), ClassificationAccuracy()]
FEATURES = [(), (1,), (3,), (2, 3)]


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scorer", REGRESSION, ids=repr)
def test_members_in_one_call_equal_single_scores(scorer, features, dtype):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randint(0, 3, (4, 5, *features), generator=generator).to(dtype) / 2
    expected = torch.randint(0, 3, (5, *features), generator=generator).to(dtype) / 2
    outputs[2, 3] = expected[3]
    scores = score_members(scorer, outputs, expected)
    single = torch.tensor(
        [[scorer.score(outputs[m, e], expected[e]).score for e in range(5)] for m in range(4)], dtype=dtype
    )
    assert scores.shape == (4, 5)
    assert torch.allclose(scores.to(dtype), single, rtol=1e-6 if dtype == torch.float32 else 1e-12)
    assert single.unique().numel() > 1


CLASSES = [CrossEntropy(), CrossEntropy(0.2), Accuracy(), ClassificationAccuracy()]


@pytest.mark.parametrize("positions", [(), (3,)])
@pytest.mark.parametrize("scorer", CLASSES, ids=repr)
def test_classes_in_one_call_equal_single_scores(scorer, positions):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, *positions, 5, generator=generator)
    expected = torch.randint(0, 5, (6, *positions), generator=generator)
    logits[3, 4] = 5 * functional.one_hot(expected[4], 5)
    scores = score_members(scorer, logits, expected)
    single = torch.tensor([[scorer.score(logits[m, e], expected[e]).score for e in range(6)] for m in range(4)])
    assert torch.allclose(scores, single, rtol=1e-6)
    assert single.unique().numel() > 1


def test_composite_in_one_call_equals_single_scores():
    generator = torch.Generator().manual_seed(0)
    outputs, expected = torch.randn(3, 4, generator=generator), torch.randn(4, generator=generator)
    composite = CompositeScorer([(MSE(), 1), (NumericDistance(), 3), (ExactMatch(), 0)])
    single = torch.tensor(
        [[composite.score(o, e).score for o, e in zip(row, expected, strict=True)] for row in outputs]
    )
    assert torch.allclose(score_members(composite, outputs, expected), single)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.lists(st.integers(1, 3), max_size=2),
    st.lists(st.integers(1, 3), max_size=2),
)
def test_trailing_ones_are_dropped_and_nothing_else_is_broadcast(members, examples, output_shape, expected_shape):
    def core(shape):
        shape = list(shape)
        while shape and shape[-1] == 1:
            shape.pop()
        return shape

    outputs, expected = torch.zeros(members, examples, *output_shape), torch.zeros(examples, *expected_shape)
    if core(output_shape) == core(expected_shape):
        assert score_members(MSE(), outputs, expected).shape == (members, examples)
    else:
        with pytest.raises(EvaluationError, match="equal examples and features"):
            score_members(MSE(), outputs, expected)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((3, 4), (5,)),
        ((3, 4, 2, 3), (4, 3, 2)),
        ((3, 4, 6), (4, 2, 3)),
        ((3,), (3,)),
        ((3, 0), (0,)),
        ((0, 3), (3,)),
        ((2, 3), ()),
    ],
)
def test_shapes_that_do_not_belong_together_are_both_named(outputs, expected):
    with pytest.raises(EvaluationError, match=r"example|nothing to score"):
        score_members(MSE(), torch.zeros(outputs), torch.zeros(expected))


def test_integer_outputs_half_precision_and_gradients():
    assert score_members(MSE(), torch.tensor([[3]]), torch.tensor([1])).item() == -4.0
    half = score_members(MSE(), torch.full((1, 1), 300.0, dtype=torch.float16), torch.zeros(1))
    assert half.dtype == torch.float32
    assert half.item() == -90000.0  # 90000 does not fit float16
    assert not score_members(MSE(), torch.ones(1, 1, requires_grad=True), torch.zeros(1)).requires_grad


def test_a_nan_output_spoils_its_own_member_and_example_only():
    outputs = torch.zeros(2, 3)
    outputs[1, 2] = math.nan
    assert score_members(MSE(), outputs, torch.zeros(3)).isnan().tolist() == [[False] * 3, [False, False, True]]
    assert score_members(NumericDistance(), outputs, torch.zeros(3)).tolist() == [[1.0] * 3, [1.0, 1.0, 0.0]]
    logits = torch.tensor([[[math.nan, 1.0]]])
    assert score_members(Accuracy(), logits, torch.tensor([0])).item() == 0.0
    assert score_members(Accuracy(threshold=0.5), torch.tensor([[math.nan]]), torch.tensor([0])).item() == 0.0


def test_a_scorer_that_returns_another_shape_is_refused():
    class Total:
        supports_tensors = True

        def score_tensor(self, outputs, expected):
            return outputs.sum()

    with pytest.raises(EvaluationError, match=re.escape("[members, examples] = [2, 3]")):
        score_members(Total(), torch.zeros(2, 3), torch.zeros(3))
