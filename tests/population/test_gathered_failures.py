"""Failures stay with whoever caused them; cancellation and interruption stop everything and leave nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError, InputMutatedError
from hyperfunc.function import hyperfunction
from hyperfunc.population.gathered import GatheredOutcome, run_gathered
from hyperfunc.population.members import DenseMembers
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.system import HyperSystem


@hyperfunction
def inverse(x: Tensor) -> Tensor:
    return torch.linalg.inv(x)


@hyperfunction
def doubled(x: Tensor) -> Tensor:
    return x * 2


class System(HyperSystem):
    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.register_hyperfunction(inverse)
        self.register_hyperfunction(doubled)

    async def run(self, **inputs: Any) -> Any:
        return await self.body(**inputs)


async def gathered(body: Any, inputs: list[dict[str, Any]], **options: Any) -> GatheredOutcome:
    settings = resolve_settings(Settings(**options))
    return await asyncio.wait_for(run_gathered(System(body).program(), {}, inputs, settings=settings), 60)


def left_over() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


@pytest.mark.parametrize("guilty", [(), (0,), (3, 17, 18, 99), tuple(range(100))])
async def test_only_the_guilty_call_fails(guilty: tuple[int, ...]) -> None:
    async def body(number: int, x: Tensor) -> Tensor:
        return await inverse(x)

    inputs = [{"number": n, "x": torch.zeros(2, 2) if n in guilty else torch.eye(2) * (n + 1)} for n in range(100)]
    outcome = await gathered(body, inputs)
    assert sorted(example for _, example in outcome.errors) == list(guilty)
    assert all("singular" in str(error) for error in outcome.errors.values())
    assert outcome.rows is not None
    for number in set(range(100)) - set(guilty):
        torch.testing.assert_close(outcome.rows[0][number], torch.eye(2) / (number + 1))


async def test_the_innocent_keep_their_bits() -> None:
    async def body(x: Tensor) -> Tensor:
        return await inverse(x)

    inputs = [{"x": torch.randn(3, 3, generator=torch.Generator().manual_seed(n))} for n in range(60)]
    alone = await gathered(body, inputs)
    beside = await gathered(body, [*inputs, {"x": torch.zeros(3, 3)}])
    assert alone.rows is not None
    assert beside.rows is not None
    assert all(torch.equal(a, b) for a, b in zip(alone.rows[0], beside.rows[0], strict=False))


async def test_a_program_may_catch_what_its_call_raised() -> None:
    async def body(x: Tensor) -> Any:
        try:
            return await inverse(x)
        except torch.linalg.LinAlgError:
            return await doubled(x)

    outcome = await gathered(body, [{"x": torch.zeros(2, 2)}, {"x": torch.eye(2)}])
    assert not outcome.errors
    assert outcome.rows is not None
    torch.testing.assert_close(outcome.rows[0], [torch.zeros(2, 2), torch.eye(2)])


async def test_errors_of_the_program_stand_under_member_and_example() -> None:
    async def body(number: int, x: Tensor) -> Tensor:
        if number == 2:
            raise ValueError("two")
        return await doubled(x)

    system = System(body)
    block = {"unused": DenseMembers(torch.zeros(3, 1))}
    inputs = [{"number": n, "x": torch.ones(1)} for n in range(4)]
    outcome = await run_gathered(system.program(), block, inputs, settings=resolve_settings(), members=[2, 0])
    assert list(outcome.errors) == [(0, 2), (1, 2)]
    assert outcome.failed_members() == {0, 1}
    assert outcome.rows is not None
    assert outcome.rows[1][2] is None


async def test_unknown_members_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="positions from 0 to 0"):
        await run_gathered(System(None).program(), {}, [{}], settings=resolve_settings(), members=[1])


async def test_writing_into_inputs_is_refused_by_name() -> None:
    async def body(number: int, data: dict[str, Tensor]) -> Tensor:
        if number == 3:
            data["x"][0] = 1.0
        return await doubled(data["x"])

    inputs = [{"number": n, "data": {"x": torch.zeros(2)}} for n in range(5)]
    with pytest.raises(InputMutatedError, match=r"\['data'\]\['x'\] of example 3"):
        await gathered(body, inputs)
    assert not left_over()


async def test_siblings_of_a_failed_call_are_cancelled() -> None:
    @hyperfunction
    async def fails(x: Tensor) -> Tensor:
        raise ValueError("at once")

    async def body(x: Tensor) -> Any:
        return await asyncio.gather(doubled(x), fails(x), doubled(x + 1))

    system = System(body)
    system.register_hyperfunction(fails)
    outcome = await asyncio.wait_for(
        run_gathered(system.program(), {}, [{"x": torch.ones(1)}] * 5, settings=resolve_settings()), 60
    )
    assert {str(error) for error in outcome.errors.values()} == {"at once"}
    assert not left_over()


async def test_cancelling_the_whole() -> None:
    ended: list[int] = []
    all_answered = asyncio.Barrier(31)

    async def body(number: int, x: Tensor) -> Tensor:
        try:
            await doubled(x)
            await all_answered.wait()
            await asyncio.sleep(60)
            return x
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    inputs = [{"number": n, "x": torch.ones(1)} for n in range(30)]
    running = asyncio.create_task(run_gathered(System(body).program(), {}, inputs, settings=resolve_settings()))
    await asyncio.wait_for(all_answered.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(ended) == list(range(30))
    assert not left_over()


async def test_cancelling_while_calls_wait() -> None:
    """The queue waits for the run that sleeps; the others' calls must not outlive the cancellation."""
    queued = asyncio.Event()

    async def body(number: int, x: Tensor) -> Tensor:
        if number == 0:
            await asyncio.sleep(60)
        queued.set()
        return await doubled(x)

    inputs = [{"number": n, "x": torch.ones(1)} for n in range(30)]
    settings = resolve_settings(Settings(gather_wait_s=60))
    running = asyncio.create_task(run_gathered(System(body).program(), {}, inputs, settings=settings))
    await asyncio.wait_for(queued.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not left_over()


async def test_a_run_that_is_cancelled_from_inside_ends_everything() -> None:
    cleaned: list[int] = []

    async def body(number: int, x: Tensor) -> Tensor:
        try:
            h = await doubled(x)
            if number == 4:
                raise asyncio.CancelledError
            await asyncio.sleep(60)
            return h
        finally:
            cleaned.append(number)

    inputs = [{"number": n, "x": torch.ones(1)} for n in range(10)]
    with pytest.raises(asyncio.CancelledError):
        await run_gathered(System(body).program(), {}, inputs, settings=resolve_settings())
    assert sorted(cleaned) == list(range(10))
    assert not left_over()


class Stop(BaseException):
    """Not an ordinary exception."""


async def test_other_base_exceptions_pass() -> None:
    async def body(number: int, x: Tensor) -> Tensor:
        h = await doubled(x)
        if number == 1:
            raise Stop
        await asyncio.sleep(60)
        return h

    inputs = [{"number": n, "x": torch.ones(1)} for n in range(10)]
    with pytest.raises(Stop):
        await run_gathered(System(body).program(), {}, inputs, settings=resolve_settings())
    assert not left_over()


@pytest.mark.parametrize("where", ["program", "kernel"])
def test_keyboard_interrupt_passes(where: str) -> None:
    calls = 0

    @hyperfunction
    def interrupts(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if where == "kernel" and calls == 2:
            raise KeyboardInterrupt
        return x

    cleaned: list[int] = []

    async def body(number: int, x: Tensor) -> Tensor:
        try:
            h = await interrupts(x)
            if where == "program" and number == 3:
                raise KeyboardInterrupt
            await asyncio.sleep(60)
            return h
        finally:
            cleaned.append(number)

    system = System(body)
    system.register_hyperfunction(interrupts)
    inputs = [{"number": n, "x": torch.ones(1)} for n in range(10)]
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run_gathered(system.program(), {}, inputs, settings=resolve_settings()))
    assert sorted(cleaned) == list(range(10))


async def test_two_blocks_at_once_on_one_loop() -> None:
    async def body(x: Tensor) -> Tensor:
        return await doubled(await doubled(x))

    outcomes = await asyncio.gather(*(gathered(body, [{"x": torch.full((1,), float(k))}] * 20) for k in range(3)))
    for k, outcome in enumerate(outcomes):
        assert not outcome.errors
        assert outcome.rows is not None
        assert all(torch.equal(row, torch.tensor([4.0 * k])) for row in outcome.rows[0])
