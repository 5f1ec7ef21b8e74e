"""Strategies of several stages (acceptance checks 6, 7, 8, 9 and 17)."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from hyperfunc.calls import MemoryCallStore
from hyperfunc.errors import ConfigurationError
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.testing.llm_server import LLMServer, Rule
from hyperfunc_llm import (
    Attempt,
    DeadlineError,
    Endpoint,
    LLMResponse,
    LLMRuntime,
    OutputValidationError,
    PrepareOnceMixin,
    PromptLimitError,
    RetryState,
    TokenUsage,
    current_runtime,
    use_runtime,
)
from hyperfunc_llm.completion import llm_completion

Make = Callable[..., LLMRuntime]
Play = Callable[..., None]


class Ladder:
    """Four stages; a validation error advances, anything else does not."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []
        self.failures: list[str] = []
        self.prepared = self.cleaned = 0
        self.states: weakref.WeakSet[RetryState] = weakref.WeakSet()

    async def prepare(self) -> None:
        self.prepared += 1

    async def execute(self, item: Any, attempt: Attempt, state: RetryState) -> str:
        self.states.add(state)
        stage = state.setdefault("stage", 1)
        state.setdefault("owner", item)
        assert state.get("owner") == item
        self.seen.append((attempt.number, stage, attempt.prompts_sent))
        response = await attempt.complete(f"{item} stage {stage}")
        if response.content.endswith("bad"):
            raise OutputValidationError("wrong", content=response.content)
        return response.content

    async def on_error(self, error: Exception, attempt: Attempt, state: RetryState) -> None:
        self.failures.append(type(error).__name__)
        if isinstance(error, OutputValidationError):
            state.set("stage", state.get("stage") + 1)

    async def cleanup(self) -> None:
        self.cleaned += 1


BAD = tuple(Rule(contains=f"stage {stage}", content="bad") for stage in (1, 2, 3))


async def test_validation_errors_climb_the_ladder(server: LLMServer, play: Play, make_runtime: Make) -> None:
    play(*BAD)
    strategy = Ladder()
    async with make_runtime(content_retries=5).session(strategy, "m") as answer:
        assert await answer("x") == "echo: x stage 4"
    assert [stage for _, stage, _ in strategy.seen] == [1, 2, 3, 4]
    assert [number for number, _, _ in strategy.seen] == [1, 2, 3, 4]
    assert (strategy.prepared, strategy.cleaned) == (1, 1)


async def test_a_network_error_does_not_advance(server: LLMServer, play: Play, make_runtime: Make) -> None:
    play(Rule(contains="stage 2", fault="disconnect", times=1), *BAD)
    strategy = Ladder()
    async with make_runtime(content_retries=5).session(strategy, "m") as answer:
        await answer("x")
    assert [stage for _, stage, _ in strategy.seen] == [1, 2, 2, 3, 4]
    assert strategy.failures == [
        "OutputValidationError",
        "TransportError",
        "OutputValidationError",
        "OutputValidationError",
    ]


async def test_rate_limits_change_neither_attempt_nor_state(server: LLMServer, play: Play, make_runtime: Make) -> None:
    play(Rule(contains="stage 1", fault="status", status=429, retry_after="0", times=3))
    strategy = Ladder()
    async with make_runtime(content_retries=0, transport_retries=0).session(strategy, "m") as answer:
        await answer("x")
    assert [(number, stage) for number, stage, _ in strategy.seen] == [(1, 1)] * 4


async def test_prompts_are_limited_whatever_the_reasons(server: LLMServer, play: Play, make_runtime: Make) -> None:
    play(Rule(content="bad"))
    runtime = make_runtime(content_retries=100, max_prompts=5)
    with pytest.raises(PromptLimitError) as caught:
        async with runtime.session(Ladder(), "m") as answer:
            await answer("x")
    assert server.counters()["requests"] == caught.value.attempts == 5


async def test_budgets_are_separate(server: LLMServer, play: Play, make_runtime: Make) -> None:
    play(Rule(contains="stage 1", fault="status", status=500, times=2), *BAD)
    strategy = Ladder()
    async with make_runtime(content_retries=3, transport_retries=2).session(strategy, "m") as answer:
        assert await answer("x") == "echo: x stage 4"
    with pytest.raises(OutputValidationError):
        async with make_runtime(content_retries=2, transport_retries=9).session(Ladder(), "m") as answer:
            await answer("y")


async def test_equal_items_share_no_state_and_nothing_stays_alive(
    server: LLMServer, play: Play, make_runtime: Make
) -> None:
    play(*BAD)
    strategy = Ladder()
    async with make_runtime(content_retries=5).session(strategy, "m") as answer:
        answers = await asyncio.gather(*(answer("same") for _ in range(100)))
    assert set(answers) == {"echo: same stage 4"}
    assert len(strategy.seen) == 400
    gc.collect()
    assert not list(strategy.states)


class Clearing(Ladder):
    async def execute(self, item: Any, attempt: Attempt, state: RetryState) -> str:
        await attempt.complete("go")
        state.clear()
        raise ConnectionError("again")


class Dawdling(Ladder):
    async def execute(self, item: Any, attempt: Attempt, state: RetryState) -> str:
        await attempt.complete("go")
        await asyncio.sleep(30)
        return "too late"


@pytest.mark.parametrize("strategy", [Clearing(), Dawdling()], ids=["clears its state", "dawdles"])
async def test_nothing_extends_a_deadline(server: LLMServer, make_runtime: Make, strategy: Ladder) -> None:
    runtime = make_runtime(timeout_s=0.2, transport_retries=10_000, backoff_s=0.01)
    await runtime.state.transport("direct")
    start = time.perf_counter()
    with pytest.raises(DeadlineError):
        async with runtime.session(strategy, "m") as answer:
            await answer("x")
    # An extended one would go on for 10 000 attempts of 10 ms, or for half a minute.
    assert 0.1 < time.perf_counter() - start < 10


async def test_calls_inside_a_strategy_do_not_multiply(server: LLMServer, play: Play, make_runtime: Make) -> None:
    play(Rule(fault="status", status=500))

    class Nested(Ladder):
        async def execute(self, item: Any, attempt: Attempt, state: RetryState) -> str:
            response = await llm_completion("m", "hello", retries=7)
            assert isinstance(response, LLMResponse)
            return response.content

    runtime = make_runtime(transport_retries=2)
    with use_runtime(runtime), pytest.raises(Exception, match="500"):
        async with current_runtime().session(Nested(), "m") as answer:
            await answer("x")
    assert server.counters()["requests"] == 3


async def test_errors_of_on_error_are_logged_not_raised(
    server: LLMServer, play: Play, make_runtime: Make, caplog: pytest.LogCaptureFixture
) -> None:
    play(*BAD[:1])

    class Clumsy(Ladder):
        async def on_error(self, error: Exception, attempt: Attempt, state: RetryState) -> None:
            await super().on_error(error, attempt, state)
            raise RuntimeError("on_error broke")

    async with make_runtime().session(Clumsy(), "m") as answer:
        assert await answer("x") == "echo: x stage 2"
    assert "on_error broke" in caplog.text


async def test_a_replayed_ladder_takes_the_same_steps_for_free(
    server: LLMServer, play: Play, make_runtime: Make
) -> None:
    play(*BAD)
    runtime = make_runtime(content_retries=5)
    with enter_scope(store=MemoryCallStore(), ledger=UsageLedger()) as scope:
        for _ in range(2):
            strategy = Ladder()
            async with runtime.session(strategy, "m") as answer:
                assert await answer("x") == "echo: x stage 4"
            assert [stage for _, stage, _ in strategy.seen] == [1, 2, 3, 4]
    assert server.counters()["requests"] == 4
    assert scope.ledger is not None
    assert scope.ledger.total.calls == 4


def test_state_is_json_and_survives_a_round_trip() -> None:
    state = RetryState({"stage": 2, "fields": ["a"]})
    assert state.setdefault("stage", 1) == 2
    assert RetryState.from_dict(state.to_dict()).to_dict() == {"stage": 2, "fields": ["a"]}
    with pytest.raises(ConfigurationError, match="JSON"):
        state.set("error", ValueError("no JSON"))


class Expensive(PrepareOnceMixin):
    def __init__(self, failures: int = 0) -> None:
        self.calls = 0
        self.failures = failures

    async def prepare_once(self) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.calls <= self.failures:
            raise ConnectionError("not yet")


async def test_prepared_once_under_races() -> None:
    strategy = Expensive()
    await asyncio.gather(*(strategy.prepare() for _ in range(100)))
    await strategy.prepare()
    assert strategy.calls == 1


async def test_a_failed_preparation_is_made_again() -> None:
    strategy = Expensive(failures=1)
    with pytest.raises(ConnectionError):
        await strategy.prepare()
    await asyncio.gather(*(strategy.prepare() for _ in range(10)))
    assert strategy.calls == 2


def test_prepared_once_per_event_loop() -> None:
    strategy = Expensive()
    for _ in range(2):
        asyncio.run(strategy.prepare())
    assert strategy.calls == 2


def test_the_saving_of_a_provider_cache_is_81_percent() -> None:
    usage = TokenUsage(prompt_tokens=50_000, cached_tokens=45_000)
    assert usage.effective_input_tokens(0.10) == 9_500
    assert usage.effective_input_tokens(0.10) / usage.prompt_tokens == pytest.approx(1 - 0.81)


async def test_partial_recovery_saves_81_percent_of_the_stage(
    server: LLMServer, play: Play, make_runtime: Make
) -> None:
    play(
        Rule(contains="full", content="bad", usage={"prompt": 1000, "completion": 0}),
        Rule(contains="partial", content="good", usage={"prompt": 190, "completion": 0}),
    )

    class Partial(Ladder):
        async def execute(self, item: Any, attempt: Attempt, state: RetryState) -> str:
            stage = state.setdefault("stage", 1)
            response = await attempt.complete("full prompt" if stage == 1 else "partial prompt")
            if response.content == "bad":
                raise OutputValidationError("wrong")
            return response.content

    async with make_runtime().session(Partial(), "m") as answer:
        assert await answer("x") == "good"
    recovery = server.counters()["tokens"]["prompt"] - 1000
    assert 1 - recovery / 1000 == pytest.approx(0.81)


async def test_endpoint_settings_of_a_session(server: LLMServer, play: Play, make_runtime: Make) -> None:
    play(Rule(fault="status", status=500))
    with pytest.raises(Exception, match="500"):
        async with make_runtime().session(Ladder(), "m", call=Endpoint(transport_retries=0)) as answer:
            await answer("x")
    assert server.counters()["requests"] == 1
