"""A run under a budget that dies in the middle of a step: lived through again, the step sees the spending that it saw
the first time, so the run goes the same way, and nothing is counted twice or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfunc import (
    Budget,
    ESHybridSystemOptimizer,
    Example,
    HyperSystem,
    LoRAWeight,
    NoOpSystemOptimizer,
    hyperfunction,
)
from hyperfunc.calls import MemoryCallStore, StoredCall
from hyperfunc.errors import BudgetExceededError
from hyperfunc.journal import Journal
from hyperfunc.journal.calls import JournalCallStore
from hyperfunc.relived import RelivedBudget, RelivedCalls, count_reply
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.testing.llm_server import Rule, Script, ServerProcess
from hyperfunc.usage import Usage
from hyperfunc_llm import Endpoint, LLMRuntime, llm_completion, use_runtime
from hyperfunc_prompts import PromptLearningOptimizer

RULES = ("brief", "kind", "exact")
TEXTS = ["Answer.", "Answer. Be brief.", "Answer. Be brief. Be kind.", "Answer. Be brief. Be kind. Be exact."]


IN_FLIGHT = 8  # calls of a generation, at most


class Death(BaseException):
    """Passes through everything, as a kill does."""


@hyperfunction(hp_type=LoRAWeight.create(2, 3, 1), optimize_hparams=True)
async def choose(x, hp):
    return hp.weight @ x


@hyperfunction(optimize_prompt=True)
async def phrase(word, level, *, prompt):
    """Answer."""
    reply = await llm_completion("answers", f"{prompt} {word} {level}", temperature=0.0)
    return reply.content


class Both(HyperSystem):
    async def run(self, x, word):
        scores = await choose(x)
        reply = await phrase(word, int((scores[0] * 4).round()))
        return float(scores[1]) + sum(rule in reply for rule in RULES)


class Texts(HyperSystem):
    async def run(self, x, word):
        reply = await phrase(word, 0)
        return float(sum(rule in reply for rule in RULES))


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


@pytest.fixture
def runtime(server: ServerProcess) -> Iterator[LLMRuntime]:
    rules = tuple(
        Rule(contains=f"<current_text>\n{text}\n</current_text>", content=f"<new_text>{better}</new_text>")
        for text, better in zip(TEXTS, [*TEXTS[1:], f"{TEXTS[-1]} Now."], strict=True)
    )
    server.play(Script(rules))
    there: dict[str, Any] = {"base_url": server.base_url, "transport": "direct", "input_usd": 10.0, "output_usd": 50.0}
    aliases = {name: Endpoint(model=f"openai/{name}", max_output_tokens=40, **there) for name in ("answers", "writer")}
    with use_runtime(LLMRuntime(aliases)) as used:
        yield used


async def learn(program: type[HyperSystem], path: Path, limits: dict[str, float], *, known: bool = False) -> Any:
    """Optimize; with ``known`` the system has been evaluated before, and knows what it consists of."""
    generator = torch.Generator().manual_seed(1)
    data = [Example({"x": torch.randn(3, generator=generator), "word": f"word{i}"}, 40.0) for i in range(20)]
    tensors: Any = ESHybridSystemOptimizer(steps=4, pop_size=4, sigma=0.3, lr=0.1)
    selected: dict[str, Any] = {"only": "choose"}  # not the model's own parameters
    if program is Texts:
        tensors, selected = NoOpSystemOptimizer(), {}
    prompts = PromptLearningOptimizer("writer", max_iterations=4, validation=data[8:], minibatch=4, concurrency=1)
    system, budget = program(system_optimizer=tensors, prompt_optimizer=prompts), Budget(**limits)
    if known:
        await system.evaluate(data[:1], "numeric-distance")
    durable: dict[str, Any] = {"run": "r", "journal": path, "resume": True, "budget": budget}
    result = await system.optimize(data[:8], "numeric-distance", minibatch=2, **selected, **durable)
    return result, budget


def books(result: Any, budget: Budget, path: Path) -> dict[str, Any]:
    """All that must not depend on whether the run was killed."""
    with Journal(path) as journal:
        candidates = [(c.key, c.verdict, c.reason, c.texts, counted(c.usage)) for c in journal.candidates("r")]
        scores = [(s.candidate, s.split, s.example, s.score) for s in journal.scores("r")]
        spend = [(g.number, {n: counted(u) for n, u in g.spend.items()}) for g in journal.generations("r")]
    return {
        "theta": result.theta.content_hash,
        "reason": result.finish_reason,
        "steps": [(g.kind, g.accepted, g.evaluations) for g in result.history],
        "candidates": candidates,
        "scores": sorted(scores),
        "spend": spend,
        "usage": counted(result.usage),
        "texts": counted(result.texts.usage),
        "budget": counted(budget.spent),
    }


def counted(usage: Usage) -> dict[str, float]:
    """Without time, and rounded as sums in another order are."""
    return {name: round(value, 9) for name, value in usage.to_dict().items() if name != "seconds"}


PROGRAMS = [
    pytest.param(Both, {"calls": 300}, id="joint"),
    pytest.param(Both, {"usd": 0.06}, id="joint-cut"),
    pytest.param(Texts, {"calls": 90}, id="texts-cannot-wait"),
    pytest.param(Texts, {"calls": 40, "evaluations": 1000}, id="texts-cut"),
]


def die_after(patch: pytest.MonkeyPatch, last: int | None) -> list[str]:
    """Die when ``last`` replies have been kept; returns their keys as they come."""
    put, kept = JournalCallStore.put, list[str]()

    async def put_and_die(store: JournalCallStore, call: StoredCall) -> None:
        await put(store, call)
        kept.append(call.key)
        if len(kept) == last:
            raise Death

    patch.setattr(JournalCallStore, "put", put_and_die)
    return kept


@pytest.mark.parametrize(("program", "limits"), PROGRAMS)
async def test_a_step_that_died_goes_the_same_way_and_is_counted_once(
    program, limits, runtime, server, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        kept = die_after(patch, None)
        whole = books(*await learn(program, tmp_path / "whole.db", limits), tmp_path / "whole.db")
    requests = server.counters()["requests"]
    assert whole["candidates"]
    for last in [1, 2, *range(4, len(kept) + 1, 17)]:  # the first call shows what the program is; then the run begins
        path = tmp_path / f"{last}.db"
        before = server.counters()["requests"]
        with monkeypatch.context() as patch:
            die_after(patch, last)
            with pytest.raises(Death):
                await learn(program, path, limits)
        again = await learn(program, path, limits)
        found = books(*again, path)
        assert {name: found[name] for name in whole if found[name] != whole[name]} == {}, (last, whole)
        assert again[1].overshoot == {}
        assert 0 <= server.counters()["requests"] - before - requests <= IN_FLIGHT


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("program", "limits"), PROGRAMS)
async def test_the_books_agree_with_the_calls_that_were_kept(program, limits, known, runtime, tmp_path):
    result, budget = await learn(program, tmp_path / "journal.db", limits, known=known)
    by_component: dict[str, Usage] = {}
    with Journal(tmp_path / "journal.db") as journal:
        for call in journal.paid_calls("r"):
            by_component[call.component] = by_component.get(call.component, Usage()) + call.usage
        spend = journal.spend("r")
    assert counted(sum(spend.values(), Usage())) == counted(result.usage)
    assert budget.spent.calls == result.usage.calls  # seeing what an unknown program consists of included
    assert set(by_component) == {"answers", "writer"}
    for name, usage in by_component.items():
        assert counted(spend[name]) == counted(usage)
        assert spend[name].seconds == pytest.approx(usage.seconds)
    assert sum(usage.calls for usage in spend.values()) == sum(usage.calls for usage in by_component.values())


async def test_a_run_that_its_budget_has_ended_goes_on_with_a_larger_one(runtime, server, tmp_path):
    path = tmp_path / "journal.db"
    ended, _ = await learn(Texts, path, {"calls": 40})
    assert ended.finish_reason == "budget:calls"
    steps = len(ended.history)
    same, budget = await learn(Texts, path, {"calls": 40})
    assert (same.finish_reason, len(same.history), budget.overshoot) == ("budget:calls", steps, {})
    more, budget = await learn(Texts, path, {"calls": 400})
    assert budget.spent.calls == server.counters()["requests"]  # what had been paid was neither paid nor counted twice
    whole, _ = await learn(Texts, tmp_path / "whole.db", {"calls": 400})
    assert more.finish_reason == whole.finish_reason == "completed"
    assert (more.theta, len(more.history)) == (whole.theta, len(whole.history))


async def test_what_it_costs_to_see_a_changing_program_again_does_not_keep_it_from_going_on(runtime, tmp_path):
    @hyperfunction(hp_type=LoRAWeight.create(2, 3, 1), optimize_hparams=True)
    async def restless(x, hp):
        await llm_completion("answers", f"never the same: {time.perf_counter_ns()}")
        return (hp.weight @ x).sum()

    class Restless(HyperSystem):
        async def run(self, x):
            return await restless(x)

    data = [Example({"x": torch.ones(3)}, 1.0)] * 2
    durable: dict[str, Any] = {"run": "r", "journal": tmp_path / "journal.db", "resume": True}
    for steps in (1, 2):
        system, budget = Restless(system_optimizer=ESHybridSystemOptimizer(pop_size=2)), Budget(calls=500)
        result = await system.optimize(data, "numeric-distance", steps=steps, budget=budget, **durable)
        assert (len(result.history), result.finish_reason) == (steps, "completed")


# --- the parts ---------------------------------------------------------------------------------------------------

COST = Usage(calls=1, usd=0.25)


async def test_what_is_owed_is_set_aside_and_counted_where_it_is_asked_for_first():
    kept, budget, ledger = MemoryCallStore(), Budget(usd=1.0), UsageLedger()
    for key in ("a", "b", "free"):
        await kept.put(StoredCall(key, "llm", key, COST))
    calls = RelivedCalls(kept, {"a": COST, "b": COST}, budget)
    assert (budget.spent.usd, budget.remaining["usd"], budget.unspent["usd"]) == (0.0, 0.5, 1.0)
    with enter_scope(budget=budget, ledger=ledger):
        for key, owed in [("a", True), ("a", False), ("free", False), ("none", False)]:
            call = await calls.get(key)
            assert (call is not None and call.owed) == owed
            if call is not None:
                count_reply("model", call)
    assert (budget.spent.usd, budget.remaining["usd"]) == (0.25, 0.5)
    assert ledger.by_component() == {"model": COST}
    await calls.put(StoredCall("new", "llm", 1))
    assert await kept.get("new") is not None
    assert calls.settle() == COST  # nobody asked for b again; it was paid all the same
    assert (budget.spent.usd, budget.remaining["usd"]) == (0.5, 0.5)
    assert calls.settle() == Usage()


def test_what_is_owed_may_be_more_than_is_left():
    budget = Budget(calls=1)
    RelivedCalls(MemoryCallStore(), {"a": Usage(calls=3)}, budget).settle()
    assert budget.overshoot == {"calls": 2}


def test_the_budget_of_then_allows_what_it_allowed_then():
    outer = Budget(usd=1.0)
    now = outer.child("run", evaluations=100, usd=5.0)
    now.reserve(Usage(usd=0.25, evaluations=40)).settle(Usage(usd=0.25, evaluations=40))
    then = Budget.as_of(now.state())
    now.reserve(Usage(usd=0.5, evaluations=60)).settle(Usage(usd=0.5, evaluations=60))
    relived = RelivedBudget(then, now)
    assert relived.unspent == {"usd": 0.75, "evaluations": 60}
    relived.reserve(Usage(evaluations=60)).settle(Usage(evaluations=50))
    assert (relived.unspent["evaluations"], now.spent.evaluations) == (10, 100)
    with pytest.raises(BudgetExceededError):
        relived.reserve(Usage(evaluations=11))
    relived.reserve(Usage(usd=0.2)).settle(Usage(usd=0.125))  # a call that has to be made again is paid again
    assert (relived.unspent["usd"], outer.spent.usd) == (0.625, 0.875)
    relived.reserve(Usage(usd=0.1)).release()
    relived.charge(Usage(calls=1, evaluations=1))
    assert (now.spent.calls, now.spent.evaluations) == (1, 100)
    alone = RelivedBudget(then, None)
    alone.reserve(COST).settle(COST)
    alone.charge(COST)
    assert outer.spent.usd == 0.875


async def test_the_budget_of_the_scope_around_holds_for_optimize(runtime, tmp_path):
    budget = Budget(evaluations=30)
    with enter_scope(budget=budget):
        system = Both(system_optimizer=ESHybridSystemOptimizer(pop_size=4, steps=50))
        result = await system.optimize([Example({"x": torch.ones(3), "word": "w"}, 1.0)] * 2, "numeric-distance")
    assert result.finish_reason == "budget:evaluations"
    assert 0 < budget.spent.evaluations <= 30
