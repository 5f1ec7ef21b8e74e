"""Credit assignment: who is named, what it costs, where it stops; and a reduced form of the benchmark."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.blame import blamed, worlds
from hyperfunc import Budget, Example, HyperSystem, hyperfunction
from hyperfunc.calls import MemoryCallStore
from hyperfunc.errors import ConfigurationError, UnknownParameterError
from hyperfunc.evaluation import ExactMatch
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.scope import current_scope, enter_scope
from hyperfunc.testing.fakes import RecordingEvents
from hyperfunc.testing.llm_server import LLMServer
from hyperfunc_llm import Endpoint, LLMRuntime, make_llm_completion, use_runtime
from hyperfunc_llm.errors import OutputValidationError
from hyperfunc_prompts import Oracle, assign_blame
from hyperfunc_prompts.trials import Trial, TrialRunner

CALLS: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    CALLS.clear()


def _step(name: str, *, broken: bool = False) -> Any:
    @hyperfunction(name=name)
    async def step(text: str) -> str:
        CALLS[name] += 1
        await asyncio.sleep(0)
        return f"{text} mangled" if broken else f"{text} {name}"

    return step


def _chain(broken: str) -> HyperSystem:
    steps = [_step(name, broken=name == broken) for name in "abcd"]

    class Chain(HyperSystem):
        async def run(self, text: str) -> str:
            for step in steps:
                text = await step(text)
            return text

    return Chain()


def _oracle(upto: str) -> Oracle:
    return lambda example, inputs: " ".join(
        [example.inputs["text"], *"abcd"["abcd".index("a") : "abcd".index(upto) + 1]]
    )


ORACLES = {name: _oracle(name) for name in "abcd"}
DATA = [Example({"text": f"t{i}"}, f"t{i} a b c d") for i in range(10)]


@pytest.mark.parametrize("broken", "abcd")
async def test_the_faulty_link_of_a_chain_is_named_and_nobody_else(broken: str) -> None:
    blame = await assign_blame(_chain(broken), DATA, ExactMatch(), ORACLES)
    assert blame.order[0] == broken
    assert {row.component: row.effect for row in blame.table if row.effect} == {broken: 1.0}
    assert blame[broken].first == 1
    assert blame[broken].interval == (1, 1)
    assert (blame.score, blame.reached, blame.finish_reason) == (0, 1, "sure")
    assert f"{broken}: +1 [+1, +1], first in 100%" in blame.explain()
    with pytest.raises(UnknownParameterError):
        blame["e"]


async def test_only_what_follows_a_change_is_called_again() -> None:
    system = _chain("b")
    recorded = await TrialRunner(system, ExactMatch()).run({}, DATA)
    CALLS.clear()
    blame = await assign_blame(system, DATA, ExactMatch(), ORACLES, recorded=recorded, sure=2)
    # Per example: c and d with b's right output. Of the first chunk also, as controls, with the wrong one; calls are
    # seen to repeat themselves there, and the last two examples have none.
    assert CALLS == {"c": 10 + 8, "d": 10 + 8}
    assert (blame.calls_made, blame.evaluations) == (36, 18)
    assert blame.calls_replayed == 18 * 2  # a and b


async def test_who_listens_hears_of_calls_that_are_made_and_of_no_others() -> None:
    events = RecordingEvents()
    with use_plugins(load_plugins([("events", events)], entry_points=False)):
        blame = await assign_blame(_chain("b"), DATA[:3], ExactMatch(), ORACLES)
    heard = Counter(given["component"] for event, given in events.events if event == "before_call")
    assert heard == CALLS
    assert blame.calls_made == sum(CALLS.values())


async def test_the_store_answers_paid_calls_upstream() -> None:
    async with LLMServer() as server:
        endpoint = Endpoint(model="openai/x", base_url=server.base_url, transport="direct")
        draft, edit, sign = (
            make_llm_completion("m", system_prompt=name, optimize_hparams=False, name=name)
            for name in ("draft", "edit", "sign")
        )

        class Letters(HyperSystem):
            async def run(self, topic: str) -> str:
                first = await draft(topic)
                second = await edit(f"{first.content} once more")
                return str((await sign(second.content)).content)

        async with LLMRuntime({"m": endpoint}) as runtime:
            with use_runtime(runtime), enter_scope(store=MemoryCallStore()):
                system = Letters()
                data = [Example({"topic": f"topic {i}"}, "right") for i in range(3)]
                await TrialRunner(system, ExactMatch()).run({}, data)
                before = server.counters()["requests"]
                blame = await assign_blame(system, data, ExactMatch(), {"edit": _edited, "sign": _right})
    # "sign" after each right output of "edit", and once more after what "edit" had said.
    assert server.counters()["requests"] - before == blame.usage.calls == 2 * 3
    assert blame.order[0] == "sign"


class Said(str):
    """What looks like a response of the LLM runtime."""

    @property
    def content(self) -> str:
        return str(self)


def _edited(example: Example, inputs: Mapping[str, Any]) -> Said:
    return Said(f"edited {example.inputs['topic']}")


async def _right(example: Example, inputs: Mapping[str, Any]) -> Said:
    return Said("right")


async def test_luck_is_told_from_merit() -> None:
    """``noisy`` fails by chance at every other call; new words from ``draft`` make it draw again, which is no merit."""

    @hyperfunction
    async def draft(text: str) -> str:
        return f"draft of {text} {current_scope().repeat}"

    @hyperfunction
    async def noisy(text: str) -> str:
        drawn = hashlib.sha256(f"{text} {current_scope().repeat}".encode()).digest()[0]
        return "right" if drawn % 2 else "wrong"

    class Pair(HyperSystem):
        async def run(self, text: str) -> str:
            return await noisy(await draft(text))

    data = [Example({"text": f"t{i}"}, "right") for i in range(60)]
    oracles: dict[str, Oracle] = {
        "draft": lambda example, inputs: f"the oracle's draft of {inputs['text']}",
        "noisy": lambda example, inputs: "right",
    }
    blame = await assign_blame(Pair(), data, ExactMatch(), oracles, sure=2)
    assert blame.order[0] == "noisy"
    assert blame["noisy"].effect + blame["draft"].effect == pytest.approx(1)
    assert blame["noisy"].interval.low > abs(blame["draft"].effect)


async def test_better_runs_serve_where_there_is_no_oracle() -> None:
    @hyperfunction(optimize_prompt=True)
    async def look(text: str, *, prompt: str) -> str:
        """Look."""
        return f"seen {text}"

    @hyperfunction(optimize_prompt=True)
    async def answer(seen: str, *, prompt: str) -> str:
        """Answer."""
        return seen.split()[1] if "plainly" in prompt else seen

    class Looker(HyperSystem):
        async def run(self, text: str) -> str:
            return await answer(await look(text))  # type: ignore[call-arg]

    data = [Example({"text": f"t{i}"}, f"t{i}") for i in range(4)]
    system = Looker()
    nothing_known = await assign_blame(system, data, ExactMatch())
    assert [(row.component, row.effect, row.compared) for row in nothing_known.table] == [
        ("look", 0, 0),
        ("answer", 0, 0),
    ]
    assert "no right output known" in nothing_known.explain()
    others = await TrialRunner(system, ExactMatch()).run({"answer.prompt": "Answer plainly."}, data)
    blame = await assign_blame(system, data, ExactMatch(), others=others)
    assert [(row.component, row.effect, row.compared) for row in blame.table] == [("answer", 1, 4), ("look", 0, 4)]


async def test_a_gain_is_divided_with_components_of_which_nothing_is_known() -> None:
    blame = await assign_blame(_chain("b"), DATA[:3], ExactMatch(), {name: ORACLES[name] for name in "acd"})
    assert {row.component: row.effect for row in blame.table} == {"b": 0.5, "c": 0.5, "a": 0.0, "d": 0.0}
    assert blame["b"].compared == 0


async def test_a_component_that_is_called_twice_is_judged_call_by_call() -> None:
    """The first call of ``again`` only repairs nothing: what goes wrong between its calls is not its fault."""
    again, between = _step("again"), _step("between", broken=True)

    class Loop(HyperSystem):
        async def run(self, text: str) -> str:
            return str(await again(await between(await again(text))))

    def right(example: Example, inputs: Mapping[str, Any]) -> str:
        text = example.inputs["text"]
        return f"{text} again" if inputs["text"] == text else f"{text} again between again"

    data = [Example({"text": "t"}, "t again between again")]
    oracles: dict[str, Oracle] = {"again": right, "between": lambda example, inputs: "t again between"}
    blame = await assign_blame(Loop(), data, ExactMatch(), oracles)
    assert {row.component: row.effect for row in blame.table} == {"between": 1.0, "again": 0.0}


async def test_calls_inside_a_call_are_judged_before_it() -> None:
    inner = _step("inner", broken=True)

    @hyperfunction
    async def outer(text: str) -> str:
        return f"{await inner(text)}!"

    class Nested(HyperSystem):
        async def run(self, text: str) -> str:
            return await outer(text)

    data = [Example({"text": "t"}, "t inner!")]
    oracles: dict[str, Oracle] = {
        "inner": lambda example, inputs: f"{inputs['text']} inner",
        "outer": lambda example, inputs: f"{inputs['text']} inner!",
    }
    blame = await assign_blame(Nested(), data, ExactMatch(), oracles)
    assert {row.component: row.effect for row in blame.table} == {"inner": 1.0, "outer": 0.0}


async def test_a_run_that_fails_on_an_unusable_reply_has_someone_to_blame() -> None:
    @hyperfunction
    async def plan(text: str) -> str:
        return "no plan"

    @hyperfunction
    async def parse(text: str) -> str:
        if "no" in text:
            raise OutputValidationError("this is no plan", content=text)
        return "done"

    class Planner(HyperSystem):
        async def run(self, text: str) -> str:
            return await parse(await plan(text))

    blame = await assign_blame(
        Planner(), [Example({"text": "t"}, "done")], ExactMatch(), {"plan": lambda e, i: "a plan"}
    )
    assert blame.gains == {Example({"text": "t"}, "done").id: {"plan": 1.0}}


async def test_what_a_program_raises_is_not_hidden() -> None:
    async def broken(example: Example, inputs: Mapping[str, Any]) -> str:
        raise LookupError("no such answer")

    with pytest.raises(LookupError, match="no such answer"):
        await assign_blame(_chain("b"), DATA, ExactMatch(), {"b": broken})


async def test_a_budget_of_evaluations_is_kept_and_what_was_found_stays() -> None:
    seen = []
    for concurrency in (1, 64):
        budget = Budget(evaluations=30)
        blame = await assign_blame(_chain("b"), DATA, ExactMatch(), ORACLES, budget, sure=2, concurrency=concurrency)
        assert budget.spent.evaluations == blame.evaluations <= 30
        assert blame.finish_reason == "budget:evaluations"
        assert 0 < len(blame.gains) < 10
        assert blame.order[0] == "b"
        seen.append(blame)
    assert seen[0] == seen[1]
    nothing = await assign_blame(_chain("b"), DATA, ExactMatch(), ORACLES, Budget(evaluations=1))
    assert (nothing.table, nothing.evaluations, nothing.finish_reason) == ((), 0, "budget:evaluations")
    assert math.isnan(nothing.score)


async def test_nothing_fails() -> None:
    data = [Example({"text": "t"}, "t a b mangled d")]
    blame = await assign_blame(_chain("c"), data, ExactMatch(), ORACLES)
    assert (blame.table, blame.finish_reason) == ((), "no failures")
    assert "nobody to blame" in str(blame)


async def test_misspelled_oracles_and_numbers_are_told() -> None:
    blame = await assign_blame(_chain("b"), DATA[:1], ExactMatch(), {**ORACLES, "bb": ORACLES["b"]})
    assert blame.unused_oracles == ("bb",)
    assert "never called, though they have oracles: bb" in blame.explain()
    for wrong in ({"resamples": -1}, {"sure": 0}, {"concurrency": 0}):
        with pytest.raises(ConfigurationError):
            await assign_blame(_chain("b"), DATA, ExactMatch(), ORACLES, **wrong)  # type: ignore[arg-type]


async def test_failing_examples_may_be_run_again_to_find_a_better_run() -> None:
    @hyperfunction
    async def moody(text: str) -> str:
        return "right" if current_scope().repeat == 2 else "wrong"

    class Moody(HyperSystem):
        async def run(self, text: str) -> str:
            return await moody(text)

    data = [Example({"text": "t"}, "right")]
    assert (await assign_blame(Moody(), data, ExactMatch(), resamples=1)).table[0].effect == 0
    blame = await assign_blame(Moody(), data, ExactMatch(), resamples=5)
    assert (blame["moody"].effect, blame.evaluations) == (1, 3)


async def test_recorded_runs_are_not_made_again() -> None:
    system = _chain("d")
    recorded: list[Trial] = await TrialRunner(system, ExactMatch()).run({}, DATA)
    CALLS.clear()
    blame = await assign_blame(system, DATA, ExactMatch(), ORACLES, recorded=recorded)
    assert blame.order[0] == "d"
    assert (sum(CALLS.values()), blame.calls_made, blame.evaluations) == (0, 0, 0)


async def test_the_faulty_component_is_named_first_in_nine_worlds_of_ten() -> None:
    made = [(world, await blamed(world, "oracles", 24)) for world in worlds(1)]
    assert len(made) == 20
    assert sum(verdict.first == world.faulty for world, verdict in made) >= 18
