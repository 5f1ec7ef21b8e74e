"""One proposal attempt at a time: what a step costs and gains, and that steps together are ``optimize``."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hyperfunc import Budget, Example, HyperSystem, hyperfunction
from hyperfunc.evaluation import ScoreResult
from hyperfunc.scope import enter_scope
from hyperfunc.usage import Usage
from hyperfunc_prompts import PromptLearningOptimizer, ReflectivePareto, Reply, UnusableProposalError

RULES = ("upper", "reverse", "double", "quote")


@hyperfunction(optimize_prompt=True)
async def solve(rule: str, *, prompt: str) -> str:
    """Answer."""
    return rule if rule in prompt else "?"


class Solver(HyperSystem):
    async def run(self, rule: str) -> str:
        return await solve(rule)


class Scorer:
    def score(self, output: Any, expected: Any, inputs: Any = None) -> ScoreResult:
        return ScoreResult(float(output == expected), "" if output == expected else f"never does {expected}")


def data(count: int = 120) -> list[Example]:
    return [Example({"rule": RULES[i % len(RULES)]}, RULES[i % len(RULES)], id=f"e{i}") for i in range(count)]


async def writer(messages: list[dict[str, Any]]) -> Reply:
    """Adds every rule that the feedback names."""
    body = messages[1]["content"]
    current = re.search(r"<current_text>\n(.*?)\n</current_text>", body, re.DOTALL)
    assert current is not None
    named = ", ".join(sorted(set(re.findall(r"never does (\w+)", body)))[:2])
    return Reply(f"<new_text>{current.group(1)}\nAlways {named}.</new_text>", usage=Usage(calls=1, usd=0.5))


def learner(kind: str, model: Any = writer) -> Any:
    optimizer = {"prompt-learning": PromptLearningOptimizer, "reflective-pareto": ReflectivePareto}[kind]
    return optimizer(model, max_iterations=6, false_accept_rate=0.2, scorer=Scorer(), validation=0.5)


@pytest.mark.parametrize("kind", ["prompt-learning", "reflective-pareto"])
async def test_steps_are_optimize(kind: str) -> None:
    whole, alone = Solver(), Solver()
    expected = await learner(kind).optimize(whole, data())
    search = await learner(kind).start(alone, data())
    steps = []
    while (step := await search.step(defer=True)) is not None:
        steps.append(step)
        assert (step.gain > 0) == step.accepted
        if step.accepted:
            assert alone.theta.texts == step.candidate.texts
    result = search.result()
    assert result.pool.to_dict() == expected.pool.to_dict()
    assert (result.finish_reason, search.finish_reason) == (expected.finish_reason,) * 2
    assert any(step.accepted for step in steps)
    assert sum((step.usage for step in steps), Usage()) == search.usage == result.usage
    assert result.usage.evaluations == result.evaluations
    assert result.usage.usd == 0.5 * (len(result.pool) - 1)
    assert await search.step() is None


async def test_a_step_without_a_usable_reply_costs_and_another_may_follow() -> None:
    good = False

    async def model(messages: list[dict[str, Any]]) -> Reply:
        return await writer(messages) if good else Reply("no", usage=Usage(calls=1, usd=0.5))

    search = await learner("prompt-learning", model).start(Solver(), data())
    with pytest.raises(UnusableProposalError):
        await search.step()
    assert search.usage.usd == 1.5
    assert len(search.search.pool) == 1
    good = True
    step = await search.step()
    assert step is not None
    assert step.candidate is search.search.pool[1]


async def test_what_waits_can_be_brought_to_validation_at_any_time() -> None:
    search = await learner("prompt-learning").start(Solver(), data())
    nothing = await search.conclude()
    assert (nothing.candidate, nothing.usage) == (None, Usage())
    step = await search.step(defer=True)
    assert step is not None
    assert (step.accepted, step.gain) == (False, 0.0)
    concluded = await search.conclude()
    assert (concluded.candidate, concluded.accepted, concluded.gain > 0) == (step.candidate, True, True)
    assert (await search.conclude()).usage == Usage()


async def test_a_step_alone_brings_what_looks_better_to_validation() -> None:
    system = Solver()
    search = await learner("prompt-learning").start(system, data())
    step = await search.step()
    assert step is not None
    assert step.candidate is search.search.incumbent
    assert (step.accepted, step.gain > 0) == (True, True)
    assert system.theta.texts == step.candidate.texts


async def test_a_budget_ends_the_search_with_the_step_that_did_not_fit() -> None:
    budget = Budget(evaluations=10)
    search = await learner("prompt-learning").start(Solver(), data())
    with enter_scope(budget=budget):
        step = await search.step()
    assert step is not None
    assert (step.accepted, search.finish_reason) == (False, "budget:evaluations")
    assert search.usage.evaluations == budget.spent.evaluations <= 10


@hyperfunction(optimize_prompt=True)
async def scaled(rule: str, *, prompt: str) -> float:
    """Answer."""
    return factor * (rule in prompt)


factor = 1.0


class Scaled(HyperSystem):
    async def run(self, rule: str) -> float:
        return await scaled(rule)


@pytest.mark.parametrize("kind", ["prompt-learning", "reflective-pareto"])
async def test_forgotten_scores_are_measured_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Value:
        def score(self, output: Any, expected: Any, inputs: Any = None) -> ScoreResult:
            return ScoreResult(output, "" if output else f"never does {expected}")

    optimizer = learner(kind)
    optimizer.scorer = Value()
    search = await optimizer.start(Scaled(), data())
    while (first := await search.step()) is not None and not first.accepted:
        pass
    assert first is not None
    shipped = search.search.incumbent
    monkeypatch.setitem(globals(), "factor", 0.25)
    search.forget_scores()
    assert not shipped.scores
    second = await search.step()
    assert second is not None
    assert second.usage.evaluations > 0
    assert max(shipped.scores.values()) == 0.25
