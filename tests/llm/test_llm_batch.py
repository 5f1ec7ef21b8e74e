"""Batches: bounded, ordered, resumable, stopped as a whole (acceptance checks 4, 14, 15 and 16)."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hyperfunc.batch import Artifacts, BatchResult, BatchStoppedError, FatalError, ReplayedError, batch
from hyperfunc.errors import ConfigurationError, JournalError
from hyperfunc.scope import UsageLedger, current_scope, enter_scope
from hyperfunc.testing.llm_server import LLMServer, Rule, Script, ServerProcess
from hyperfunc.usage import Usage
from hyperfunc_llm import AuthenticationError, LLMRuntime


async def double(x: int) -> int:
    await asyncio.sleep(0.001 * (x % 3))
    if x % 7 == 3:
        raise ValueError(f"no {x}")
    return 2 * x


async def read(results: Any) -> list[BatchResult[Any, Any]]:
    return [result async for result in results]


@pytest.mark.parametrize("order", ["input", "completion"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_one_result_per_input(order: Any, asynchronous: bool) -> None:
    async def source() -> AsyncIterator[int]:
        for i in range(100):
            yield i

    progress: list[tuple[int, int | None]] = []
    running = batch(
        double,
        source() if asynchronous else range(100),
        concurrency=7,
        order=order,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    results = await read(running)
    assert sorted(r.index for r in results) == list(range(100))
    if order == "input":
        assert [r.index for r in results] == list(range(100))
    for r in results:
        assert r.ok == (r.input % 7 != 3)
        assert r.output == (2 * r.input if r.ok else None)
    assert progress == [(i + 1, None if asynchronous else 100) for i in range(100)]
    assert running.termination is not None
    assert (running.termination.kind, running.accepted, running.completed) == ("completed", 100, 100)
    with pytest.raises(ConfigurationError, match="already read"):
        aiter(running)


def test_an_error_is_a_value_that_can_be_raised() -> None:
    with pytest.raises(KeyError):
        BatchResult(0, 1, error=KeyError("x")).unwrap()
    assert BatchResult(0, 1, output=5).unwrap() == 5


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"input_queue": 0}, {"result_queue": -1}, {"order": "random"}])
def test_wrong_sizes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        batch(double, [1], **wrong)


class Output:
    alive: ClassVar[weakref.WeakSet[Output]] = weakref.WeakSet()

    def __init__(self) -> None:
        Output.alive.add(self)


@pytest.mark.parametrize("order", ["input", "completion"])
async def test_memory_is_bounded_by_the_queues(order: Any) -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for i in range(200):
            pulled = i + 1
            yield i

    async def work(x: int) -> Output:
        await asyncio.sleep(0)
        return Output()

    most = 0
    position = 0
    async for _ in batch(work, source(), concurrency=3, input_queue=8, result_queue=4, order=order):
        position += 1
        await asyncio.sleep(0.001)  # a slow reader
        most = max(most, len(Output.alive))
        assert pulled <= position + 8 + 4 + 3 * 2 + 1
    assert most <= 4 + 3 + 1


@pytest.mark.parametrize("how", ["break", "context"])
async def test_leaving_early_cancels_the_rest_and_closes_the_source(how: str) -> None:
    closed = cancelled = started = 0

    async def source() -> AsyncIterator[int]:
        nonlocal closed
        try:
            for i in range(10_000):
                yield i
        finally:
            closed += 1

    async def work(x: int) -> int:
        nonlocal cancelled, started
        started += 1
        if x < 3:
            return x
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return x

    before = asyncio.all_tasks()
    if how == "context":
        async with batch(work, source(), concurrency=5) as results:
            async for _ in results:
                break
    else:
        async for _ in batch(work, source(), concurrency=5):
            break
    gc.collect()
    for _ in range(20):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert closed == 1
    assert cancelled == started - 3


async def test_a_failing_source_still_gives_what_was_accepted() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk is gone")

    seen = []
    results = aiter(batch(double, source(), concurrency=2))
    for _ in range(5):
        seen.append((await anext(results)).index)
    with pytest.raises(OSError, match="disk"):
        await anext(results)
    assert seen == list(range(5))


async def test_cancellation_of_the_reader_cancels_everything() -> None:
    started = asyncio.Event()

    async def work(x: int) -> None:
        started.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(read(batch(work, range(10), concurrency=4)))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("mode", ["drain", "cancel"])
async def test_shutdown(mode: Any) -> None:
    release = asyncio.Event()

    async def work(x: int) -> int:
        await release.wait()
        return x

    running = batch(work, range(1000), concurrency=4, input_queue=4)
    reading = asyncio.create_task(read(running))
    for _ in range(100):
        await asyncio.sleep(0)
    assert running.accepted >= 8
    stopping = asyncio.create_task(running.shutdown(mode))
    await asyncio.sleep(0)
    release.set()
    await stopping
    results = await reading
    assert [r.index for r in results] == list(range(running.accepted))
    assert running.accepted < 20
    assert [r.ok for r in results[:4]] == [mode == "drain"] * 4
    assert all(isinstance(r.error, BatchStoppedError) for r in results[4:])
    assert running.termination is not None
    assert running.termination.kind == "shutdown"


async def test_the_deadline_of_a_batch() -> None:
    async def work(x: int) -> int:
        await asyncio.sleep(0 if x < 2 else 60)
        return x

    running = batch(work, range(100), concurrency=3, input_queue=3, deadline_s=0.05)
    results = await read(running)
    assert [r.ok for r in results[:2]] == [True, True]
    assert len(results) == running.accepted < 20
    assert all(isinstance(r.error, BatchStoppedError) for r in results[2:])
    assert running.termination is not None
    assert running.termination.kind == "deadline"


async def test_a_function_can_say_what_is_fatal() -> None:
    running = batch(double, range(1000), concurrency=2, fail_fast=lambda e: isinstance(e, ValueError))
    results = await read(running)
    assert results[3].error is not None
    assert len(results) == running.accepted < 20
    unstoppable = await read(batch(double, range(20), fail_fast=True))
    assert len(unstoppable) == 20  # a ValueError is no FatalError


@pytest.mark.parametrize("fail_fast", [True, False])
async def test_a_dead_key_stops_a_batch(
    server: LLMServer,
    play: Callable[..., None],
    make_runtime: Callable[..., LLMRuntime],
    ask: Any,
    transport: str,
    fail_fast: bool,
) -> None:
    play(Rule(fault="status", status=401))
    runtime = make_runtime(transport)
    running = batch(lambda i: ask(runtime, f"q{i}"), range(1000), concurrency=8, fail_fast=fail_fast)
    results = await read(running)
    assert server.counters()["requests"] <= 8
    assert [r.index for r in results] == list(range(running.accepted))
    assert not any(r.ok for r in results)
    assert running.termination is not None
    if fail_fast:
        assert running.termination.kind == "fatal"
        assert isinstance(running.termination.error, AuthenticationError)
        assert running.accepted < 50
    else:
        assert len(results) == 1000


async def test_usage_of_each_item_and_of_all() -> None:
    async def work(x: int) -> int:
        ledger = current_scope().ledger
        assert ledger is not None
        ledger.record("m", Usage(calls=x))
        if x == 3:
            raise ValueError
        return x

    with enter_scope(ledger=UsageLedger()) as scope:
        results = await read(batch(work, range(5)))
    assert [r.usage.calls for r in results] == [0, 1, 2, 3, 4]
    assert scope.ledger is not None
    assert scope.ledger.total.calls == 10


class Counting:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def __call__(self, x: Any) -> Any:
        self.calls.append(x)
        if x == "fails":
            raise ValueError("as ordered")
        return {"of": x}


async def test_resumes_from_artifacts(tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.jsonl"
    inputs = ["a", "b", "fails", "a"]
    first = Counting()
    assert [r.ok for r in await read(batch(first, inputs, artifacts=path))] == [True, True, False, True]
    assert first.calls == inputs  # two equal inputs are two items
    again = Counting()
    results = await read(batch(again, inputs, artifacts=path))
    assert again.calls == ["fails"]
    assert [r.replayed for r in results] == [True, True, False, True]
    assert results[0].output == {"of": "a"}
    everything = Counting()
    results = await read(batch(everything, inputs, artifacts=Artifacts(path, reuse="all")))
    assert everything.calls == []
    assert isinstance(results[2].error, ReplayedError)
    assert results[2].error.kind == "ValueError"
    nothing = Counting()
    await read(batch(nothing, inputs, artifacts=Artifacts(path, reuse="none")))
    assert nothing.calls == inputs
    assert "as ordered" in path.read_text()
    assert '"a"' not in path.read_text().replace('"of": "a"', "")  # inputs are not written


async def test_another_identity_is_another_result(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for identity in ({"theta": 1}, {"theta": 2}, {"theta": 2, "model": "x"}):
        counting = Counting()
        await read(batch(counting, ["a"], artifacts=Artifacts(path, identity=identity)))
        assert counting.calls == ["a"]


async def test_a_torn_last_line_is_dropped_and_a_broken_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    await read(batch(Counting(), ["a", "b"], artifacts=path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    counting = Counting()
    await read(batch(counting, ["a", "b"], artifacts=path))
    assert counting.calls == ["b"]
    assert path.read_bytes() == whole or len(path.read_text().splitlines()) == 3
    lines = whole.decode().splitlines(keepends=True)
    path.write_text(lines[0] + "{broken\n" + lines[2])
    with pytest.raises(JournalError, match="line 2"):
        await read(batch(Counting(), ["a"], artifacts=path))


async def test_inputs_and_outputs_that_are_no_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(ConfigurationError, match="key="):
        await read(batch(Counting(), [object()], artifacts=path))

    async def opaque(x: Any) -> Any:
        return {1, 2}

    assert (await read(batch(opaque, ["a"], artifacts=path)))[0].output == {1, 2}
    assert "encode=" in caplog.text
    assert not (await read(batch(opaque, ["a"], artifacts=path)))[0].replayed
    coded = Artifacts(path, {"v": 2}, key=str, encode=sorted, decode=set)
    for replayed in (False, True):
        (result,) = await read(batch(opaque, [{"a"}], artifacts=coded))
        assert (result.output, result.replayed) == ({1, 2}, replayed)


async def test_fatal_errors_are_not_remembered(tmp_path: Path) -> None:
    async def dead(x: str) -> str:
        raise FatalError("no key")

    path = tmp_path / "results.jsonl"
    await read(batch(dead, ["a"], artifacts=path))
    counting = Counting()
    await read(batch(counting, ["a"], artifacts=Artifacts(path, reuse="all")))
    assert counting.calls == ["a"]


_PROGRAM = """
import asyncio, json, sys, urllib.request
from hyperfunc.batch import Artifacts, batch

url, path, prompt = sys.argv[1:]

def post(i):
    body = json.dumps({"messages": [{"role": "user", "content": f"{prompt} {i}"}]}).encode()
    with urllib.request.urlopen(url + "/chat/completions", body) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]

async def main():
    done = 0
    artifacts = Artifacts(path, {"prompt": prompt})
    async for result in batch(lambda i: asyncio.to_thread(post, i), range(60), concurrency=4, artifacts=artifacts):
        assert result.output == f"echo: {prompt} {result.index}", result
        done += not result.replayed
        print(done, flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
def test_killed_and_run_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with ServerProcess(Script(latency_s=0.005)) as server:
        command = [sys.executable, "-c", _PROGRAM, server.base_url, str(path), "first"]
        killed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert killed.stdout is not None
        for line in killed.stdout:
            if int(line) >= 20:
                os.kill(killed.pid, signal.SIGKILL)
                break
        killed.stdout.close()
        killed.wait()
        lines = path.read_bytes().split(b"\n")[1:-1]
        durable = sum(json.loads(line)["ok"] for line in lines)
        assert 20 <= durable < 60
        server.play(Script())
        subprocess.run(command, check=True, capture_output=True)
        assert server.counters()["requests"] == 60 - durable
        server.play(Script())
        subprocess.run([*command[:-1], "second"], check=True, capture_output=True)
        assert server.counters()["requests"] == 60
