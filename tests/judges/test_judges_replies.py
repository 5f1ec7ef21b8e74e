"""Reading replies: JSON in fences and prose, marks, rankings; nothing is guessed."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperfunc.errors import EvaluationError
from hyperfunc_judges import UnreadableReplyError, scores_of_ranks
from hyperfunc_judges.replies import json_object, number_in, ranking_in, strings_in, text_in


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 4, "feedback": "good"}',
        '```json\n{"score": 4, "feedback": "good"}\n```',
        'Sure! Here it is:\n```\n{"Score": 4, "FEEDBACK": "good"}\n```\nAnything else?',
        'I think {like this} and {"score": 2}. On reflection: {"score": 4, "feedback": "good"}',
        "SCORE: 4\nFEEDBACK: good",
        "**Score:** 4\n**Feedback:** good",
    ],
)
def test_replies_of_all_kinds_say_the_same(text):
    reply = json_object(text)
    assert number_in(reply, "score", 1, 5) == 4
    assert text_in(reply, "feedback") == "good"


def test_braces_and_quotes_inside_strings_do_not_confuse():
    reply = json_object('{"feedback": "use {} and \\"{x}\\" }", "score": 1}')
    assert reply["feedback"] == 'use {} and "{x}" }'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "{",
        '{"score": 4',
        "[1, 2]",
        "{}",
        "FEEDBACK: none",
        "{" * 5000,
        '{"score": 2, "parts": {"score": 5}',
        '{"a": {"score": 5}, "feedback": "well',
    ],
)
def test_what_holds_no_object_is_unreadable(text):
    with pytest.raises(UnreadableReplyError, match="expected a JSON object"):
        json_object(text)


@given(st.dictionaries(st.text("abc", min_size=1), st.text() | st.integers(), min_size=1), st.text("{}[]\"' \nx"))
def test_an_object_is_found_in_front_of_any_rubbish(value, rubbish):
    if "{" not in rubbish:
        assert json_object(json.dumps(value) + rubbish) == value


@pytest.mark.parametrize(("value", "mark"), [(4, 4), (4.5, 4.5), ("4", 4), (" 4.0 ", 4), ("4/5", 4), ("4 / 5.0", 4)])
def test_marks(value, mark):
    assert number_in({"score": value}, "score", 1, 5) == mark


@pytest.mark.parametrize("value", ["good", "4/10", "4 of 5", None, True, [4], math.nan, math.inf, 0, 6, "-1", "7"])
def test_marks_outside_the_scale_or_no_marks_are_unreadable(value):
    with pytest.raises(UnreadableReplyError, match="'score'"):
        number_in({"score": value}, "score", 1, 5)


def test_a_missing_key_is_named():
    with pytest.raises(UnreadableReplyError, match=r"expected the key 'score', got \['grade'\]"):
        number_in({"grade": 1}, "score", 1, 5)


def test_texts_come_as_text_or_lists():
    assert text_in({"feedback": ["a", "b"]}, "feedback") == "a\nb"
    assert text_in({}, "feedback") == ""
    assert strings_in({"actions": ["a", " ", None, 3]}, "actions") == ["a", "3"]
    assert strings_in({"actions": "one"}, "actions") == ["one"]
    assert strings_in({}, "actions") == []


@pytest.mark.parametrize(
    ("listed", "ranks"),
    [
        ([3, 1, 2], [2, 3, 1]),
        ([2, 0, 1], [2, 3, 1]),
        (["3", "1", "2"], [2, 3, 1]),
        (["Output 3", "output_1", "#2"], [2, 3, 1]),
        ([2, [1, 3]], [2.5, 1, 2.5]),
        ([[1, 2, 3]], [2, 2, 2]),
        ([[0, 2], 1], [1.5, 3, 1.5]),
    ],
)
def test_rankings_from_0_or_1_with_ties(listed, ranks):
    assert ranking_in({"ranking": listed}, "ranking", 3) == ranks


@pytest.mark.parametrize("listed", [[1, 2], [1, 2, 2], [1, 2, 4], [0, 1, 3], [1, 2, 3, 4], "1 2 3", None, [1, 2, True]])
def test_incomplete_rankings_are_unreadable(listed):
    with pytest.raises(UnreadableReplyError, match="'ranking'"):
        ranking_in({"ranking": listed}, "ranking", 3)


@given(st.integers(2, 7).flatmap(lambda n: st.permutations(range(n))), st.booleans())
def test_ranks_are_the_places_of_a_permutation(order, zero_based):
    ranks = ranking_in({"r": [item + (not zero_based) for item in order]}, "r", len(order))
    assert [order[int(rank) - 1] for rank in ranks] == list(range(len(order)))
    scores = scores_of_ranks(ranks)
    assert (max(scores), min(scores)) == (1.0, 0.0)
    assert sum(scores) == pytest.approx(len(order) / 2)


def test_one_output_has_no_rank():
    with pytest.raises(EvaluationError, match="at least 2"):
        scores_of_ranks([1.0])
