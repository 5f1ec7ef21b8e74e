"""Demos from passing runs: where they come from, how they are drawn and tested."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import pytest

from hyperfunc import Example, HyperSystem
from hyperfunc.errors import ConfigurationError
from hyperfunc.plugins import load_plugins
from hyperfunc.testing.llm_server import LLMServer, Rule, Script
from hyperfunc_llm import Endpoint, LLMRuntime, use_runtime
from hyperfunc_llm.types import LLMRequest, LLMResponse, TokenUsage
from hyperfunc_prompts import BootstrapDemos, InputField, OutputField, Predict, Signature, SignatureError
from hyperfunc_prompts import plugin as prompts_plugin

TEAMS = ("billing", "shipping", "returns")
WORDS = {"billing": ("invoice", "refund"), "shipping": ("parcel", "courier"), "returns": ("broken", "label")}


class Triage(Signature):
    """Say which team takes the ticket."""

    ticket: str = InputField()
    tags: set[str] = InputField()
    team: Literal["billing", "shipping", "returns"] = OutputField()


class Runtime(LLMRuntime):
    """A model that knows a team's first word, and its second one once it has been shown a ticket of that team."""

    def __init__(self) -> None:
        super().__init__({"m": Endpoint(model="openai/x", base_url="http://127.0.0.1:1")})
        self.requests: list[list[Any]] = []

    async def complete(self, alias: str, request: LLMRequest, **given: Any) -> LLMResponse:
        messages = list(request.messages)
        self.requests.append(messages)
        ticket = messages[-1]["content"]
        shown = " ".join(message["content"] for message in messages[1:-1] if message["role"] == "assistant")
        team = next((t for t in TEAMS if WORDS[t][0] in ticket or (WORDS[t][1] in ticket and t in shown)), TEAMS[0])
        response = LLMResponse(content=f"[[ ## team ## ]]\n{team}", usage=TokenUsage(), model="x", finish_reason="stop")
        return given["judge"](response)


@pytest.fixture
def runtime() -> Any:
    made = Runtime()
    with use_runtime(made):
        yield made


triage = Predict(Triage, "m", optimize_prompt=False, optimize_demos=True)


class Desk(HyperSystem):
    async def run(self, ticket: str, tags: set[str]) -> str:
        return str((await triage(ticket=ticket, tags=tags)).team)


def tickets(count: int, start: int = 0) -> list[Example]:
    made = []
    for index in range(start, start + count):
        team = TEAMS[index % 3]
        word = WORDS[team][index // 3 % 2]
        made.append(Example({"ticket": f"no {index}: {word}", "tags": {"b", "a", str(index)}}, team))
    return made


def accuracy(predictions: list[str], expected: list[str]) -> float:
    return sum(p == e for p, e in zip(predictions, expected, strict=True)) / len(expected)


async def test_passing_runs_become_demos_that_are_accepted(runtime: Runtime) -> None:
    system = Desk()
    validation = tickets(36, start=100)
    result = await BootstrapDemos(validation=validation, seed=3).optimize(system, tickets(24), accuracy)
    assert result.best.verdict == "accepted"
    demos: Any = system.theta.texts["Triage.demos"]
    assert demos == result.export()["Triage.demos"]
    assert {demo["team"] for demo in demos} == set(TEAMS)  # a second of a kind only after one of each
    assert len(demos) == 4
    assert demos[0]["tags"] == sorted(demos[0]["tags"])
    with system.binding():
        messages = triage.explain(ticket="t", tags={"x"})
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 4, "user"]
    # Nothing of the validation examples is shown, and no demo's example tested the proposal first.
    numbers = {int(re.findall(r"no (\d+)", demo["ticket"])[0]) for demo in demos}
    assert max(numbers) < 100
    assert result.best.evidence["minibatch"]["examples"] == 24 - len(result.best.evidence["sources"])


async def test_the_same_demos_at_any_concurrency(runtime: Runtime) -> None:
    found = []
    for concurrency in (1, 64):
        optimizer = BootstrapDemos(validation=0.5, concurrency=concurrency, minibatch=6, max_demos=2)
        found.append(json.dumps((await optimizer.optimize(Desk(), tickets(48), accuracy)).pool.to_dict()))
    assert found[0] == found[1]


async def test_demos_that_do_not_help_are_not_taken_over() -> None:
    async with LLMServer(Script(rules=(Rule(content="[[ ## team ## ]]\nbilling"),))) as server:
        endpoint = Endpoint(model="openai/x", base_url=server.base_url, transport="direct")
        async with LLMRuntime({"m": endpoint}) as real:
            with use_runtime(real):
                system = Desk()
                result = await BootstrapDemos(validation=0.5, max_iterations=2).optimize(system, tickets(48), accuracy)
    assert [c.verdict for c in result.pool] == ["seed", "rejected", "rejected"]
    assert (system.theta.texts["Triage.demos"], result.finish_reason) == ([], "completed")


async def test_without_passing_runs_or_without_failing_ones_nothing_is_proposed(runtime: Runtime) -> None:
    never = await BootstrapDemos().optimize(Desk(), tickets(12), lambda predictions, expected: 0.0)
    assert (len(never.pool), never.finish_reason) == (1, "nothing to show")
    always = await BootstrapDemos().optimize(Desk(), tickets(12), lambda predictions, expected: 1.0)
    assert (len(always.pool), always.finish_reason) == (1, "no failures")


async def test_demos_fit_into_their_room(runtime: Runtime) -> None:
    result = await BootstrapDemos(context_size=25, max_iterations=1).optimize(Desk(), tickets(24), accuracy)
    assert len(result.pool[1].texts["Triage.demos"]) == 1  # type: ignore[arg-type]
    nothing = await BootstrapDemos(context_size=1).optimize(Desk(), tickets(24), accuracy)
    assert nothing.finish_reason == "nothing to show"


def test_a_demo_is_checked_and_put_in_order() -> None:
    assert list(triage.demo({"team": "billing", "tags": {"z", "a"}, "ticket": "t"})) == ["ticket", "tags", "team"]
    with pytest.raises(SignatureError, match="needs"):
        triage.demo({"ticket": "t", "tags": set()})


async def test_arguments_are_checked_and_the_name_is_registered() -> None:
    with pytest.raises(ConfigurationError, match="max_demos"):
        BootstrapDemos(max_demos=0)
    plugins = load_plugins([("prompts", prompts_plugin)], entry_points=False)
    assert plugins.get("prompt_optimizers", "bootstrap-demos") is BootstrapDemos
    with pytest.raises(ConfigurationError, match="asks no model"):
        await BootstrapDemos().reflector.ask("x", [])
