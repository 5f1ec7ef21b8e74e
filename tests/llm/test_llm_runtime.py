"""The runtime against the server's own counters, through litellm and directly (acceptance checks 1, 3, 4, 5, 13)."""

from __future__ import annotations

import asyncio
import gc
import time
import traceback
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from hyperfunc.budget import Budget as CoreBudget
from hyperfunc.calls import MemoryCallStore
from hyperfunc.errors import BudgetExceededError, ConfigurationError
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.tape import Tape, recording
from hyperfunc.testing.llm_server import LLMServer, Rule
from hyperfunc.usage import Usage
from hyperfunc_llm import (
    AttemptTimeoutError,
    AuthenticationError,
    DeadlineError,
    EmptyResponseError,
    Endpoint,
    InvalidRequestError,
    LLMRequest,
    LLMRuntime,
    TransportError,
)

Make = Callable[..., LLMRuntime]
Play = Callable[..., None]
Ask = Callable[..., Any]


def assert_books_agree(ledger: UsageLedger, server: LLMServer) -> None:
    counters, total = server.counters(), ledger.total
    assert total.calls == counters["requests"]
    tokens = (total.input_tokens, total.output_tokens, total.cached_tokens, total.reasoning_tokens)
    assert tokens == tuple(counters["tokens"][k] for k in ("prompt", "completion", "cached", "reasoning"))


async def test_one_failing_call_sends_exactly_its_attempts(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask, transport: str
) -> None:
    play(Rule(fault="status", status=500))
    runtime = make_runtime(transport, transport_retries=2)
    with enter_scope(ledger=UsageLedger()) as scope, pytest.raises(TransportError, match="500") as caught:
        await ask(runtime, "hi")
    assert server.counters()["requests"] == 3
    assert caught.value.attempts == 3
    assert "3 transport" in "".join(caught.value.__notes__)
    assert_books_agree(scope.ledger, server)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_refused_requests_are_sent_once(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask, transport: str, status: int
) -> None:
    play(Rule(fault="status", status=status))
    runtime = make_runtime(transport)
    with pytest.raises((InvalidRequestError, AuthenticationError)):
        await ask(runtime, "hi")
    assert server.counters()["requests"] == 1


@pytest.mark.parametrize("fault", ["truncate", "bad_json", "content_type", "disconnect", "status"])
async def test_damage_on_the_way_is_repeated_and_counted(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask, transport: str, fault: str
) -> None:
    play(Rule(fault=fault, times=2))
    runtime = make_runtime(transport)
    with enter_scope(ledger=UsageLedger()) as scope:
        response = await ask(runtime, "hi")
    assert response.content == "echo: hi"
    assert response.attempts == 3
    assert_books_agree(scope.ledger, server)  # type: ignore[arg-type]


async def test_attempt_timeout_is_kept(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask, transport: str
) -> None:
    runtime = make_runtime(transport, attempt_timeout_s=0.1, transport_retries=0)
    play()
    await runtime.complete("m", LLMRequest([{"role": "user", "content": "warm"}]), call=Endpoint(attempt_timeout_s=30))
    play(latency_s=30.0)
    start = time.perf_counter()
    with enter_scope(ledger=UsageLedger()) as scope, pytest.raises(AttemptTimeoutError):
        await ask(runtime, "hi")
    assert time.perf_counter() - start < 20  # the reply would have come after half a minute
    assert scope.ledger is not None
    assert scope.ledger.total.calls == 1


async def test_waiting_for_admission_is_not_charged_to_an_attempt(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask
) -> None:
    play(latency_s=0.1)
    runtime = make_runtime(concurrency=1, attempt_timeout_s=0.45, transport_retries=0)
    responses = await asyncio.gather(*(ask(runtime, f"q{i}") for i in range(6)))
    assert len(responses) == 6
    assert max(r.timings.admission_s for r in responses) > 0.45


async def test_the_deadline_of_a_call_starts_with_its_admission_and_covers_its_repeats(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask
) -> None:
    play(latency_s=0.1)
    runtime = make_runtime(concurrency=1, timeout_s=0.45)
    assert len(await asyncio.gather(*(ask(runtime, f"q{i}") for i in range(6)))) == 6
    play(Rule(fault="status", status=500), latency_s=0.1)
    start = time.perf_counter()
    with pytest.raises(DeadlineError) as caught:
        await runtime.complete(
            "m", LLMRequest(({"role": "user", "content": "x"},)), call=Endpoint(transport_retries=99)
        )
    assert 0.3 < time.perf_counter() - start < 5  # 99 repeats take ten seconds
    assert 1 < caught.value.usage.calls == server.counters()["requests"]


async def test_empty_replies_are_paid_for_once(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask, transport: str
) -> None:
    play(Rule(fault="empty", finish_reason="content_filter", usage={"prompt": 100, "completion": 7}))
    runtime = make_runtime(transport)
    with (
        enter_scope(ledger=UsageLedger()) as scope,
        pytest.raises(EmptyResponseError, match="content_filter") as caught,
    ):
        await ask(runtime, "hi")
    assert (caught.value.usage.input_tokens, caught.value.usage.output_tokens) == (100, 7)
    assert_books_agree(scope.ledger, server)  # type: ignore[arg-type]


async def test_tokens_of_rejected_replies_are_summed(
    server: LLMServer, play: Play, make_runtime: Make, transport: str
) -> None:
    play(Rule(usage={"prompt": 100, "completion": 50, "cached": 40, "reasoning": 10}))
    runtime = make_runtime(transport, input_usd=10.0, output_usd=20.0, cached_input_usd=1.0)
    seen = 0

    def judge(response: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen < 3:
            raise ValueError("429 quota")  # a wrong reply in the caller's eyes; not typed by us
        return response

    with enter_scope(ledger=UsageLedger()) as scope:
        response = await runtime.complete("m", LLMRequest([{"role": "user", "content": "x"}]), judge=judge)
    spent = response.spent
    assert (spent.calls, spent.input_tokens, spent.output_tokens, spent.cached_tokens) == (3, 300, 150, 120)
    assert spent.usd == pytest.approx(3 * (60 * 10 + 40 * 1 + 50 * 20) / 1e6)
    assert response.cost == pytest.approx(spent.usd / 3)
    assert response.usage.effective_input_tokens(0.1) == 100 - 36
    assert_books_agree(scope.ledger, server)  # type: ignore[arg-type]


async def test_books_survive_cancellation_and_deadline(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask, transport: str
) -> None:
    runtime = make_runtime(transport)
    await ask(runtime, "warm")
    play(Rule(contains="slow", fault="hang"))
    with enter_scope(ledger=UsageLedger()) as scope:
        await ask(runtime, "quick")
        task = asyncio.create_task(ask(runtime, "slow"))
        async with asyncio.timeout(10):
            while server.counters()["requests"] < 2:  # noqa: ASYNC110 - nothing tells when the server counts
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(DeadlineError):
            await runtime.complete(
                "m", LLMRequest(({"role": "user", "content": "slow"},)), call=Endpoint(timeout_s=0.1)
            )
    assert_books_agree(scope.ledger, server)  # type: ignore[arg-type]
    assert runtime.stats()["endpoints"]["m"]["in_flight"] == 0


async def test_unreachable_server_counts_no_calls(make_runtime: Make, ask: Ask, transport: str) -> None:
    runtime = make_runtime(transport, base_url="http://127.0.0.1:9/v1", transport_retries=1)
    with enter_scope(ledger=UsageLedger()) as scope, pytest.raises(TransportError):
        await ask(runtime, "hi")
    assert scope.ledger is not None
    assert scope.ledger.total.calls == 0


async def test_independent_calls_overlap(server: LLMServer, play: Play, make_runtime: Make, ask: Ask) -> None:
    play(latency_s=0.2)
    runtime = make_runtime()
    a, b = await asyncio.gather(ask(runtime, "a"), ask(runtime, "b"))
    last = await ask(runtime, f"join {a} and {b}")
    assert server.counters()["peak_in_flight"] == 2
    assert last.content == "echo: join echo: a and echo: b"


async def test_dead_key_stops_everybody_who_waits(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask, transport: str
) -> None:
    play(api_key="right")
    runtime = make_runtime(transport, api_key=None, concurrency=4)
    wrong = Endpoint.connection(api_key="wrong-key", base_url=None)
    results = await asyncio.gather(*(ask(runtime, f"q{i}", call=wrong) for i in range(100)), return_exceptions=True)
    assert all(isinstance(r, AuthenticationError) for r in results)
    assert server.counters()["requests"] <= 4
    right = Endpoint.connection(api_key="right", base_url=None)
    assert (await ask(runtime, "q", call=right)).content == "echo: q"  # another key is another matter


async def test_hits_are_free_visible_and_single_flight(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask, transport: str
) -> None:
    play(latency_s=0.02)
    runtime = make_runtime(transport)
    with enter_scope(ledger=UsageLedger(), store=MemoryCallStore()) as scope:
        first = await asyncio.gather(*(ask(runtime, "same") for _ in range(20)))
        again = await ask(runtime, "same")
        assert server.counters()["requests"] == 1
        assert sum(not r.replayed for r in first) == 1
        assert again.replayed
        assert (again.content, again.usage, again.attempts, again.spent) == (
            first[0].content,
            first[0].usage,
            0,
            Usage(),
        )
        await ask(runtime, "same", sample=1)
        with enter_scope(repeat=1):
            await ask(runtime, "same")
        await runtime.complete("m", LLMRequest([{"role": "user", "content": "same"}], theta={"lora": "other"}))
        await runtime.complete("m", LLMRequest([{"role": "user", "content": "same"}]), call=Endpoint(model="openai/x"))
    assert server.counters()["requests"] == 5
    assert runtime.stats()["hits"] == 20
    assert_books_agree(scope.ledger, server)  # type: ignore[arg-type]


async def test_a_cancelled_leader_hands_the_call_on(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask
) -> None:
    play(latency_s=0.05)
    runtime = make_runtime()
    with enter_scope(store=MemoryCallStore()):
        leader = asyncio.create_task(ask(runtime, "same"))
        follower = asyncio.create_task(ask(runtime, "same"))
        await asyncio.sleep(0.02)
        leader.cancel()
        assert (await follower).content == "echo: same"


async def test_failures_are_not_stored(server: LLMServer, play: Play, make_runtime: Make, ask: Ask) -> None:
    play(Rule(fault="status", status=500, times=1))
    runtime = make_runtime(transport_retries=0)
    with enter_scope(store=MemoryCallStore()):
        with pytest.raises(TransportError):
            await ask(runtime, "x")
        assert not (await ask(runtime, "x")).replayed


class Budget:
    """Records what was reserved and what became of it; has no ceilings in money."""

    unspent: ClassVar[dict[str, float]] = {}

    def __init__(self, most_calls: int = 10**9) -> None:
        self.most_calls = most_calls
        self.reserved: list[Usage] = []
        self.settled: list[Usage] = []
        self.released = 0

    def reserve(self, worst_case: Usage) -> Budget:
        if len(self.reserved) >= self.most_calls:
            raise BudgetExceededError("no room for another call", limit="calls")
        self.reserved.append(worst_case)
        return self

    async def reserve_when_free(self, worst_case: Usage, *, brief: bool = True) -> Budget:
        return self.reserve(worst_case)

    def settle(self, actual: Usage) -> None:
        self.settled.append(actual)

    def release(self) -> None:
        self.released += 1


async def test_reserved_before_and_settled_after(server: LLMServer, play: Play, make_runtime: Make, ask: Ask) -> None:
    play(Rule(fault="status", status=500, times=1))
    runtime = make_runtime(input_usd=1.0, output_usd=2.0, max_output_tokens=1000)
    budget = Budget()
    with enter_scope(budget=budget):
        await ask(runtime, "hello you")
    assert len(budget.reserved) == len(budget.settled) == 2
    assert all(worst.output_tokens == 1000 and worst.usd > 0.002 for worst in budget.reserved)
    assert [u.calls for u in budget.settled] == [1, 1]
    assert budget.settled[1].output_tokens == server.counters()["tokens"]["completion"]


async def test_a_missing_key_is_no_failure_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """litellm reports it as an internal error of the server, which would be repeated."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with LLMRuntime({"keyless": Endpoint(model="openai/gpt-4o", transport="litellm")}) as runtime:
        with pytest.raises(AuthenticationError, match="keyless has no API key") as caught:
            await runtime.complete("keyless", LLMRequest([{"role": "user", "content": "x"}]))
    assert caught.value.attempts == 1
    assert caught.value.usage.calls == 0


async def test_a_ceiling_in_usd_refuses_a_model_whose_price_nobody_knows(make_runtime: Make, server: LLMServer) -> None:
    message = [{"role": "user", "content": "x"}]
    unpriced = make_runtime(model="openai/of-our-own")
    with enter_scope(budget=CoreBudget(usd=1.0)), pytest.raises(ConfigurationError, match=r"of-our-own.* is not known"):
        await unpriced.complete("m", LLMRequest(message))
    assert server.counters()["requests"] == 0
    with enter_scope(budget=CoreBudget(tokens=10_000)):
        await unpriced.complete("m", LLMRequest(message))
    with enter_scope(budget=CoreBudget(usd=1.0)):
        await unpriced.complete("m", LLMRequest(message), call=Endpoint(input_usd=0.0, output_usd=0.0))


async def test_a_schema_is_part_of_the_worst_case(make_runtime: Make) -> None:
    runtime, budget = make_runtime(max_output_tokens=10), Budget()
    schema = {"type": "object", "properties": {"word": {"type": "string", "description": "w" * 500}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    messages = [{"role": "user", "content": "hello you"}]
    with enter_scope(budget=budget):
        await runtime.complete("m", LLMRequest(messages))
        await runtime.complete("m", LLMRequest(messages, {"response_format": wanted}))
    plain, formed = budget.reserved
    assert formed.input_tokens >= plain.input_tokens + 500


async def test_a_full_budget_sends_nothing_and_keeps_no_slot(server: LLMServer, make_runtime: Make, ask: Ask) -> None:
    runtime = make_runtime(concurrency=1)
    with enter_scope(budget=Budget(most_calls=1)):
        await ask(runtime, "one")
        with pytest.raises(BudgetExceededError):
            await ask(runtime, "two")
    assert server.counters()["requests"] == 1
    assert runtime.stats()["endpoints"]["m"]["in_flight"] == 0


async def test_a_request_of_unknown_fate_is_charged_its_input(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask
) -> None:
    play(Rule(fault="hang"))
    runtime = make_runtime(attempt_timeout_s=0.05, transport_retries=0, input_usd=1.0)
    budget = Budget()
    with enter_scope(budget=budget, ledger=UsageLedger()) as scope, pytest.raises(AttemptTimeoutError):
        await ask(runtime, "a question of some length")
    assert budget.settled[0].input_tokens == 11  # 25 characters and one message, as estimated
    assert budget.reserved[0].input_tokens == 29  # no text has more tokens than bytes
    assert_books_agree(scope.ledger, server)  # type: ignore[arg-type]


# litellm's stream wrapper reads a field that pydantic 2.11 deprecates.
quiet_litellm = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


@quiet_litellm
async def test_streams(server: LLMServer, play: Play, make_runtime: Make, transport: str) -> None:
    play(Rule(reasoning="hm", usage={"prompt": 9, "completion": 3}), stream_delay_s=0.002)
    runtime = make_runtime(transport)
    request = LLMRequest([{"role": "user", "content": "a b c"}])
    with enter_scope(ledger=UsageLedger()) as scope:
        chunks = [chunk async for chunk in runtime.stream("m", request)]
    assert len(chunks) > 4
    final = chunks[-1].response
    assert final is not None
    assert final.content == "".join(c.content for c in chunks) == "echo: a b c"
    assert final.reasoning == "hm"
    assert (final.usage.prompt_tokens, final.finish_reason) == (9, "stop")
    assert final.timings.first_chunk_s is not None
    assert_books_agree(scope.ledger, server)  # type: ignore[arg-type]


@quiet_litellm
async def test_a_cut_stream_is_an_error_and_a_broken_off_one_leaks_nothing(
    server: LLMServer, play: Play, make_runtime: Make, transport: str
) -> None:
    play(Rule(contains="cut", fault="truncate"), stream_delay_s=0.002)
    runtime = make_runtime(transport, transport_retries=0)
    if transport == "direct":  # litellm ends a cut stream as if it were complete
        with pytest.raises(TransportError):
            async for _ in runtime.stream("m", LLMRequest([{"role": "user", "content": "cut a b c d"}])):
                pass
    stream = runtime.stream("m", LLMRequest([{"role": "user", "content": "a b c d e f g"}]))
    async for _ in stream:
        break
    await stream.aclose()
    assert runtime.stats()["endpoints"]["m"]["in_flight"] == 0


async def test_streaming_is_off_while_evaluating(server: LLMServer, make_runtime: Make) -> None:
    runtime = make_runtime()
    with enter_scope(evaluating=True):
        chunks = [c async for c in runtime.stream("m", LLMRequest([{"role": "user", "content": "a b c"}]))]
    assert len(chunks) == 1
    assert '"stream"' not in server.bodies()[-1]


KEY = "hf-Test_9f83kSecretValue77"


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_keys_appear_nowhere(
    server: LLMServer, play: Play, make_runtime: Make, ask: Ask, transport: str, status: int, caplog: Any
) -> None:
    play(Rule(fault="status", status=status, body=f"Incorrect API key provided: {KEY}", retry_after="0"))
    runtime = make_runtime(transport, rate_limit_retries=1)
    caplog.set_level("DEBUG", "hyperfunc")
    endpoint = Endpoint.connection(api_key=KEY, base_url=None)
    store = MemoryCallStore()
    with enter_scope(store=store), pytest.raises(Exception, match=r"\*\*\*") as caught:
        await ask(runtime, "hi", call=endpoint)
    assert server.counters()["keys"] == 1
    everything = [str(caught.value), repr(caught.value), repr(vars(caught.value)), repr(endpoint), caplog.text]
    everything += ["".join(traceback.format_exception(caught.value)), repr(runtime.endpoint("m", endpoint))]
    assert not [text for text in everything if KEY in text]
    assert not [frame for frame in _library_frames(caught.value) if KEY in repr(frame.f_locals)]


async def test_keys_are_not_stored(server: LLMServer, make_runtime: Make, ask: Ask, transport: str) -> None:
    store = MemoryCallStore()
    with enter_scope(store=store), recording(Tape()) as tape:
        await ask(make_runtime(transport), "hi", call=Endpoint.connection(api_key=KEY, base_url=None))
    assert server._keys == {KEY}
    assert len(store) == 1
    assert KEY not in repr([vars(store), tape.calls if tape else None])


def _library_frames(error: BaseException | None) -> list[Any]:
    """Frames of all tracebacks in the chain, but for the test's own."""
    frames, seen = [], set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        step = error.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename != __file__:
                frames.append(step.tb_frame)
            step = step.tb_next
        error = error.__cause__ or error.__context__
    return frames


async def test_nothing_of_a_call_stays_alive(server: LLMServer, make_runtime: Make, ask: Ask) -> None:
    runtime = make_runtime()
    await ask(runtime, "warm")
    gc.collect()
    before = len(asyncio.all_tasks())
    await asyncio.gather(*(ask(runtime, f"q{i}") for i in range(50)))
    assert len(asyncio.all_tasks()) == before
