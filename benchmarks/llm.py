"""Calls per second and CPU per call of ways to ask a model, against the loopback server in a process of its own.

Legs run interleaved, so that a busy machine slows all of them alike; medians with their quartiles are printed.

    python benchmarks/llm.py throughput      # raw HTTP clients, litellm, hyperfunc
    python benchmarks/llm.py overhead        # CPU that hyperfunc adds to a call
    python benchmarks/llm.py storm           # a server that allows 50 requests a second, 500 workers
    python benchmarks/llm.py faults          # 10 000 items, 5 % injected faults of every kind, both transports
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from hyperfunc.batch import batch
from hyperfunc.calls import MemoryCallStore
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.testing.llm_server import Rule, Script, ServerProcess
from hyperfunc_llm import Endpoint, LLMRequest, LLMRuntime

Ask = Callable[[str], Awaitable[Any]]


async def _drive(ask: Ask, calls: int, concurrency: int, prefix: str) -> tuple[float, float]:
    """Calls per second and milliseconds of this process's CPU per call."""
    slots = asyncio.Semaphore(concurrency)

    async def one(i: int) -> None:
        async with slots:
            await ask(f"{prefix} {i}")

    gc.collect()
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one(i) for i in range(calls)))
    return calls / (time.perf_counter() - start), (time.process_time() - cpu) / calls * 1e3


def _request(text: str) -> LLMRequest:
    return LLMRequest([{"role": "user", "content": text}], {"temperature": 0.5})


def _hyperfunc(runtime: LLMRuntime, alias: str) -> Ask:
    return lambda text: runtime.complete(alias, _request(text))


def _runtime(base_url: str) -> LLMRuntime:
    endpoint = Endpoint(model="openai/loopback", base_url=base_url)
    return LLMRuntime({"litellm": endpoint, "direct": replace(endpoint, transport="direct")})


def _raw_litellm(base_url: str) -> Ask:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    litellm.suppress_debug_info = True

    async def ask(text: str) -> Any:
        messages = [{"role": "user", "content": text}]
        return await litellm.acompletion(
            "openai/loopback", messages, temperature=0.5, api_base=base_url, api_key="none", max_retries=0
        )

    return ask


def _raw_aiohttp(session: Any, base_url: str) -> Ask:
    async def ask(text: str) -> Any:
        body = {"model": "loopback", "messages": [{"role": "user", "content": text}], "temperature": 0.5}
        async with session.post(f"{base_url}/chat/completions", json=body) as response:
            return json.loads(await response.read())

    return ask


def _raw_httpx(client: Any, base_url: str) -> Ask:
    async def ask(text: str) -> Any:
        body = {"model": "loopback", "messages": [{"role": "user", "content": text}], "temperature": 0.5}
        return (await client.post(f"{base_url}/chat/completions", json=body)).json()

    return ask


def _abl(base_url: str, calls: int, concurrency: int) -> Callable[[str], Awaitable[None]] | None:
    """async-batch-llm over litellm, if it is installed; it brings its own loop over items."""
    try:
        from async_batch_llm import (  # type: ignore[import-not-found]
            CallableStrategy,
            CallOutcome,
            LLMWorkItem,
            ParallelBatchProcessor,
            ProcessorConfig,
        )
    except ImportError:
        return None
    ask = _raw_litellm(base_url)

    async def call(prompt: str, *, attempt: int, timeout: float, state: Any) -> Any:
        reply = await ask(prompt)
        tokens = {"input_tokens": reply.usage.prompt_tokens, "output_tokens": reply.usage.completion_tokens}
        return CallOutcome(reply.choices[0].message.content, tokens)

    async def leg(prefix: str) -> None:
        config = ProcessorConfig(max_workers=concurrency)
        async with ParallelBatchProcessor(config=config) as processor:
            for i in range(calls):
                item = LLMWorkItem(item_id=str(i), strategy=CallableStrategy(call), prompt=f"{prefix} {i}")
                await processor.add_work(item)
            await processor.process_all()

    return leg


def _report(results: dict[str, list[tuple[float, float]]]) -> None:
    print(f"{'leg':34}{'calls/s':>10}{'quartiles':>18}{'CPU ms/call':>13}")
    for name, runs in results.items():
        rates, cpus = zip(*runs, strict=True)
        low, median, high = statistics.quantiles(rates, n=4) if len(rates) > 1 else (rates[0],) * 3
        print(f"{name:34}{median:10.0f}{f'{low:.0f}–{high:.0f}':>18}{statistics.median(cpus):13.3f}")


async def throughput(
    server: ServerProcess, calls: int, concurrency: int, latency_s: float, repeats: int, only: str
) -> None:
    """Calls/s of all legs (or of those whose name contains a word of ``only``), interleaved."""
    import aiohttp
    import httpx

    server.play(Script(latency_s=latency_s))
    print(f"{calls} calls, {concurrency} at a time, {latency_s * 1e3:.0f} ms latency, {repeats} interleaved repeats")
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        httpx.AsyncClient(limits=limits, timeout=120) as client,
        _runtime(server.base_url) as runtime,
    ):
        legs: dict[str, Ask] = {
            "raw httpx": _raw_httpx(client, server.base_url),
            "raw aiohttp": _raw_aiohttp(session, server.base_url),
            "litellm + gather + semaphore": _raw_litellm(server.base_url),
            "hyperfunc, litellm": _hyperfunc(runtime, "litellm"),
            "hyperfunc, direct": _hyperfunc(runtime, "direct"),
        }
        wanted = only.split(",")
        legs = {name: ask for name, ask in legs.items() if any(word in name for word in wanted)}
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in legs}
        abl = _abl(server.base_url, calls, concurrency) if any(word in "async-batch-llm" for word in wanted) else None
        for ask in legs.values():
            await ask("warm up")
        for number in range(repeats):
            names = list(legs)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                results[name].append(await _drive(legs[name], calls, concurrency, f"{name} {number}"))
            if abl is not None:
                start, cpu = time.perf_counter(), time.process_time()
                await abl(f"abl {number}")
                rate = calls / (time.perf_counter() - start)
                results.setdefault("async-batch-llm, litellm", []).append(
                    (rate, (time.process_time() - cpu) / calls * 1e3)
                )
        _report(results)
        median = {name: statistics.median(rate for rate, _ in runs) for name, runs in results.items()}
        raw = median.get("litellm + gather + semaphore")
        for name in ("hyperfunc, litellm", "hyperfunc, direct"):
            if raw is not None and name in median:
                print(f"{name} / litellm alone: {median[name] / raw:.3f}")


async def overhead(server: ServerProcess, calls: int, concurrency: int, repeats: int) -> None:
    """CPU per call above a raw aiohttp client, without and with a call store."""
    import aiohttp

    server.play(Script(latency_s=0.05))
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        _runtime(server.base_url) as runtime,
    ):
        raw, ours = _raw_aiohttp(session, server.base_url), _hyperfunc(runtime, "direct")
        results: dict[str, list[tuple[float, float]]] = {"raw aiohttp": [], "hyperfunc": [], "hyperfunc + store": []}
        await ours("warm up")
        for number in range(repeats):
            results["raw aiohttp"].append(await _drive(raw, calls, concurrency, f"raw {number}"))
            with enter_scope(ledger=UsageLedger()):
                results["hyperfunc"].append(await _drive(ours, calls, concurrency, f"ours {number}"))
            with enter_scope(ledger=UsageLedger(), store=MemoryCallStore()):
                results["hyperfunc + store"].append(await _drive(ours, calls, concurrency, f"store {number}"))
        _report(results)
        cpu = {name: statistics.median(c for _, c in runs) for name, runs in results.items()}
        print(f"added CPU per call: {cpu['hyperfunc'] - cpu['raw aiohttp']:.3f} ms without the store, ", end="")
        print(f"{cpu['hyperfunc + store'] - cpu['raw aiohttp']:.3f} ms with it")


async def _record_sends(runtime: LLMRuntime, name: str) -> list[float]:
    """Times at which the transport is told to send, on the event loop's clock (that of ``Gate.cooldowns``)."""
    transport: Any = await runtime.state.transport(name)
    send, times = transport.send, list[float]()

    async def recorded(request: Any) -> Any:
        times.append(asyncio.get_running_loop().time())
        return await send(request)

    transport.send = recorded
    return times


async def storm(server: ServerProcess, items: int, workers: int, transport: str) -> None:
    """A server that allows 50 requests in any second; nobody is told."""
    server.play(Script(latency_s=0.05, limit=50))
    endpoint = Endpoint(model="openai/loopback", base_url=server.base_url, transport=transport, rate_limit_retries=1000)
    async with LLMRuntime({"storm": endpoint}) as runtime:
        sent = await _record_sends(runtime, transport)
        start = time.perf_counter()
        ok = 0
        async for result in batch(
            _hyperfunc(runtime, "storm"), [f"item {i}" for i in range(items)], concurrency=workers
        ):
            ok += result.ok
        seconds = time.perf_counter() - start
        cooldowns = runtime.state.gate("storm", runtime.endpoint("storm")).cooldowns
        times, counters = server.arrivals(), server.counters()
    wasted = len(times["rejections"])
    inside = sum(any(start < t < end for start, end in cooldowns) for t in sent)
    print(f"{transport}: {ok} of {items} items ok in {seconds:.1f} s ({ok / seconds:.1f}/s of 50/s allowed)")
    print(f"  {counters['requests']} requests, {wasted} wasted ({wasted / counters['requests']:.2%}), ", end="")
    print(f"{len(cooldowns)} cooldowns, {inside} requests sent inside one")


_FAULTS = (
    Rule(fault="status", status=500, fraction=0.007),
    Rule(fault="status", status=503, fraction=0.007),
    Rule(fault="status", status=429, retry_after="0.05", fraction=0.0007),
    Rule(fault="truncate", fraction=0.007),
    Rule(fault="bad_json", fraction=0.007),
    Rule(fault="content_type", fraction=0.007),
    Rule(fault="disconnect", fraction=0.007),
    Rule(fault="hang", hang_s=30.0, fraction=0.002),
    Rule(fault="empty", fraction=0.003),
    Rule(fault="status", status=400, fraction=0.003),
)


async def faults(server: ServerProcess, items: int, concurrency: int, transport: str, seconds: float) -> bool:
    """Every kind of fault, 5 % in all, for ``items`` items or as many as are accepted in ``seconds``.

    Returns:
        Whether every accepted item has exactly one result, and the books agree with the server's.
    """
    server.play(Script(latency_s=0.01, rules=_FAULTS))
    endpoint = Endpoint(
        model="openai/loopback",
        base_url=server.base_url,
        transport=transport,
        backoff_s=0.01,
        attempt_timeout_s=1.0 if transport == "direct" else 5.0,
        transport_retries=5,
    )
    ledger = UsageLedger()
    memory: list[int] = []
    seen: Counter[int] = Counter()
    errors: Counter[str] = Counter()
    start = time.perf_counter()

    def source() -> Iterator[str]:
        for i in range(items):
            if time.perf_counter() - start > seconds:
                return
            yield f"item {i}"

    async with LLMRuntime({"faults": endpoint}) as runtime:
        with enter_scope(ledger=ledger):
            results = batch(_hyperfunc(runtime, "faults"), source(), concurrency=concurrency)
            async for result in results:
                seen[result.index] += 1
                if result.error is not None:
                    errors[type(result.error).__name__] += 1
                if len(seen) % 1000 == 0:
                    memory.append(_resident_kib())
            elapsed = time.perf_counter() - start
    counters, total = server.counters(), ledger.total
    exactly_once = len(seen) == results.accepted and set(seen.values()) == {1}
    tokens = counters["tokens"]
    ours = (total.calls, total.input_tokens, total.output_tokens)
    theirs = (counters["requests"], tokens["prompt"], tokens["completion"])
    print(
        f"{transport}: {len(seen)} of {items} items in {elapsed:.1f} s; each exactly one result: {exactly_once}; ",
        end="",
    )
    print(f"errors {dict(errors)}\n  faults served: {counters['faults']}")
    print("  ledger {} calls, {} + {} tokens; ".format(*ours), end="")
    print("server {} requests, {} + {} tokens".format(*theirs))
    print(f"  resident memory after each thousand (MiB): {[m // 1024 for m in memory]}")
    return exactly_once and ours == theirs


async def all_faults(server: ServerProcess, items: int, concurrency: int, seconds: float) -> None:
    """All items directly, and through litellm as many as its 3 ms of CPU per call allow in the same time."""
    agreed = [await faults(server, items, concurrency, "direct", float("inf"))]
    agreed.append(await faults(server, items, concurrency, "litellm", seconds))
    if not all(agreed):
        raise SystemExit("the books do not agree with the server's")


def _resident_kib() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() // 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "overhead", "storm", "faults"))
    parser.add_argument("--calls", type=int)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--transport", choices=("direct", "litellm"), default="direct", help="storm: through which")
    parser.add_argument("--seconds", type=float, default=60.0, help="faults: for the items through litellm")
    parser.add_argument("--legs", default="", help="comma-separated words; only legs whose names contain one")
    given = parser.parse_args()
    with ServerProcess() as server:
        match given.what:
            case "throughput":
                work = throughput(
                    server, given.calls or 1000, given.concurrency or 256, given.latency, given.repeats, given.legs
                )
            case "overhead":
                work = overhead(server, given.calls or 2000, given.concurrency or 64, given.repeats)
            case "storm":
                work = storm(server, given.calls or 2000, given.concurrency or 500, given.transport)
            case _:
                work = all_faults(server, given.calls or 10_000, given.concurrency or 64, given.seconds)
        asyncio.run(work)


if __name__ == "__main__":
    main()
