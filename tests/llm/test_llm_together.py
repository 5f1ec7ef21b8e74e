"""The runtime with real neighbours: the journal, a budget, plugins, a system under optimization; and the demo."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import runpy
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperfunc.batch import batch
from hyperfunc.budget import Budget
from hyperfunc.errors import BudgetExceededError
from hyperfunc.hookspecs import Register, hookimpl
from hyperfunc.journal import Journal
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.testing.llm_server import LLMServer, Rule
from hyperfunc_llm import Endpoint, ErrorInfo, LLMRequest, LLMRuntime, TransportError, plugin
from hyperfunc_llm.transports import OutgoingRequest, Reply
from hyperfunc_llm.types import TokenUsage

KEY = "hf-Test_9f83kSecretValue77"

FAULTS = (
    Rule(contains="item 1", fault="status", status=500, times=2, body=f"bad key {KEY}"),
    Rule(contains="item 2", fault="status", status=400, body=f"bad key {KEY}"),
    Rule(contains="item 3", fault="truncate", times=1),
    Rule(contains="item 4", fault="empty"),
)


def files_in(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def test_the_journal_keeps_calls_and_no_keys(
    server: LLMServer, play: Callable[..., None], make_runtime: Any, ask: Any, transport: str, tmp_path: Path
) -> None:
    play(*FAULTS)
    call = Endpoint.connection(api_key=KEY, base_url=None)
    journal = Journal(tmp_path / "journal.db")
    try:
        runtime = make_runtime(transport)
        with enter_scope(ledger=UsageLedger(), store=journal.call_store()) as scope:
            artifacts = tmp_path / "results.jsonl"

            async def work(i: int) -> Any:
                return await ask(runtime, f"item {i} ", call=call)

            results = [r async for r in batch(work, range(10), artifacts=artifacts)]
            assert [r.index for r in results if not r.ok] == [2, 4]
            counters = server.counters()
            assert scope.ledger is not None
            assert scope.ledger.total.calls == counters["requests"]
            assert scope.ledger.total.input_tokens == counters["tokens"]["prompt"]
            again = await asyncio.gather(*(work(i) for i in (0, 1, 3, 5, 6, 7, 8, 9)))
            assert all(r.replayed for r in again)
            assert server.counters()["requests"] == counters["requests"]
    finally:
        journal.close()
    assert server._keys == {KEY}
    assert len(files_in(tmp_path)) >= 2
    assert not [data for data in files_in(tmp_path) if KEY.encode() in data]


async def test_a_budget_in_dollars_is_kept(
    server: LLMServer, play: Callable[..., None], make_runtime: Any, ask: Any
) -> None:
    play(Rule(usage={"prompt": 6, "completion": 50}), latency_s=0.002)
    runtime = make_runtime(input_usd=1000.0, output_usd=1000.0, max_output_tokens=50)
    budget = Budget(usd=1.0)  # 0.056 a call, of which 17 fit
    with enter_scope(budget=budget):
        results = await asyncio.gather(*(ask(runtime, f"q{i}") for i in range(100)), return_exceptions=True)
    paid = [r for r in results if not isinstance(r, BaseException)]
    assert all(isinstance(r, BudgetExceededError) for r in results if isinstance(r, BaseException))
    assert len(paid) == server.counters()["requests"] == 17
    assert budget.spent.usd == pytest.approx(17 * 0.056)


async def test_calls_wait_while_those_in_flight_may_give_back(
    server: LLMServer, play: Callable[..., None], make_runtime: Any, ask: Any
) -> None:
    """64 at once, each reserving 1 000 tokens of output where 10 to 90 are used: two worst cases fit at a time."""
    replies = [Rule(contains=f"size {n} ", usage={"prompt": 5, "completion": 10 * n}) for n in range(1, 10)]
    play(*replies, Rule(contains="fails", fault="status", status=500, times=3), latency_s=0.001)
    runtime = make_runtime(max_output_tokens=1000, transport_retries=5)
    budget = Budget(tokens=2500)

    async def one(i: int) -> Any:
        reply = await ask(runtime, f"fails {i}" if i % 20 == 0 else f"size {1 + i % 9} {i}")
        assert budget.overshoot == {}
        return reply

    with enter_scope(budget=budget, ledger=UsageLedger()) as scope:
        results = await asyncio.gather(*(one(i) for i in range(64)), return_exceptions=True)
    counters = server.counters()
    assert counters["peak_in_flight"] == 2
    assert counters["statuses"]["500"] >= 1
    served = [r for r in results if not isinstance(r, BaseException)]
    assert all(isinstance(r, BudgetExceededError) for r in results if isinstance(r, BaseException))
    assert len(served) == counters["statuses"]["200"] > 20
    tokens = counters["tokens"]["prompt"] + counters["tokens"]["completion"]
    assert budget.spent.total_tokens == tokens <= 2500
    assert tokens > 2500 - 1000 - 90  # nobody was refused while there was room for a worst case
    assert budget.spent.calls == counters["requests"]
    assert scope.ledger is not None
    assert scope.ledger.total.total_tokens == tokens


async def test_a_call_made_while_a_stream_is_read_does_not_wait_for_it(
    server: LLMServer, make_runtime: Any, ask: Any
) -> None:
    runtime = make_runtime(max_output_tokens=100)
    with enter_scope(budget=Budget(calls=1)):
        stream = runtime.stream("m", LLMRequest([{"role": "user", "content": "one two three"}]))
        async with contextlib.aclosing(stream):
            await anext(stream)
            with pytest.raises(BudgetExceededError):
                await asyncio.wait_for(ask(runtime, "meanwhile"), 30)


class Memory:
    """A transport that asks nobody."""

    async def load(self) -> None: ...

    async def send(self, request: OutgoingRequest) -> Reply:
        if request.messages[-1]["content"] == "odd":
            raise TransportError("out of tune", sent=False)
        message = {"content": f"{request.provider_model} remembers"}
        return Reply({"model": "x", "choices": [{"message": message}]}, {}, TokenUsage(1, 2, 3))

    async def aclose(self) -> None: ...


class Tuning:
    """Says that being out of tune is fatal, and edits what others say."""

    def classify_custom(self, error: BaseException) -> ErrorInfo | None:
        return ErrorInfo("request", False, hint="tune it") if "out of tune" in str(error) else None

    def post_classify(self, error: BaseException, info: ErrorInfo) -> ErrorInfo:
        return replace(info, hint=info.hint + ", please")


class Musical:
    @hookimpl
    def hyperfunc_register_llm_transports(self, register: Register) -> None:
        register("memory", Memory)

    @hookimpl
    def hyperfunc_register_error_classifiers(self, register: Register) -> None:
        register("tuning", Tuning())


async def test_plugins_bring_transports_and_classifiers() -> None:
    with use_plugins(load_plugins([("musical", Musical())], entry_points=False)):
        async with LLMRuntime({"m": Endpoint(model="any/elephant", transport="memory")}) as runtime:
            request = LLMRequest([{"role": "user", "content": "even"}])
            assert (await runtime.complete("m", request)).content == "elephant remembers"
            with pytest.raises(TransportError) as caught:
                await runtime.complete("m", LLMRequest([{"role": "user", "content": "odd"}]))
    assert caught.value.attempts == 1
    assert "tune it, please" in caught.value.__notes__[0]


class Patient:
    """A transport that never answers."""

    async def load(self) -> None: ...

    async def send(self, request: OutgoingRequest) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def aclose(self) -> None: ...


class Waiting:
    @hookimpl
    def hyperfunc_register_llm_transports(self, register: Register) -> None:
        register("patient", Patient)


async def test_a_call_in_flight_holds_few_objects() -> None:
    """The garbage collector walks over what each of a thousand calls holds: when it was 42 objects more than what the
    transport alone holds, that cost a tenth of the calls per second through litellm. It is 12."""

    async def held(call: Callable[[], Coroutine[Any, Any, Any]], number: int = 100) -> float:
        await asyncio.sleep(0.01)  # the loop lets go of what ended last
        gc.collect()
        before = len(gc.get_objects())
        tasks = [asyncio.create_task(call()) for _ in range(number)]
        for _ in range(3):
            await asyncio.sleep(0)
        objects = len(gc.get_objects()) - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return objects / number

    with use_plugins(load_plugins([("waiting", Waiting())], entry_points=False)):
        async with LLMRuntime({"m": Endpoint(model="any/stone", transport="patient", limited=False)}) as runtime:
            transport: Any = await runtime.state.transport("patient")
            messages = [{"role": "user", "content": "?"}]

            def complete() -> Coroutine[Any, Any, Any]:
                return runtime.complete("m", LLMRequest(messages, {"temperature": 0.5}))

            gc.disable()
            try:
                await held(complete)  # loads what the first call loads
                ours, alone = await held(complete), await held(lambda: transport.send(None))
            finally:
                gc.enable()
    assert 0 < ours - alone <= 14


async def test_litellms_own_callbacks_are_told_and_nothing_runs_without_them(
    make_runtime: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime(transport="litellm")
    await ask(runtime, "warm")
    import litellm
    from litellm.integrations.custom_logger import CustomLogger

    told = asyncio.Event()

    class Told(CustomLogger):
        async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
            told.set()

    def loggers() -> list[str]:
        running = [str(task.get_coro()) for task in asyncio.all_tasks()]
        return [coroutine for coroutine in running if "_client_async_logging_helper" in coroutine]

    before = asyncio.all_tasks()
    monkeypatch.setattr(litellm, "success_callback", ["cache"])  # as after its first call of Gemini
    await ask(runtime, "unobserved")
    assert loggers() == []
    monkeypatch.setattr(litellm, "callbacks", [Told()])
    await ask(runtime, "observed")
    assert len(loggers()) == 1
    await asyncio.wait_for(told.wait(), 30)
    for task in asyncio.all_tasks() - before:  # litellm's queue worker
        task.cancel()


def test_what_this_plugin_registers_can_be_imported() -> None:
    plugins = load_plugins([("llm", plugin)], entry_points=False)
    assert plugins.registry("llm_transports").names() == ["direct", "gemini", "litellm"]
    for name in plugin.TRANSPORTS:
        assert callable(plugins.get("llm_transports", name))


def test_importing_the_plugin_imports_no_sdk() -> None:
    """In this process they may be loaded already, so the module that others import lightly is read instead."""
    import subprocess

    code = (
        "import sys, hyperfunc_llm; print([m for m in ('litellm', 'openai', 'aiohttp', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_demo_climbs_its_ladder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parents[2] / "demos" / "llm_retry_ladder"
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(folder / "run.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "genre='poetry'" in shown
    assert [line.split()[0] for line in shown.splitlines()[:3]] == ["1", "2", "5"]
    assert "in all: 8 prompts" in shown
