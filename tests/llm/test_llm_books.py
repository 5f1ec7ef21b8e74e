"""What a call that failed had used is known, however it failed (acceptance check 13); one failure is one (check 4)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from hyperfunc.batch import batch
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.testing.llm_server import LLMServer, Rule
from hyperfunc_llm import (
    AttemptTimeoutError,
    DeadlineError,
    Endpoint,
    InvalidRequestError,
    LLMError,
    LLMRequest,
    LLMResponse,
    LLMRuntime,
    OutputValidationError,
    RateLimitedError,
    TransportError,
)

LIMITED = Rule(fault="status", status=429, retry_after="0")
BILLED = {"prompt": 100, "completion": 50, "cached": 40, "reasoning": 0}


def reject(response: LLMResponse) -> LLMResponse:
    """Every reply with these words is useless, and billed."""
    if "useless" in response.content:
        raise OutputValidationError("not this one", content=response.content)
    return response


ENDINGS: list[tuple[str, Rule, Endpoint, type[LLMError], int]] = [
    ("content exhausted", Rule(content="useless", usage=BILLED), Endpoint(content_retries=2), OutputValidationError, 3),
    ("server errors", Rule(fault="status", status=500), Endpoint(transport_retries=1), TransportError, 1),
    ("rate limits", LIMITED, Endpoint(rate_limit_retries=1), RateLimitedError, 1),
    ("refusal", Rule(fault="status", status=400), Endpoint(), InvalidRequestError, 1),
    ("timeout", Rule(fault="hang"), Endpoint(attempt_timeout_s=0.2, transport_retries=0), AttemptTimeoutError, 1),
    ("deadline", Rule(fault="hang"), Endpoint(timeout_s=0.3), DeadlineError, 1),
]


@pytest.mark.parametrize(("rule", "settings", "kind", "billed"), [e[1:] for e in ENDINGS], ids=[e[0] for e in ENDINGS])
async def test_the_error_and_the_ledger_know_what_was_billed_before(
    server: LLMServer,
    play: Callable[..., None],
    make_runtime: Callable[..., LLMRuntime],
    rule: Rule,
    settings: Endpoint,
    kind: type[LLMError],
    billed: int,
) -> None:
    """The first reply is billed and rejected; what comes then ends the call."""
    play(Rule(content="useless", usage=BILLED, times=1), rule)
    runtime = make_runtime(input_usd=10.0, output_usd=20.0, cached_input_usd=1.0)
    request = LLMRequest([{"role": "user", "content": "x"}])
    with enter_scope(ledger=UsageLedger()) as scope, pytest.raises(kind) as caught:
        await runtime.complete("m", request, call=settings, judge=reject)
    used, counters = caught.value.usage, server.counters()
    assert used.calls == caught.value.attempts == counters["requests"]
    assert (used.input_tokens, used.output_tokens, used.cached_tokens) == (100 * billed, 50 * billed, 40 * billed)
    assert used.usd == pytest.approx(billed * (60 * 10 + 40 * 1 + 50 * 20) / 1e6)
    assert (counters["tokens"]["prompt"], counters["tokens"]["completion"]) == (100 * billed, 50 * billed)
    assert scope.ledger is not None
    assert scope.ledger.total.to_dict() == pytest.approx(used.to_dict())


async def test_a_cancelled_call_leaves_its_bill_in_the_ledger(
    server: LLMServer, play: Callable[..., None], make_runtime: Callable[..., LLMRuntime]
) -> None:
    play(Rule(content="useless", usage=BILLED, times=1), Rule(fault="hang"))
    runtime = make_runtime()
    with enter_scope(ledger=UsageLedger()) as scope:
        request = LLMRequest([{"role": "user", "content": "x"}])
        task = asyncio.create_task(runtime.complete("m", request, judge=reject))
        async with asyncio.timeout(30):
            while server.counters()["requests"] < 2:  # noqa: ASYNC110 - nothing tells when the server counts
                await asyncio.sleep(0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert task.cancelled()
    assert scope.ledger is not None
    assert scope.ledger.total.calls == server.counters()["requests"] == 2
    assert (scope.ledger.total.input_tokens, scope.ledger.total.output_tokens) == (100, 50)


async def test_one_permanent_failure_is_a_value_and_the_others_finish(
    server: LLMServer, play: Callable[..., None], make_runtime: Callable[..., LLMRuntime], ask: Any, transport: str
) -> None:
    play(Rule(contains="item 3", fault="status", status=400))
    runtime = make_runtime(transport)
    with enter_scope(ledger=UsageLedger()) as scope:
        results = [r async for r in batch(lambda i: ask(runtime, f"item {i}"), range(8), concurrency=4)]
    assert [r.ok for r in results] == [True, True, True, False, True, True, True, True]
    assert isinstance(results[3].error, InvalidRequestError)
    assert [str(r.output) for r in results if r.ok] == [f"echo: item {i}" for i in range(8) if i != 3]
    assert scope.ledger is not None
    assert server.counters()["requests"] == scope.ledger.total.calls == 8
    with pytest.raises(InvalidRequestError):
        await ask(runtime, "item 3")
