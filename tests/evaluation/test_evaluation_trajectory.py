"""Trajectories of calls: exact, in order, precision, recall, efficiency."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperfunc import HyperSystem, hyperfunction
from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import Trajectory, TrajectoryScorer, score_batch, trajectory_metrics

NAMES = st.lists(st.sampled_from("abc"), max_size=6)


def figures(actual, expected, **options):
    return trajectory_metrics(Trajectory(actual), Trajectory(expected), **options)


@pytest.mark.parametrize(
    ("actual", "expected", "exact", "in_order", "precision", "recall", "efficiency"),
    [
        ("ab", "ab", 1, 1, 1, 1, 1),
        ("ba", "ab", 0, 0.5, 1, 1, 1),
        ("abab", "ab", 0, 1, 0.5, 1, 0.5),
        ("a", "ab", 0, 0.5, 1, 0.5, 0.5),
        ("xy", "ab", 0, 0, 0, 0, 0),
        ("", "ab", 0, 0, 1, 0, 0),
        ("", "", 1, 1, 1, 1, 1),
        ("a", "", 0, 0, 0, 1, 0),
        ("axbxc", "abc", 0, 1, 0.6, 1, 0.6),
    ],
)
def test_figures(actual, expected, exact, in_order, precision, recall, efficiency):
    result = figures(actual, expected)
    assert (result.exact_match, result.in_order) == (exact, in_order)
    assert (result.precision, result.recall, result.tool_efficiency) == pytest.approx((precision, recall, efficiency))


@given(NAMES, NAMES)
def test_figures_lie_between_0_and_1_and_agree_with_each_other(actual, expected):
    result = figures(actual, expected)
    assert all(0 <= value <= 1 for value in result.to_dict().values())
    assert (result.exact_match == 1) == (actual == expected)
    assert result.in_order <= result.recall
    assert result.tool_efficiency <= result.recall
    swapped = figures(expected, actual)
    if actual and expected:
        assert (result.precision, result.f1) == (swapped.recall, swapped.f1)
    if result.exact_match:
        assert set(result.to_dict().values()) == {1.0}


def test_arguments_count_when_asked_for():
    actual = [("search", {"q": "cats"}), ("open", {"n": 1})]
    expected = [("search", {"q": "dogs"}), ("open", {"n": 1})]
    assert figures(actual, expected).exact_match == 1
    assert figures(actual, expected, match="arguments").recall == 0.5
    assert figures(actual, actual, match="arguments").exact_match == 1


def test_the_scorer_says_what_is_missing_and_superfluous():
    scorer = TrajectoryScorer("recall")
    missing, order, perfect = score_batch(scorer, [["a", "c", "c"], ["b", "a"], Trajectory("ab")], [["a", "b"]] * 3)
    assert missing.score == 0.5
    assert missing.feedback == "missing 1 × b; superfluous 2 × c"
    assert missing.objectives["exact_match"] == 0
    assert "another order: b, a; expected a, b" in order.feedback
    assert (perfect.score, perfect.feedback) == (1.0, "")


@pytest.mark.parametrize(
    "call",
    [
        lambda: Trajectory([("a", 1)]),
        lambda: Trajectory([3]),
        lambda: TrajectoryScorer("speed"),
        lambda: TrajectoryScorer().score("search", []),
        lambda: figures("a", "a", match="content"),
    ],
)
def test_misuse_is_named(call):
    with pytest.raises(EvaluationError):
        call()


def test_a_trajectory_has_names_and_a_length():
    trajectory = Trajectory(["a", ("b", {"x": 1})])
    assert (trajectory.names, len(trajectory), trajectory.calls[1].arguments) == (["a", "b"], 2, {"x": 1})


async def test_a_tape_is_a_trajectory() -> None:
    @hyperfunction
    async def search(query: str, limit: int = 3) -> list[str]:
        return [query] * limit

    @hyperfunction
    async def read(name: str, **options: Any) -> str:
        if name == "missing":
            raise LookupError(name)
        return f"text of {name}"

    class Reader(HyperSystem):
        async def run(self, topic: str) -> str:
            found = await search(topic, limit=1)
            try:
                await read("missing")
            except LookupError:
                pass
            return await read(found[0], page=2)

    system = Reader()
    _, tape = await system.record({"topic": "tea"})
    made = Trajectory.from_tape(tape, system.registry.all_components())
    assert made.calls == (
        ("search", {"query": "tea", "limit": 1}),
        ("read", {"name": "missing"}),
        ("read", {"name": "tea", "page": 2}),
    )
    assert Trajectory.from_tape(tape).calls[0] == ("search", {"0": "tea", "limit": 1})
    tools = Trajectory.from_tape(tape, system.registry.all_components(), only={"read"})
    assert tools.names == ["read", "read"]
    wanted = [("search", {"query": "tea", "limit": 1}), ("read", {"name": "tea", "page": 2})]
    result = TrajectoryScorer("tool_efficiency", match="arguments").score(made, wanted)
    assert (result.objectives["recall"], result.objectives["exact_match"]) == (1, 0)
    assert result.score == pytest.approx(2 / 3)
    assert result.objectives["precision"] == pytest.approx(2 / 3)
    assert result.feedback == "superfluous 1 × read"
