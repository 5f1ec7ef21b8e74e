"""Completions as hyperfunctions: parameters, limits, structured output, tools, images (acceptance checks 1 and 2)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from hyperfunc.callee import CallPolicy
from hyperfunc.errors import BudgetExceededError, CallLimitError, ConfigurationError, ExecutionError
from hyperfunc.evaluation import Example
from hyperfunc.function import hyperfunction
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.settings import Settings
from hyperfunc.system import HyperSystem
from hyperfunc.tape import Tape, recording
from hyperfunc.testing.llm_server import LLMServer, Rule
from hyperfunc_llm import (
    EmptyResponseError,
    Endpoint,
    Endpoints,
    LLMResponse,
    LLMRuntime,
    OutputValidationError,
    ToolLoopError,
    TransportError,
    UnknownAliasError,
    image_part,
    llm_completion,
    llm_hyperfunction,
    llm_stream,
    make_llm_agent,
    make_llm_completion,
    parse_json,
    use_runtime,
    user_message,
)
from hyperfunc_llm.tools import Tool

Play = Callable[..., None]


async def test_a_system_sends_its_parameters_and_prompt(server: LLMServer, runtime: LLMRuntime) -> None:
    ask = make_llm_completion("m", system_prompt="You are brief.", top_k=3)

    class Seeded(HyperSystem):
        async def run(self, question: str) -> Any:
            return (await ask(question, seed=7)).content

    system = Seeded()
    system.register_hyperfunction(ask)
    assert await system.run("why?") == "echo: why?"
    sent = json.loads(server.bodies()[-1])
    assert sent["messages"] == [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "why?"},
    ]
    assert (sent["temperature"], sent["max_tokens"], sent["top_k"], sent["seed"]) == (0.7, 1024, 3, 7)
    assert system.hp_dim == 5


async def test_outside_a_run_the_provider_decides(server: LLMServer, runtime: LLMRuntime) -> None:
    assert str(await llm_completion("m", "hello")) == "echo: hello"
    assert "temperature" not in json.loads(server.bodies()[-1])
    await llm_completion(model="m", messages=[{"role": "user", "content": "x"}], temperature=0.2, stop=["."])
    assert json.loads(server.bodies()[-1])["temperature"] == 0.2


async def test_outputs_reach_the_next_request_verbatim(server: LLMServer, runtime: LLMRuntime) -> None:
    first = make_llm_completion("m", name="first")
    second = make_llm_completion("m", name="second")

    class Chain(HyperSystem):
        async def run(self, text: str) -> Any:
            summary = await first(text)
            return (await second(f"Analyze:\n{summary}")).content

    assert await Chain().run("the text") == "echo: Analyze:\necho: the text"
    assert not [b for b in server.bodies() if "Value(" in b or "Traced" in b or "coroutine" in b or "<call" in b]

    class Forgetful(HyperSystem):
        async def run(self, text: str) -> Any:
            return (await second(f"Analyze:\n{first(text)}")).content

    with pytest.raises(ExecutionError, match="await first"):
        await Forgetful().run("x")


async def test_recording_changes_nothing(server: LLMServer, play: Play, runtime: LLMRuntime) -> None:
    play(Rule(contains="list", content='```json\n{"yes": [1, 2]}\n```'))
    ask = make_llm_completion("m", name="ask")

    class Branching(HyperSystem):
        async def run(self) -> Any:
            found = parse_json((await ask("a list")).content)
            if "yes" in found:
                return {"items": [i + 1 for i in found["yes"]], "constant": 3, "one": [(await ask("x")).content]}
            return None

    plain = await Branching().run()
    tape = Tape()
    with recording(tape):
        recorded = await Branching().run()
    assert plain == recorded == {"items": [2, 3], "constant": 3, "one": ["echo: x"]}
    calls = [call for call in tape if call.function == "ask"]
    assert [c.usage.calls for c in calls] == [1, 1]
    assert calls[0].metadata["model"] == "loopback"
    assert tape.usage.output_tokens * 2 == server.counters()["tokens"]["completion"]


async def test_retries_and_timeout_become_budgets(server: LLMServer, play: Play, runtime: LLMRuntime) -> None:
    play(Rule(fault="status", status=500))
    ask = make_llm_completion("m", retries=3)
    with pytest.raises(TransportError):
        await ask("x")
    assert server.counters()["requests"] == 4
    with pytest.raises(TransportError):
        await ask.with_options(retries=1)("x")
    assert server.counters()["requests"] == 6

    @llm_hyperfunction(retries=0, timeout_s=30)
    async def user_function(question: str) -> Any:
        return (await llm_completion("m", question)).content

    with pytest.raises(TransportError):
        await user_function("x")
    assert server.counters()["requests"] == 7
    with Settings(retries=1), pytest.raises(TransportError):
        await llm_completion("m", "x")
    assert server.counters()["requests"] == 9


class Asking(HyperSystem):
    """A program of one model call."""

    def __init__(self, ask: Any) -> None:
        super().__init__()
        self.ask = ask
        self.register_hyperfunction(ask)

    async def run(self, question: str) -> Any:
        return (await self.ask(question)).content


@pytest.mark.parametrize("said", ["decorator", "with_options", "settings", "endpoint"])
@pytest.mark.parametrize("fault", ["status", "hang", "bad_json"])
async def test_limits_count_exactly_once_inside_a_system(
    server: LLMServer, play: Play, make_runtime: Callable[..., LLMRuntime], said: str, fault: str
) -> None:
    """Two repeats are three requests, and each of them has its own clock, wherever that is said."""
    play(Rule(fault=fault, status=500, hang_s=30.0))
    timeout_s = 0.1 if fault == "hang" else 30.0
    limited: dict[str, Any] = {"retries": 2, "timeout_s": timeout_s}
    here = limited if said == "decorator" else {}
    budgets: dict[str, Any] = {"transport_retries": 2, "content_retries": 2, "attempt_timeout_s": timeout_s}
    ask: Any = make_llm_completion("m", endpoint=Endpoint(**budgets) if said == "endpoint" else None, **here)
    if said == "with_options":
        ask = ask.with_options(**limited)
    ledger = UsageLedger()
    settings = Settings(**limited) if said == "settings" else contextlib.nullcontext()
    with use_runtime(make_runtime()), enter_scope(ledger=ledger), settings, pytest.raises(TransportError):
        await Asking(ask).run("x")
    assert server.counters()["requests"] == ledger.total.calls == 3


async def test_a_call_that_ends_in_time_pays_no_second_clock(
    server: LLMServer, play: Play, runtime: LLMRuntime
) -> None:
    """``timeout_s`` is each attempt's: three attempts of 0.2 s may take longer than 0.5 s together."""
    play(Rule(fault="status", status=500, latency_s=0.2, times=2), latency_s=0.2)
    ask = make_llm_completion("m", retries=2, timeout_s=0.5)
    assert await Asking(ask).run("x") == "echo: x"
    assert server.counters()["requests"] == 3


async def test_max_calls_is_kept_by_core_all_the_same(server: LLMServer, runtime: LLMRuntime) -> None:
    ask = make_llm_completion("m", max_calls=2, retries=3)

    class Thrice(HyperSystem):
        async def run(self, question: str) -> Any:
            return [(await ask(f"{question} {i}")).content for i in range(3)]

    system = Thrice()
    system.register_hyperfunction(ask)
    with pytest.raises(CallLimitError):
        await system.run("x")
    assert server.counters()["requests"] == 2


def test_a_delegated_policy_says_no_limits_of_its_own() -> None:
    for limits in ({"retries": 1}, {"timeout_s": 1.0}):
        with pytest.raises(ConfigurationError, match="delegated"):
            CallPolicy(**limits, delegated=True)
    assert CallPolicy(delegated=True).replaced(max_calls=3) == CallPolicy(max_calls=3, delegated=True)
    assert not CallPolicy(delegated=True).limits_calls


async def test_a_plain_retry_outside_does_not_multiply(server: LLMServer, play: Play, runtime: LLMRuntime) -> None:
    play(Rule(fault="status", status=500))

    @hyperfunction(retries=5)
    async def outer(question: str) -> Any:
        return (await llm_completion("m", question, retries=1)).content

    with pytest.raises(TransportError):
        await outer("x")
    assert server.counters()["requests"] == 2


async def test_the_timeout_of_a_function_starts_at_admission(
    server: LLMServer, play: Play, make_runtime: Callable[..., LLMRuntime]
) -> None:
    play(latency_s=0.1)
    ask = make_llm_completion("m", timeout_s=0.4, retries=0)
    with use_runtime(make_runtime(concurrency=1)):
        start = time.perf_counter()
        assert len(await asyncio.gather(*(ask(f"q{i}") for i in range(5)))) == 5
        assert time.perf_counter() - start > 0.4
        with Settings(timeout_s=0.4):
            assert len(await asyncio.gather(*(llm_completion("m", f"r{i}") for i in range(5)))) == 5


async def test_streams_of_text(server: LLMServer, runtime: LLMRuntime) -> None:
    pieces = await llm_completion("m", "a b", stream=True)
    assert isinstance(pieces, AsyncIterator)
    assert [p async for p in pieces] == ["echo:", " a", " b"]
    chunks = [c async for c in llm_stream("m", "a b", temperature=0.1)]
    assert chunks[-1].response is not None
    with enter_scope(evaluating=True):
        whole = await llm_completion("m", "a b", stream=True)
    assert isinstance(whole, LLMResponse)
    with pytest.raises(ConfigurationError, match="stream=True"):
        await llm_completion("m", "x", stream=True, response_model=int)


async def test_raw_and_logprobs(server: LLMServer, runtime: LLMRuntime) -> None:
    response = await llm_completion("m", "hi", raw=True, logprobs=True)
    assert isinstance(response, LLMResponse)
    assert response.raw["choices"][0]["message"]["content"] == "echo: hi"
    assert response.logprobs["content"][0]["logprob"] == -0.5


class City(BaseModel):
    name: str
    size: int


@dataclass
class Point:
    x: float
    y: float


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1]}',
        'Sure! ```json\n{"a": [1]}\n``` Anything else?',
        '```\n{"a": [1]}\n```',
        'The answer is {"a": [1]}, I think.',
        'A stray { brace, then {"a": [1]}',
        ' \n{"a": [1]}\n ',
    ],
)
def test_json_in_any_wrapping(text: str) -> None:
    assert parse_json(text) == {"a": [1]}


@pytest.mark.parametrize("text", ["", "no", '{"a": 1,}', "{'a': 1}", '{"a": [1}', 'See: {"a": [1, 2], "b": oops}'])
def test_broken_json_is_not_guessed_at(text: str) -> None:
    with pytest.raises(OutputValidationError):
        parse_json(text)


async def test_structured_output(server: LLMServer, play: Play, make_runtime: Any, transport: str) -> None:
    play(Rule(contains="fenced", content='Here:\n```json\n{"name": "Bonn", "size": 3}\n```'))
    with use_runtime(make_runtime(transport)):
        assert (await llm_completion("m", "fenced", response_model=City)).parsed == City(name="Bonn", size=3)
        assert (await llm_completion("m", "any", response_model=Point)).parsed == Point(1.0, 1.0)
        assert (await llm_completion("m", "any", response_model=list[int])).parsed == [1]
    assert json.loads(server.bodies()[0])["response_format"]["json_schema"]["name"] == "City"


async def test_invalid_output_goes_back_to_the_model(server: LLMServer, play: Play, runtime: LLMRuntime) -> None:
    play(Rule(contains="city?", content='{"name": "Bonn", "size": "big"}'))
    response = await llm_completion("m", "city?", response_model=City)
    assert isinstance(response, LLMResponse)
    assert response.attempts == 2
    conversation = json.loads(server.bodies()[-1])["messages"]
    assert [m["role"] for m in conversation] == ["user", "assistant", "user"]
    assert "size" in conversation[-1]["content"]
    play(Rule(content='{"name": "Bonn", "size": "big"}'))
    with pytest.raises(OutputValidationError) as caught:
        await llm_completion("m", "city?", response_model=City, endpoint=Endpoint(content_retries=1))
    assert caught.value.partial == {"name": "Bonn"}
    assert caught.value.usage.calls == server.counters()["requests"] == 2


@hyperfunction
async def weather(city: str, days: int = 1) -> dict[str, Any]:
    """The weather in a city."""
    if city == "Atlantis":
        raise LookupError("it sank")
    return {"city": city, "days": days}


def plain_tool(number: int) -> int:
    """Doubles a number."""
    return number * 2


async def test_an_agent_runs_tools_at_once_and_answers(
    server: LLMServer, play: Play, make_runtime: Any, transport: str
) -> None:
    wanted = (
        {"name": "weather", "arguments": {"city": "Bonn", "days": 2}},
        {"name": "weather", "arguments": {"city": "Atlantis"}},
        {"name": "plain_tool", "arguments": {"number": 21}},
        {"name": "plain_tool", "arguments": {"number": "many"}},
        {"name": "absent", "arguments": {}},
    )
    play(Rule(contains="go", role="user", tool_calls=wanted))
    with use_runtime(make_runtime(transport)):
        result = await make_llm_agent("m", [weather, plain_tool], system_prompt="Use tools.")("go")
    assert result.rounds == 2
    texts = [text for _, text in result.tool_calls]
    assert json.loads(texts[0]) == {"city": "Bonn", "days": 2}
    assert texts[1] == "error: LookupError: it sank"
    assert texts[2] == "42"
    assert texts[3].startswith("error: invalid arguments")
    assert texts[4].startswith("error: there is no tool 'absent'")
    described = json.loads(server.bodies()[0])["tools"]
    assert [t["function"]["name"] for t in described] == ["weather", "plain_tool"]
    assert described[0]["function"]["parameters"]["required"] == ["city"]
    assert result.messages[-1]["role"] == "assistant"


async def test_an_agent_stops_at_its_limits(server: LLMServer, play: Play, runtime: LLMRuntime) -> None:
    play(Rule(tool_calls=({"name": "plain_tool", "arguments": {"number": 1}},) * 3))
    with pytest.raises(ToolLoopError, match="max_rounds=3"):
        await make_llm_agent("m", [plain_tool], max_rounds=3)("go")
    assert server.counters()["requests"] == 3
    with pytest.raises(ToolLoopError, match="max_tool_calls=5"):
        await make_llm_agent("m", [plain_tool], max_tool_calls=5)("go")


async def test_what_is_not_the_models_business_passes_through(
    server: LLMServer, play: Play, runtime: LLMRuntime
) -> None:
    play(Rule(role="user", tool_calls=({"name": "broke", "arguments": {}},)))

    async def broke() -> str:
        """Costs more than there is."""
        raise BudgetExceededError("no room", limit="usd")

    with pytest.raises(BudgetExceededError):
        await make_llm_agent("m", [broke])("go")


def test_tools_that_cannot_be_described() -> None:
    with pytest.raises(ConfigurationError, match="docstring"):
        Tool(lambda x: x, name="anonymous")

    def many(*values: int) -> None:
        """Takes many."""

    with pytest.raises(ConfigurationError, match=r"\*values"):
        Tool(many)


def test_images(tmp_path: Any) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"0" * 8
    (tmp_path / "a.png").write_bytes(png)
    assert image_part(png)["image_url"]["url"].startswith("data:image/png;base64,")
    assert image_part(tmp_path / "a.png", detail="low")["image_url"]["detail"] == "low"
    assert image_part("https://x/y.png")["image_url"]["url"] == "https://x/y.png"
    assert user_message("no image") == {"role": "user", "content": "no image"}
    with pytest.raises(ConfigurationError, match="PNG"):
        image_part(b"text")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        image_part(tmp_path / "none.png")


async def test_an_image_arrives(server: LLMServer, make_runtime: Any, transport: str) -> None:
    with use_runtime(make_runtime(transport)):
        response = await llm_completion("m", [user_message("what is it?", b"\x89PNG\r\n\x1a\n123")])
    assert isinstance(response, LLMResponse)
    assert response.content.startswith("echo: what is it?")
    assert "data:image/png;base64,iVBORw0KGgoxMjM=" in server.bodies()[-1]


async def test_context_settings_reach_components(server: LLMServer) -> None:
    with Endpoints({"fast": Endpoint(model="openai/a", base_url=server.base_url, transport="direct")}):
        assert (await make_llm_completion("fast")("x")).model == "a"


async def test_an_empty_reply_says_why(server: LLMServer, play: Play, runtime: LLMRuntime) -> None:
    play(Rule(fault="empty", finish_reason="length"))
    with pytest.raises(EmptyResponseError, match="'length'"):
        await llm_completion("m", "x")


async def test_a_missing_alias_fails_before_an_optimization_has_called_anything() -> None:
    calls: list[str] = []

    @llm_hyperfunction(aliases=("fast",))
    async def summarise(text: str) -> str:
        calls.append(text)
        return text

    class Program(HyperSystem):
        async def run(self, text: str) -> str:
            return await summarise(text)

    system = Program()
    system.register_hyperfunction(summarise)
    examples = [Example({"text": "a"}, "a")]
    with pytest.raises(UnknownAliasError, match="fast"):
        await system.evaluate(examples, "exact-match")
    with pytest.raises(UnknownAliasError, match="fast"):
        await system.optimize(examples, "exact-match")
    assert calls == []
