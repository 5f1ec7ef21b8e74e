"""Tensors and texts in one run: what is chosen, what is adopted, what it costs, and that a killed run goes on alike."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass, field

import pytest
import torch

from hyperfunc import Budget, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc.errors import ConfigurationError, ResumeError
from hyperfunc.evaluation import ScoreResult
from hyperfunc.export import pareto_front
from hyperfunc.journal import Journal
from hyperfunc.optimization.schedule import SCHEDULES, Account
from hyperfunc.usage import Usage
from hyperfunc_prompts import PromptLearningOptimizer, Reply

RULES = ("units", "signs", "offsets")


@hyperfunction(optimize_prompt=True)
async def read(x, *, prompt):
    """Read the number."""
    return x * torch.tensor([float(rule in prompt) for rule in RULES])


@hyperfunction(hp_type=LoRAWeight.create(1, 3, 1), optimize_hparams=True)
async def weigh(h, hp):
    return (h @ hp.weight.T).squeeze(-1)


class Pipeline(HyperSystem):
    """A good result needs every rule in the prompt, and weights for the features that the rules bring."""

    async def run(self, x):
        return await weigh(await read(x))


class Closeness:
    def score(self, output, expected, inputs=None):
        return ScoreResult(float(-((output - expected) ** 2)), "")


def data(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    true = torch.tensor([1.0, -2.0, 1.5])
    inputs = [torch.randn(3, generator=generator) for _ in range(count)]
    return [Example({"x": x}, float(x @ true)) for x in inputs]


class Writer:
    """Adds the first rule that the text does not have."""

    def __init__(self):
        self.asked = 0

    async def __call__(self, messages):
        self.asked += 1
        current = re.search(r"<current_text>\n(.*?)\n</current_text>", messages[1]["content"], re.DOTALL)
        missing = [rule for rule in RULES if rule not in current.group(1)]
        return Reply(f"<new_text>{current.group(1)} Mind the {missing[0] if missing else 'rest'}.</new_text>")


def system(steps=24, writer=None, rounds=6, **options):
    pipeline = Pipeline(
        system_optimizer=ESHybridSystemOptimizer(steps=steps, pop_size=16, sigma=0.3, lr=0.3),
        prompt_optimizer=PromptLearningOptimizer(
            writer or Writer(), max_iterations=rounds, perfect_score=0.0, validation=0.5, **options
        ),
    )
    pipeline.register_hyperfunction(weigh, hp_init=torch.tensor([0.4, -0.5, 0.5]))
    return pipeline


async def test_both_kinds_improve_in_one_run_and_the_result_knows_how():
    joint = system(steps=40)
    result = await joint.optimize(data(), Closeness())
    assert result.best_fitness > -0.5 > -3 > result.initial_fitness
    assert all(rule in result.theta["read.prompt"] for rule in RULES)
    assert joint.theta == result.theta
    kinds = [g.kind for g in result.history]
    assert kinds.count("tensors") == 40
    assert 3 <= kinds.count("texts") <= 6
    assert sum(g.accepted for g in result.history) >= 1
    assert result.texts.improved
    assert [g.index for g in result.history] == list(range(len(kinds)))


async def test_texts_alone_and_tensors_alone_take_the_same_way_in():
    class Reader(HyperSystem):
        async def run(self, x):
            return (await read(x)).sum()

    alone = Reader(prompt_optimizer=PromptLearningOptimizer(Writer(), perfect_score=0.0, max_iterations=4))
    examples = [Example({"x": e.inputs["x"]}, float(e.inputs["x"].sum())) for e in data(60)]
    result = await alone.optimize(examples, Closeness())
    assert result.improved
    assert result.best_fitness == 0.0
    assert {g.kind for g in result.history} == {"texts"}
    assert result.execution == ""
    untouched = Pipeline(system_optimizer=ESHybridSystemOptimizer(steps=3))
    assert {g.kind for g in (await untouched.optimize(data(), Closeness())).history} == {"tensors"}


async def test_validation_examples_are_kept_from_both_kinds():
    seen = []

    class Watching(Closeness):
        def score(self, output, expected, inputs=None):
            return super().score(output, expected)

    held_out = data(20, seed=1)
    joint = system(steps=4, rounds=2)
    shown = joint.prompt_optimizer.reflector

    async def note(name, messages, ask=shown.ask):
        seen.append(messages[1]["content"])
        return await ask(name, messages)

    shown.ask = note
    result = await joint.optimize(data(), Watching(), held_out)
    assert seen
    assert not any(str(e.inputs["x"]) in text for e in held_out for text in seen)
    assert await joint.evaluate(held_out, Closeness()) == pytest.approx(result.best_fitness, rel=1e-5)


async def test_upstream_of_tensors_a_text_is_read_once_for_the_whole_population():
    calls = 0

    @hyperfunction(io=True, optimize_prompt=True)
    async def ask(x, *, prompt):
        """Read."""
        from hyperfunc.calls import StoredCall, content_key
        from hyperfunc.scope import current_scope

        nonlocal calls
        key, store = content_key("ask", {"x": x.tolist(), "prompt": prompt}), current_scope().store
        if await store.get(key) is None:
            calls += 1
            await store.put(StoredCall(key, "ask", True, Usage(calls=1)))
        return x

    class Asking(HyperSystem):
        async def run(self, x):
            return await weigh(await ask(x))

    asking = Asking(system_optimizer=ESHybridSystemOptimizer(steps=5, pop_size=8))
    await asking.optimize(data(10), Closeness())
    assert calls == 10


# --- what is taken away ------------------------------------------------------------------------------------------


async def test_the_result_shows_what_changed_and_is_exported_for_production(tmp_path):
    joint = system(steps=8)
    result = await joint.optimize(data(), Closeness())
    assert "+Read the number. Mind the units" in result.diff()
    folder = result.export(tmp_path / "out")
    text = result.theta["read.prompt"]
    assert (folder / "prompts" / "read.prompt.txt").read_text() == text
    assert json.loads((folder / "texts.json").read_text()) == {"read.prompt": text}
    assert json.loads((folder / "result.json").read_text())["content_hash"] == result.theta.content_hash
    fresh = system()
    await fresh.run(torch.ones(3))
    fresh.load(folder)
    assert fresh.theta == result.theta


async def test_the_front_of_score_against_cost():
    result = await system(steps=8).optimize(data(), Closeness())
    front = result.pareto("calls")
    assert [p.score for p in front] == sorted(p.score for p in front)
    assert front[-1].score == max(c.fitness for c in result.texts.pool if math.isfinite(c.fitness))
    with pytest.raises(ConfigurationError, match="'usd'"):
        result.pareto("euro")


def test_a_candidate_is_on_the_front_unless_one_as_cheap_is_as_good():
    @dataclass
    class Candidate:
        id: int
        fitness: float
        run_cost: dict
        texts: dict = field(default_factory=dict)

    costs = [(0, 0.5, 2.0), (1, 0.5, 1.0), (2, 0.7, 3.0), (3, 0.6, 3.5), (4, math.nan, 0.1), (5, 0.7, 3.0)]
    pool = [Candidate(i, score, {"usd": cost}) for i, score, cost in costs]
    assert [p.candidate for p in pareto_front([*pool, Candidate(6, 1.0, {})])] == [1, 2]


# --- schedules ---------------------------------------------------------------------------------------------------


def accounts(**kinds):
    made = {"tensors": Account(), "texts": Account()}
    for kind, entries in kinds.items():
        for gain, cost in entries:
            made[kind].book(gain, cost)
    return made


BOTH = ["tensors", "texts"]


def test_the_joint_schedule_follows_gain_per_cost_and_starves_nobody():
    choose = SCHEDULES["joint"]
    assert choose(accounts(), BOTH) == "tensors"
    assert choose(accounts(tensors=[(1, 0.1)]), BOTH) == "texts"
    assert choose(accounts(tensors=[(1, 0.1)], texts=[(0, 0.1)]), BOTH) == "tensors"
    assert choose(accounts(tensors=[(0, 0.1)], texts=[(0.1, 0.1)]), BOTH) == "texts"
    assert choose(accounts(tensors=[(1, 0.01)] * 90, texts=[(0, 0.01)]), BOTH) == "texts"
    faded = accounts(tensors=[(5, 0.01)] + [(0, 0.1)] * 4, texts=[(0.1, 0.1)] * 2)
    assert choose(faded, BOTH) == "texts"
    assert choose(accounts(), ["texts"]) == "texts"


def test_the_other_schedules():
    assert SCHEDULES["alternate"](accounts(tensors=[(9, 0.1)]), BOTH) == "texts"
    assert SCHEDULES["alternate"](accounts(tensors=[(9, 0.1)], texts=[(0, 0.2)]), BOTH) == "tensors"
    first = SCHEDULES["tensors then texts"]
    assert first(accounts(tensors=[(0, 0.4)]), BOTH) == "tensors"
    assert first(accounts(tensors=[(0, 0.5)]), BOTH) == "texts"
    assert first(accounts(tensors=[(0, 0.4)], texts=[(9, 0.1)]), BOTH) == "texts"
    assert SCHEDULES["texts then tensors"](accounts(), BOTH) == "texts"


@pytest.mark.parametrize("schedule", ["tensors then texts", "texts then tensors"])
async def test_one_after_the_other_is_just_that(schedule):
    result = await system(steps=6, rounds=3).optimize(data(), Closeness(), schedule=schedule)
    kinds = [g.kind for g in result.history]
    assert kinds == sorted(kinds, reverse=schedule.startswith("texts"))
    assert set(kinds) == {"tensors", "texts"}


async def test_a_schedule_that_does_not_exist_is_named():
    with pytest.raises(ConfigurationError, match=r"'joint', 'alternate'.*got 'both'"):
        await system().optimize(data(), Closeness(), schedule="both")


# --- the pre-test ------------------------------------------------------------------------------------------------


class Perfect(Closeness):
    def score(self, output, expected, inputs=None):
        return ScoreResult(0.0, "")


async def test_where_all_is_perfect_nothing_is_done():
    writer = Writer()
    joint = system(writer=writer)
    await joint.run(torch.ones(3))
    before = joint.theta
    result = await joint.optimize(data(), Perfect())
    assert result.finish_reason == "no headroom"
    assert "all of 20 validation examples" in result.reason
    assert (writer.asked, len(result.history)) == (0, 0)
    assert joint.theta == before
    assert (await system(steps=3, rounds=1).optimize(data(), Perfect(), pretest=False)).finish_reason == "completed"


async def test_where_no_test_could_be_passed_texts_are_left_and_tensors_improve():
    writer = Writer()
    joint = system(steps=20, writer=writer)
    await joint.run(torch.ones(3))
    joint.set_prompt("read", "Mind the units, signs and offsets.")
    result = await joint.optimize(data(), Closeness(), data(4, seed=3))
    assert writer.asked == 0
    assert result.improved
    assert any("only 4 of 4 validation examples" in note for note in result.notes)


async def test_the_pretest_keeps_to_its_share_of_the_budget():
    budget = Budget(evaluations=100)
    search = await system().prompt_optimizer.start(system(), data(), Closeness())
    from hyperfunc.scope import enter_scope

    with enter_scope(budget=budget):
        await search.headroom(lambda: 0.05 - budget.spent.evaluations / 100)
    assert 1 <= budget.spent.evaluations <= 5


# --- budget ------------------------------------------------------------------------------------------------------


async def test_a_spent_budget_ends_the_run_with_the_best_so_far():
    budget = Budget(evaluations=900)
    joint = system(steps=200)
    result = await joint.optimize(data(), Closeness(), budget=budget)
    assert result.finish_reason == "budget:evaluations"
    assert budget.spent.evaluations <= 900
    assert joint.theta == result.theta
    assert math.isfinite(result.best_fitness)


async def test_an_error_leaves_the_system_as_it_was():
    class Down(Writer):
        async def __call__(self, messages):
            raise OSError("unreachable")

    joint = system(writer=Down())
    await joint.run(torch.ones(3))
    before = joint.theta
    with pytest.raises(Exception, match="unreachable"):
        await joint.optimize(data(), Closeness())
    assert joint.theta == before


# --- resuming ----------------------------------------------------------------------------------------------------


class StopError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 5, 9, 14])
async def test_a_resumed_run_ends_in_the_same_bits_and_asks_for_no_reply_again(tmp_path, after):
    whole_writer = Writer()
    whole = await system(steps=12, writer=whole_writer).optimize(data(), Closeness(), seed=3)

    def stop(view):
        if view.generation.index == after:
            raise StopError

    writer, path = Writer(), tmp_path / "journal.db"
    arguments = {"run": "joint", "journal": path, "seed": 3}
    with pytest.raises(StopError):
        await system(steps=12, writer=writer).optimize(data(), Closeness(), callbacks=[stop], **arguments)
    asked = writer.asked
    again = Writer()
    resumed = await system(steps=12, writer=again).optimize(data(), Closeness(), resume=True, **arguments)
    assert resumed.theta.content_hash == whole.theta.content_hash
    assert [g.kind for g in resumed.history] == [g.kind for g in whole.history]
    assert resumed.evaluations == whole.evaluations
    assert asked + again.asked == whole_writer.asked
    with Journal(path) as journal:
        verdicts = [c.verdict for c in journal.candidates("joint")]
        assert verdicts.count("accepted") == sum(g.accepted for g in whole.history)
        assert {s.split for s in journal.scores("joint")} == {"train", "validation"}


async def test_a_program_that_answers_otherwise_when_it_is_repeated_is_refused(tmp_path):
    luck = [True]

    class Fickle(Closeness):
        def score(self, output, expected, inputs=None):
            return super().score(output, expected) if luck[0] else ScoreResult(-1.0, "")

    def stop(view):
        if view.generation.accepted:
            raise StopError

    arguments = {"run": "fickle", "journal": tmp_path / "journal.db"}
    with pytest.raises(StopError):
        await system(steps=12).optimize(data(), Fickle(), callbacks=[stop], **arguments)
    luck[0] = False
    with pytest.raises(ResumeError):
        await system(steps=12).optimize(data(), Fickle(), resume=True, **arguments)


async def test_cancelling_passes_through():
    asked = asyncio.Event()

    class Slow(Writer):
        async def __call__(self, messages):
            asked.set()
            await asyncio.Event().wait()

    joint = system(writer=Slow())
    running = asyncio.create_task(joint.optimize(data(), Closeness(), schedule="texts then tensors"))
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
