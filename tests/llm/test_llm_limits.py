"""Admission: rates, headers, cooldowns by send generation, slow resume (acceptance checks 10 and 11)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any

import pytest

from hyperfunc.errors import ConfigurationError
from hyperfunc.testing import VirtualLoop
from hyperfunc.testing.llm_server import LLMServer, Rule
from hyperfunc_llm import AdaptiveRateLimiter, LLMRequest, LLMRuntime
from hyperfunc_llm.limits import AdaptivePace, EndpointRate, Gate, read_rate_headers, retry_after_s


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry-after": "3"}, 3, 3),
        ({"retry-after": "0.25"}, 0.25, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25, 0.25),
        ({"retry-after": "in 30"}, 25, 30),
        ({"retry-after": "in -30"}, 0, 0),
    ],
)
def test_retry_after(headers: dict[str, str], low: float, high: float) -> None:
    if headers["retry-after"].startswith("in "):
        moment = time.time() + float(headers["retry-after"].removeprefix("in "))
        headers = {"retry-after": formatdate(moment, usegmt=True)}
    seconds = retry_after_s(headers)
    assert seconds is not None
    assert low <= seconds <= high


def test_retry_after_that_says_nothing() -> None:
    assert retry_after_s({}) is None
    assert retry_after_s({"retry-after": "soon"}) is None


def test_rate_headers_of_two_vendors() -> None:
    openai = {
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "6m0.5s",
        "llm_provider-x-ratelimit-remaining-tokens": "100",
        "x-ratelimit-reset-tokens": "20ms",
    }
    read = read_rate_headers(openai)
    assert (read.remaining_requests, read.reset_requests_s) == (7, 360.5)
    assert (read.remaining_tokens, read.reset_tokens_s) == (100, 0.02)
    moment = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    anthropic = {"anthropic-ratelimit-requests-remaining": "3", "anthropic-ratelimit-requests-reset": moment}
    read = read_rate_headers(anthropic)
    assert read.remaining_requests == 3
    assert read.reset_requests_s is not None
    assert 50 < read.reset_requests_s <= 60


def test_pace_estimates_include_the_wait_asked_for() -> None:
    pace = AdaptivePace(decrease=0.5)
    for i in range(60):
        pace.sent(i / 30)
    pace.rejected(2.0, 58.0)
    assert pace.rate == pytest.approx(0.5 * 59 / 60)


def test_pace_returns_to_the_estimate_and_probes_beyond_it() -> None:
    pace = AdaptivePace(decrease=0.5)
    for i in range(101):
        pace.sent(i / 100)
    pace.rejected(1.0, 0.0)
    assert pace.rate == pytest.approx(50, rel=0.02)
    now = 1.0
    for _ in range(300):
        now += 1 / 50
        pace.succeeded(now)
    assert pace.rate is not None
    assert 90 < pace.rate < 110
    for _ in range(200_000):
        now += 1 / 50
        pace.succeeded(now)
    assert pace.rate is None


def test_pace_is_not_learned_from_a_handful() -> None:
    pace = AdaptivePace()
    pace.sent(0.0)
    pace.sent(0.1)
    pace.rejected(0.2, 1.0)
    assert pace.rate is None


def test_pace_does_not_grow_while_idle() -> None:
    pace = AdaptivePace(decrease=0.5)
    for i in range(101):
        pace.sent(i / 100)
    pace.rejected(1.0, 0.0)
    before = pace.rate
    assert before is not None
    pace.succeeded(1.5)
    pace.succeeded(1000.0)
    assert pace.rate is not None
    assert pace.rate < before * 1.1


async def served(done: Callable[[], bool]) -> None:
    """Wait until the server (in this event loop) has seen it."""
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110 - nothing tells when the server counts
            await asyncio.sleep(0.001)


def seconds_of(program: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """How long it takes, in time that passes without waiting."""

    async def timed() -> float:
        await program()
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(timed())


def test_configured_rpm_has_one_second_of_burst() -> None:
    async def program() -> None:
        rate = EndpointRate(rpm=6000)
        for _ in range(130):
            await rate.acquire()

    assert seconds_of(program) == pytest.approx(0.3)


@pytest.mark.parametrize("field", ["rpm", "tpm"])
def test_rates_must_be_positive(field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        EndpointRate(**{field: 0})


def test_tokens_pay_for_estimates_that_were_too_low() -> None:
    async def program() -> None:
        rate = EndpointRate(tpm=60_000)
        await rate.acquire(500)
        rate.record_success(estimated_tokens=500, actual_tokens=900)
        await rate.acquire(500)

    assert seconds_of(program) == pytest.approx(0.4)


def test_0_3_limiter_waits_out_a_429() -> None:
    async def program() -> None:
        limiter = AdaptiveRateLimiter(initial_backoff_seconds=0.1)
        await limiter.acquire("openai")
        assert limiter.record_429("openai") == pytest.approx(0.1)
        await limiter.acquire("openai")
        assert limiter.record_429("openai") == pytest.approx(0.2)
        limiter.record_success("openai")
        assert limiter.record_429("openai") == pytest.approx(0.1)
        assert limiter.get_stats("openai")["requests_per_minute"] is None
        limiter.reset()
        assert limiter.get_stats("openai")["pauses"] == 0

    assert seconds_of(program) == pytest.approx(0.1)


def test_headers_hold_back_what_the_server_would_reject() -> None:
    asked: list[float] = []

    async def program() -> None:
        limiter = AdaptiveRateLimiter()
        limiter.update_from_headers(
            "openai", {"X-RateLimit-Remaining-Requests": "1", "X-RateLimit-Reset-Requests": "150ms"}
        )
        for _ in range(2):
            await limiter.acquire("openai")
            asked.append(asyncio.get_running_loop().time())

    seconds_of(program)
    assert asked == pytest.approx([0.0, 0.15])


async def test_gate_is_fair_and_survives_cancelled_waiters() -> None:
    gate = Gate(EndpointRate(), concurrency=1)
    first = await gate.admit()
    order: list[int] = []

    async def wait(i: int) -> None:
        ticket = await gate.admit()
        order.append(i)
        gate.release(ticket)

    tasks = [asyncio.create_task(wait(i)) for i in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[2].cancel()
    gate.release(first)
    gate.release(first)  # releasing twice is one release
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [1, 3, 4]
    assert gate.in_flight == 0
    assert gate.waiting == 0


async def test_slow_start_grows_with_success() -> None:
    gate = Gate(EndpointRate(), start_window=2)
    tickets = [await gate.admit(), await gate.admit()]
    third = asyncio.create_task(gate.admit())
    await asyncio.sleep(0)
    assert not third.done()
    gate.succeeded(tickets[0])
    gate.release(tickets[0])
    fourth = asyncio.create_task(gate.admit())
    await asyncio.gather(third, fourth)
    assert gate.in_flight == 3


async def test_late_429s_of_an_old_generation_start_no_cooldown() -> None:
    gate = Gate(EndpointRate(), start_window=50)
    tickets = [await gate.admit() for _ in range(10)]
    gate.rate_limited(tickets[0], 0.05)
    for ticket in tickets[1:5]:
        gate.rate_limited(ticket, 0.05)
    assert len(gate.cooldowns) == 1
    await asyncio.sleep(0.07)
    gate.rate_limited(tickets[6], 10.0)  # long after the pause: stale
    assert len(gate.cooldowns) == 1
    await asyncio.wait_for(gate.admit(), 5)


def test_the_longest_retry_after_of_a_generation_holds() -> None:
    async def program() -> None:
        gate = Gate(EndpointRate(), start_window=50)
        a, b = await gate.admit(), await gate.admit()
        gate.rate_limited(a, 0.02)
        gate.rate_limited(b, 0.12)
        await gate.admit()
        assert len(gate.cooldowns) == 1

    assert seconds_of(program) == pytest.approx(0.12, abs=0.005)


@pytest.mark.parametrize("retry_after", ["1", "date:2"])
@pytest.mark.slow
async def test_one_429_pauses_fifty_workers_once(
    server: LLMServer,
    play: Callable[..., None],
    make_runtime: Callable[..., LLMRuntime],
    ask: Callable[..., Any],
    retry_after: str,
) -> None:
    play(Rule(contains="item 20 ", fault="status", status=429, retry_after=retry_after, times=1, latency_s=0.0),
         latency_s=0.05)  # fmt: skip
    runtime = make_runtime(start_window=50)
    results = await asyncio.gather(*(ask(runtime, f"item {i} ") for i in range(90)), return_exceptions=True)
    assert all(not isinstance(r, BaseException) for r in results)
    times = server.arrivals()
    ((rejected_at, _),) = times["rejections"]
    ((start, end),) = runtime.state.gate("m", runtime.endpoint("m")).cooldowns
    assert end > rejected_at + 0.9  # a date has whole seconds: two ahead of a reply is more than one
    arrivals = times["arrivals"]
    assert not [t for t in arrivals if start + 0.03 < t < end]
    after = sorted(t for t in arrivals if t >= end)
    assert sum(t < after[0] + 0.045 for t in after) <= 2  # the first round trip after the pause
    assert server.counters()["statuses"] == {"200": 90, "429": 1}


async def test_the_pause_outlives_the_one_who_reported_it(
    server: LLMServer, play: Callable[..., None], make_runtime: Callable[..., LLMRuntime], ask: Callable[..., Any]
) -> None:
    play(Rule(contains="first", fault="status", status=429, retry_after="0.3", times=1))
    runtime = make_runtime()
    reporter = asyncio.create_task(ask(runtime, "first"))
    await served(lambda: bool(server.arrivals()["rejections"]))
    ((rejected_at, _),) = server.arrivals()["rejections"]
    await asyncio.sleep(0.02)
    reporter.cancel()
    await ask(runtime, "second")
    assert time.monotonic() - rejected_at >= 0.29


@pytest.mark.slow
async def test_rpm_holds_in_every_window(
    server: LLMServer, make_runtime: Callable[..., LLMRuntime], ask: Callable[..., Any]
) -> None:
    runtime = make_runtime(rpm=3000, concurrency=64)
    await asyncio.gather(*(ask(runtime, f"q{i}") for i in range(150)))
    arrivals = sorted(server.arrivals()["arrivals"])
    most = max(sum(t <= u < t + 1.0 for u in arrivals) for t in arrivals)
    # One burst of a second's worth and a second at the rate; a stall of this process bunches some arrivals. All 150
    # would come at once from a limiter that admits a minute's worth.
    assert most <= 2 * 50 + 15


async def test_rate_limit_false_ignores_limits_but_not_cooldowns(
    server: LLMServer, play: Callable[..., None], make_runtime: Callable[..., LLMRuntime], ask: Callable[..., Any]
) -> None:
    play(Rule(contains="first", fault="status", status=429, retry_after="0.2", times=1), latency_s=0.02)
    runtime = make_runtime(concurrency=1, limited=False)
    await asyncio.gather(*(ask(runtime, f"q{i}") for i in range(8)))
    assert server.counters()["peak_in_flight"] > 1
    start = time.perf_counter()
    await ask(runtime, "first")
    assert time.perf_counter() - start >= 0.19


# litellm 1.91 reads fields of its stream models in a way that pydantic deprecates.
@pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")
async def test_limits_announced_with_a_stream_hold_too(
    server: LLMServer, play: Callable[..., None], make_runtime: Callable[..., LLMRuntime], transport: str
) -> None:
    play(limit=1, limit_window_s=0.3, limit_headers=True)
    runtime = make_runtime(transport)
    for text in ("one", "two"):
        async for chunk in runtime.stream("m", LLMRequest([{"role": "user", "content": text}])):
            last = chunk
        assert last.response is not None
    assert server.counters()["statuses"] == {"200": 2}  # the second waited instead of being refused
