"""Many timeouts behind one timer, judged by what asyncio.timeout does."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from hyperfunc_llm.timeouts import Timeout, TimeoutWatch


async def _wait_under(watch: TimeoutWatch, seconds: float) -> float:
    """Wait forever under a timeout; returns when it ended, on the event loop's clock."""
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError), Timeout(watch, loop.time() + seconds):
        await asyncio.Event().wait()
    return loop.time()


async def test_each_ends_at_its_own_moment_whatever_the_order_of_opening() -> None:
    watch, start = TimeoutWatch(), asyncio.get_running_loop().time()
    lengths = [0.09, 0.01, 0.05, 0.03, 0.07]
    ends = await asyncio.gather(*(_wait_under(watch, s) for s in lengths))
    assert all(end - start >= s - 0.001 for end, s in zip(ends, lengths, strict=True))
    assert sorted(range(5), key=ends.__getitem__) == sorted(range(5), key=lengths.__getitem__)
    assert not watch._timeouts
    assert watch._timer is None


async def test_a_block_that_ends_in_time_is_left_alone() -> None:
    watch, loop = TimeoutWatch(), asyncio.get_running_loop()
    with Timeout(watch, loop.time() + 0.01) as timeout:
        pass
    await asyncio.sleep(0.03)  # its moment passes
    assert not timeout.expired
    with Timeout(watch, float("inf")):
        await asyncio.sleep(0)
    assert watch._timer is None  # nobody waits for infinity


async def test_a_moment_that_has_passed_ends_the_block_at_its_first_wait() -> None:
    watch, loop = TimeoutWatch(), asyncio.get_running_loop()
    with pytest.raises(TimeoutError), Timeout(watch, loop.time() - 1.0):
        await asyncio.Event().wait()


async def test_nested_timeouts_end_the_block_that_they_surround() -> None:
    watch, loop = TimeoutWatch(), asyncio.get_running_loop()
    with Timeout(watch, loop.time() + 60) as outer:
        with pytest.raises(TimeoutError), Timeout(watch, loop.time() + 0.005):
            await asyncio.Event().wait()
        await asyncio.sleep(0)  # the outer block goes on
    assert not outer.expired
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("too", [False, True], ids=["before the moment", "and the moment too"])
async def test_a_cancellation_from_elsewhere_passes(too: bool) -> None:
    watch, loop = TimeoutWatch(), asyncio.get_running_loop()
    opened: list[Timeout] = []

    async def work() -> None:
        with Timeout(watch, loop.time() + 60) as timeout:
            opened.append(timeout)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    if too:
        opened[0].expire()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert not watch._timeouts


async def test_an_error_of_the_block_is_not_hidden_by_its_timeout() -> None:
    watch, loop = TimeoutWatch(), asyncio.get_running_loop()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("mine") from None

    with pytest.raises(ValueError, match="mine"), Timeout(watch, loop.time() + 0.001):
        await work()


async def test_a_thousand_timeouts_are_one_timer() -> None:
    watch, loop = TimeoutWatch(), asyncio.get_running_loop()
    timers: list[float] = []
    call_at = loop.call_at

    def counted(when: float, *args: object, **more: object) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *args, **more)  # type: ignore[arg-type]

    loop.call_at = counted  # type: ignore[method-assign]
    try:
        with contextlib.ExitStack() as stack:
            for i in range(1000):
                stack.enter_context(Timeout(watch, loop.time() + 600 + i))
            assert len(timers) == 1
    finally:
        del loop.call_at
    assert not watch._timeouts
