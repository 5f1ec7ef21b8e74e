"""Members that ask the same get one answer, where a function says that nothing else happens."""

from __future__ import annotations

import asyncio

import pytest
import torch

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, ScoreResult, hyperfunction
from hyperfunc.calls import MemoryCallStore
from hyperfunc.errors import EvaluationError
from hyperfunc.population.shared_replies import SharedReplies, call_key
from hyperfunc.scope import enter_scope


class Closeness:
    def score(self, output, expected, inputs=None):
        return ScoreResult(-abs(float(output) - expected))


@hyperfunction(hp_type=LoRAWeight.create(1, 1, 1), optimize_hparams=True)
async def scale(x, hp):
    return (hp.weight @ x).squeeze(-1)


def system_asking(function):
    class Asking(HyperSystem):
        async def run(self, question):
            return await scale(torch.tensor([float(len((await function(question))["said"]))]))

    return Asking(system_optimizer=ESHybridSystemOptimizer(steps=3, pop_size=8))


DATA = [Example({"question": "a" * n}, float(n)) for n in range(1, 6)]


async def test_the_population_asks_once_and_nobody_sees_what_another_does_to_the_answer():
    asked = []

    @hyperfunction(io=True, shares_replies=True)
    async def ask(question):
        asked.append(question)
        await asyncio.sleep(0)
        return {"said": list(question)}

    class Asking(HyperSystem):
        async def run(self, question):
            reply = await ask(question)
            reply["said"].append("!")  # its own copy, or the next member would see it
            assert len(reply["said"]) == len(question) + 1
            return await scale(torch.tensor([float(len(question))]))

    result = await Asking(system_optimizer=ESHybridSystemOptimizer(steps=3, pop_size=8)).optimize(DATA, Closeness())
    assert result.dropped == 0
    # Once to get to know the program; then once for each population and each evaluation of one θ.
    assert asked.count("aaa") <= 1 + 2 * 3 + 1


async def test_without_the_promise_every_member_asks():
    asked = []

    @hyperfunction(io=True)
    async def ask(question):
        asked.append(question)
        return {"said": question}

    await system_asking(ask).optimize(DATA, Closeness())
    assert asked.count("aaa") >= 3 * 8


async def test_where_members_vary_its_parameters_every_member_asks():
    asked = []

    @hyperfunction(io=True, shares_replies=True, hp_type=LoRAWeight.create(1, 1, 1), optimize_hparams=True)
    async def ask(question, hp):
        asked.append(question)
        return {"said": question}

    await system_asking(ask).optimize(DATA, Closeness())
    assert asked.count("aaa") >= 3 * 8


async def test_a_failure_is_shared_too_and_every_member_has_it():
    asked = []

    @hyperfunction(io=True, shares_replies=True)
    async def ask(question):
        asked.append(question)
        await asyncio.sleep(0)
        raise ValueError("no answer")

    asking = system_asking(ask)
    asking.register_hyperfunction(scale)
    with pytest.raises(EvaluationError, match="no answer"):
        await asking.optimize(DATA[:1], Closeness())
    assert len(asked) < 8


def test_what_makes_calls_equal():
    assert call_key("f", ("a",), {"n": 1}) == call_key("f", ("a",), {"n": 1})
    different = [call_key("f", ("a",), {"n": n}) for n in (1, 1.0, True)]
    assert len(set(different)) == 3
    assert call_key("g", ("a",), {"n": 1}) not in different
    assert call_key("f", ([],), {}) is None
    assert call_key("f", (), {"x": torch.ones(1)}) is None


async def test_when_the_first_who_asked_is_cancelled_another_asks():
    replies = SharedReplies(asyncio.get_running_loop())
    started, made = asyncio.Event(), []

    async def slow():
        started.set()
        await asyncio.Event().wait()

    async def quick():
        made.append(1)
        return "reply"

    first = asyncio.create_task(replies.reply("key", slow))
    await started.wait()
    second = asyncio.create_task(replies.reply("key", quick))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "reply"
    assert made == [1]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_one_who_waits_can_be_cancelled_alone():
    replies = SharedReplies(asyncio.get_running_loop())
    go = asyncio.Event()

    async def make():
        await go.wait()
        return "reply"

    first = asyncio.create_task(replies.reply("key", make))
    second = asyncio.create_task(replies.reply("key", make))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go.set()
    assert await first == "reply"


async def test_outside_a_run_with_a_store_nothing_is_shared():
    asked = []

    @hyperfunction(io=True, shares_replies=True)
    async def ask(question):
        asked.append(question)
        return {"said": question}

    asking = system_asking(ask)
    await asking.run("a")
    candidates = [{"scale": torch.ones(1)}] * 4
    await asking.evaluate_population(candidates, DATA[:1], Closeness())
    assert len(asked) >= 1 + 4
    asked.clear()
    with enter_scope(store=MemoryCallStore()):
        await asking.evaluate_population(candidates, DATA[:1], Closeness())
    assert len(asked) == 1
