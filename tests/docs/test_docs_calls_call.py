"""docs/calls.md: what one call promises: timeout, retries, limits, cancellation. Docstrings are the statements."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any, ClassVar

import pytest
import torch
from docs_calls import NEVER, NUMBER, SOON, failing, for_ever, program
from torch import Tensor

from hyperfunc import hyperfunction
from hyperfunc.errors import (
    CallLimitError,
    CallTimeoutError,
    ExecutionError,
    ShapeError,
)
from hyperfunc.testing import VirtualLoop


async def test_timeout_of_an_async_call() -> None:
    """A call of an async function that has not ended after `timeout_s` seconds is cancelled, and raises
    `CallTimeoutError`, which is also a `TimeoutError`."""
    ended: list[str] = []
    hangs = hyperfunction(timeout_s=SOON)(for_ever)
    with pytest.raises(CallTimeoutError, match=r"for_ever did not end within timeout_s=0\.02") as caught:
        await hangs(ended)
    assert ended == ["ended"]
    assert isinstance(caught.value, TimeoutError)


async def test_timeout_of_a_sync_call() -> None:
    """A sync function with a timeout runs in a thread that sees the same parameters; its late result is discarded,
    since a thread cannot be stopped."""
    release = threading.Event()
    seen: list[Any] = []
    returned = threading.Event()

    @hyperfunction(hp_type=NUMBER, timeout_s=SOON)
    def hangs(x: Tensor, hp: Any) -> str:
        seen.extend([threading.current_thread(), float(hp.weight)])
        release.wait(NEVER)
        returned.set()
        return "late"

    async def body(x: Tensor) -> Any:
        return await hangs(x)

    system = program(body)
    system.register_hyperfunction(hangs, hp_init=torch.tensor([[7.0]]))
    with pytest.raises(CallTimeoutError):
        await system.run(x=torch.ones(1))
    assert seen[0] is not threading.current_thread()
    assert seen[1] == 7.0
    assert not returned.is_set()
    release.set()
    assert await asyncio.to_thread(returned.wait, NEVER)


def test_each_attempt_has_its_own_timeout() -> None:
    """`timeout_s` counts anew for every attempt."""
    attempts: list[float] = []

    @hyperfunction(timeout_s=1.0, retries=2)
    async def slow() -> None:
        attempts.append(asyncio.get_running_loop().time())
        if len(attempts) == 2:
            await asyncio.sleep(0.9)
            raise ValueError("just in time")
        await for_ever()

    async def made() -> None:
        with pytest.raises(CallTimeoutError):
            await slow()
        attempts.append(asyncio.get_running_loop().time())

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(made())
    assert attempts == pytest.approx([0.0, 1.0, 1.9, 2.9])


async def test_arguments_take_their_own_time() -> None:
    """The time that calls given as arguments take does not count towards the timeout of the call that receives them."""

    @hyperfunction
    async def slow() -> int:
        await asyncio.sleep(3 * SOON)
        return 1

    @hyperfunction(timeout_s=SOON)
    async def quick(x: int) -> int:
        return x + 1

    argument: Any = slow()
    assert await quick(argument) == 2


async def test_a_timeout_of_its_own() -> None:
    """A `TimeoutError` that the function itself raises is passed on as it is, and never turned into a
    `CallTimeoutError`."""

    @hyperfunction(timeout_s=NEVER)
    async def impatient() -> None:
        raise TimeoutError("my own")

    @hyperfunction(timeout_s=NEVER)
    def impatient_in_a_thread() -> None:
        raise TimeoutError("my own")

    for function in (impatient, impatient_in_a_thread):
        with pytest.raises(TimeoutError, match="my own") as caught:
            await function()
        assert type(caught.value) is TimeoutError


async def test_a_function_that_swallows_its_cancellation() -> None:
    """A function that swallows its cancellation and returns all the same gives its result: a deadline asks, it cannot
    force."""

    @hyperfunction(timeout_s=SOON)
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "all the same"

    assert await stubborn() == "all the same"


async def test_retries() -> None:
    """`retries=2` makes at most three attempts, one right after the other, and raises what the last one raised."""
    attempts, function = failing(2, lambda n: ValueError(f"attempt {n}"))
    assert await hyperfunction(retries=2)(function)() == "done"
    assert attempts == [1, 2, 3]
    attempts, function = failing(9, lambda n: ValueError(f"attempt {n}"))
    with pytest.raises(ValueError, match="attempt 3"):
        await hyperfunction(retries=2)(function)()
    assert attempts == [1, 2, 3]


async def test_timeouts_are_retried() -> None:
    """A call that timed out is retried like one that failed."""
    attempts: list[int] = []

    @hyperfunction(timeout_s=SOON, retries=1)
    async def slow_at_first() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            await for_ever()
        return "done"

    assert await slow_at_first() == "done"
    assert len(attempts) == 2


async def test_what_is_never_retried() -> None:
    """Cancellation, `KeyboardInterrupt` and `SystemExit` are never retried."""
    for error in (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        attempts, function = failing(9, lambda _, error=error: error())  # type: ignore[misc]
        call = hyperfunction(retries=5)(function)()
        with pytest.raises(error):  # driven by hand: a task would hand KeyboardInterrupt to its loop
            call.send(None)
        assert attempts == [1], error


async def test_our_own_errors_say_whether_they_are_retried() -> None:
    """Of hyperfunc's own errors only those are retried that say `retryable`: a wrong shape or a spent budget stays
    wrong."""
    attempts, function = failing(9, lambda _: ShapeError("expected [2], got [3]"))
    with pytest.raises(ShapeError):
        await hyperfunction(retries=5)(function)()
    assert attempts == [1]

    class Overloaded(ExecutionError):
        retryable: ClassVar[bool] = True

    attempts, function = failing(1, lambda _: Overloaded("later"))
    assert await hyperfunction(retries=5)(function)() == "done"
    assert attempts == [1, 2]


# --- one call: limits -------------------------------------------------------------------------------------------------


async def test_max_calls() -> None:
    """`max_calls` counts the calls of one component in one run of the program; the call too many raises
    `CallLimitError` and is not made."""
    made: list[int] = []

    @hyperfunction(max_calls=2)
    async def limited() -> None:
        made.append(1)

    async def body(times: int) -> None:
        for _ in range(times):
            await limited()

    system = program(body)
    await system.run(times=2)
    await system.run(times=2)
    assert len(made) == 4
    with pytest.raises(CallLimitError, match="limited was called more than max_calls=2 times in one run"):
        await system.run(times=3)
    assert len(made) == 6


async def test_retries_are_one_call() -> None:
    """Retries of one call count as one call."""
    attempts, function = failing(3, lambda _: ValueError("again"))
    flaky = hyperfunction(retries=3, max_calls=1)(function)
    assert await program(lambda: flaky()).run() == "done"
    assert len(attempts) == 4


async def test_handles_count_together() -> None:
    """Handles made by `with_options` are the same component: their calls count together."""

    @hyperfunction(max_calls=2)
    async def limited() -> None:
        pass

    patient = limited.with_options(timeout_s=NEVER)

    async def body() -> None:
        await limited()
        await patient()
        await limited()

    with pytest.raises(CallLimitError):
        await program(body).run()


async def test_outside_a_run_nothing_is_counted() -> None:
    """Outside every run nothing is counted."""

    @hyperfunction(max_calls=1)
    async def limited() -> int:
        return 1

    assert [await limited() for _ in range(3)] == [1, 1, 1]


# --- one call: cancellation -------------------------------------------------------------------------------------------


async def test_cancelling_the_awaiting_task() -> None:
    """Cancelling the task that awaits a call cancels the call, and `CancelledError` passes through unchanged."""
    ended: list[str] = []
    for options in ({}, {"timeout_s": NEVER, "retries": 3}):
        task = asyncio.ensure_future(hyperfunction(**options)(for_ever)(ended))  # type: ignore[call-overload]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended == ["ended", "ended"]


async def test_the_tape_keeps_errors() -> None:
    """A call that failed, timed out or was cancelled is on the tape with its error."""
    fails = hyperfunction(failing(9, lambda _: ValueError("no"))[1])
    late = hyperfunction(timeout_s=SOON, name="late")(for_ever)
    cancelled = hyperfunction(name="cancelled")(for_ever)

    async def body() -> None:
        for call in (fails(), late()):
            with contextlib.suppress(ValueError, CallTimeoutError):
                await call
        task = asyncio.ensure_future(cancelled())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    _, tape = await program(body).execute({}, record=True)
    assert [(call.function, type(call.error)) for call in tape] == [
        ("function", ValueError),
        ("late", CallTimeoutError),
        ("cancelled", asyncio.CancelledError),
    ]
    assert all(call.end is not None for call in tape)
