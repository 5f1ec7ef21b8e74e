"""Verifier functions, and people at a terminal."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import score_all
from hyperfunc_judges import (
    HumanFeedback,
    HumanPreference,
    HumanRanking,
    HumanRubric,
    Level,
    Rubric,
    Terminal,
    Verifier,
)


def is_short(output):
    return len(output) < 5


def agrees(output, expected):
    if output != expected:
        raise AssertionError("another answer")


def fits(output, expected, inputs):
    return output.startswith(inputs["letter"]), "wrong first letter"


# --- verifier ---------------------------------------------------------------------------------------------------------


def test_the_score_is_the_share_of_checks_that_pass():
    verifier = Verifier(is_short, agrees, fits)
    good = verifier.score("abc", "abc", {"letter": "a"})
    assert (good.score, good.feedback, good.details) == (1.0, "", {"failed": []})
    bad = verifier.score("abcdef", "xyz", {"letter": "a"})
    assert bad.score == pytest.approx(1 / 3)
    assert bad.feedback == "is_short: failed\nagrees: AssertionError: another answer"
    assert bad.details == {"failed": ["is_short", "agrees"]}
    assert Verifier(is_short, agrees, all_or_nothing=True).score("abc", "x").score == 0.0
    assert [r.score for r in verifier.score_batch(["abc"], ["abc"], [{"letter": "b"}])] == [pytest.approx(2 / 3)]


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        (lambda o: True, ""),
        (lambda o: None, ""),
        (lambda o: (True, "ignored"), ""),
        (lambda o: 0, "check: failed"),
        (lambda o: "too long", "check: too long"),
        (lambda o: (False, "too long"), "check: too long"),
        (lambda o: o["key"], "check: TypeError: string indices must be integers, not 'str'"),
        (lambda o: int(o), "check: ValueError: invalid literal for int() with base 10: 'text'"),
        (lambda *everything: len(everything) == 3, ""),
    ],
)
def test_every_way_to_say_no(check, problem):
    result = Verifier(check=check).score("text", None)
    assert result.feedback == problem
    assert result.score == (problem == "")


def test_broken_checks_are_errors_and_no_verdicts():
    def broken(output):
        return undefined_name  # noqa: F821

    with pytest.raises(NameError):
        Verifier(broken).score("text", None)


def test_checks_need_names_and_arguments():
    for make in (lambda: Verifier(), lambda: Verifier(is_short, is_short), lambda: Verifier(none=lambda: True)):
        with pytest.raises(EvaluationError):
            make()


# --- people -----------------------------------------------------------------------------------------------------------


class Person:
    """Types one line after the other, then closes the input."""

    def __init__(self, *lines):
        self.lines = list(lines)
        self.prompts = []
        self.screen = []
        self.terminal = Terminal(self.read, self.screen.append)

    def read(self, prompt):
        self.prompts.append(prompt)
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)


async def test_feedback_is_a_mark_and_a_remark():
    person = Person("4 a bit long ")
    result = await HumanFeedback(terminal=person.terminal).score("out", "exp", {"q": "why"})
    assert (result.score, result.feedback, result.details["raw_score"]) == (0.75, "a bit long", 4)
    assert person.screen == ["\nq: why\n[expected]\nexp\n[output]\nout"]
    assert "1 to 5" in person.prompts[0]


async def test_a_mistyped_mark_is_asked_for_again():
    person = Person("9", "great", "5")
    assert (await HumanFeedback(terminal=person.terminal).score("out", None)).score == 1.0
    assert "between 1 and 5, got 9" in person.screen[1]
    assert "to be a number, got 'great'" in person.screen[2]


async def test_an_empty_line_skips_one_and_the_end_of_input_skips_the_rest():
    person = Person("", "3")
    judge = HumanFeedback(terminal=person.terminal)
    results = await score_all(judge, ["a", "b", "c", "d"], [None] * 4)
    assert [result.score for result in results] == [None, 0.5, None, None]
    assert len(person.prompts) == 3  # the end of input is met once


async def test_questions_come_one_at_a_time_and_the_loop_goes_on():
    on_screen = []
    answers = threading.Semaphore(0)

    def read(prompt):
        assert len(on_screen) == 1
        answers.acquire()
        on_screen.clear()
        return "5"

    judge = HumanFeedback(terminal=Terminal(read, on_screen.append))
    task = asyncio.create_task(score_all(judge, list("abc"), [None] * 3))
    async with asyncio.timeout(30):
        for _ in range(3):
            answers.release()
            await asyncio.sleep(0)  # the loop is free while a person thinks
        assert [result.score for result in await task] == [1.0] * 3


def test_one_terminal_serves_one_event_loop_after_the_other():
    person = Person(*"12345345")
    judge = HumanFeedback(terminal=person.terminal)
    for _ in range(2):  # several questions at once each time: they have to wait for each other
        results = asyncio.run(score_all(judge, list("abcd"), [None] * 4))
        assert [result.scored for result in results] == [True] * 4
    assert not person.lines


async def test_a_cancelled_question_is_not_asked():
    shown = []
    typed = threading.Event()

    def read(prompt):
        typed.wait(30)
        return "5"

    judge = HumanFeedback(terminal=Terminal(read, shown.append))
    first = asyncio.create_task(judge.score("first", None))
    second = asyncio.create_task(judge.score("second", None))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    typed.set()
    assert (await first).score == 1.0
    assert (await judge.score("third", None)).score == 1.0
    assert ["first" in shown[0], "third" in shown[1], len(shown)] == [True, True, 2]


async def test_rubrics_show_their_levels():
    rubric = Rubric((Level(0, "bad", "wrong"), Level(2, "good", "right")))
    person = Person("1", "2 fine")
    result = await HumanRubric(rubric, person.terminal).score("out", None)
    assert (result.score, result.feedback, result.details["level"]) == (1.0, "fine", "good")
    assert person.screen[0].endswith("0 = bad: wrong\n2 = good: right")
    assert "one of the marks ['0', '2'], got 1" in person.screen[1]
    assert (await HumanRubric(rubric, Person("").terminal).score("out", None)).score is None


@pytest.mark.parametrize(("line", "score"), [("a", 1.0), ("B shorter", 0.0), ("tie", 0.5), ("t", 0.5), ("", None)])
async def test_preferences(line, score):
    person = Person(line)
    result = await HumanPreference(person.terminal).score("new", "old")
    assert result.score == score
    assert person.screen[0] == "\n[a]\nnew\n[b]\nold"


@pytest.mark.parametrize(
    ("lines", "scores"),
    [
        (["2 1 3"], [0.5, 1.0, 0.0]),
        (["2, 1 = 3"], [0.25, 1.0, 0.25]),
        (["3 > 1=2"], [0.25, 0.25, 1.0]),
        (["1 2", "one", "1 2 3"], [1.0, 0.5, 0.0]),
        ([""], [None, None, None]),
    ],
)
async def test_rankings_with_ties_and_mistakes(lines, scores):
    person = Person(*lines)
    results = await HumanRanking(person.terminal).rank(["a", "b", "c"])
    assert [result.score for result in results] == scores
    assert not person.lines


async def test_people_are_asked_with_sensible_settings():
    with pytest.raises(EvaluationError, match="scale"):
        HumanFeedback(scale=(5, 1))
    with pytest.raises(EvaluationError, match="at least 2"):
        await HumanRanking(Person().terminal).rank(["a"])
