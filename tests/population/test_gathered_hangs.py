"""Nothing that a program does beside its calls can make the others wait for ever: each tried with 512 runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc.function import hyperfunction
from hyperfunc.parameters.lora import LoRAWeight
from hyperfunc.population.gathered import GatheredOutcome, run_gathered
from hyperfunc.population.members import FactoredMembers
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.system import HyperSystem

MEMBERS, EXAMPLES = 64, 8
RUNS = MEMBERS * EXAMPLES
GUARD_S = 60.0


@hyperfunction(hp_type=LoRAWeight.create(3, 3, 1), optimize_hparams=True)
async def layer(x: Tensor, *, hp: LoRAWeight) -> Tensor:
    return torch.tanh(x @ hp.weight.to(x.dtype).T)


@hyperfunction
def total(x: Tensor) -> Tensor:
    return x.sum()


Body = Callable[[int, Tensor, Any], Awaitable[Any]]


class Program(HyperSystem):
    """Runs ``body(number, x, shared)``; ``shared`` is made inside the running loop."""

    def __init__(self, body: Body, share: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self.body = body
        self.share = share
        self.shared: Any = None
        self.register_hyperfunction(layer)
        self.register_hyperfunction(total)

    async def run(self, number: int, x: Tensor) -> Any:
        if self.shared is None:
            self.shared = self.share()
        return await self.body(number, x, self.shared)


async def run_guarded(body: Body, share: Callable[[], Any] = lambda: None, **options: Any) -> GatheredOutcome:
    system = Program(body, share)
    generator = torch.Generator().manual_seed(0)
    block = {
        "layer.hp": FactoredMembers(
            system.theta.tensors["layer.hp"],
            torch.randn(MEMBERS, 3, 1, generator=generator),
            torch.randn(MEMBERS, 3, 1, generator=generator),
            0.1,
        )
    }
    inputs = [{"number": n, "x": torch.randn(3, generator=generator)} for n in range(EXAMPLES)]
    running = run_gathered(system.program(), block, inputs, settings=resolve_settings(Settings(**options)))
    return await asyncio.wait_for(running, GUARD_S)


async def test_ragged_shapes() -> None:
    async def body(number: int, x: Tensor, shared: Any) -> Tensor:
        h = await layer(x.expand(1 + number, 3))
        return await total(h[: 1 + number % 3])

    outcome = await run_guarded(body)
    assert not outcome.errors
    assert outcome.gathered_calls == 2 * RUNS


async def test_mixed_dtypes() -> None:
    dtypes = (torch.float32, torch.float64, torch.bfloat16)

    async def body(number: int, x: Tensor, shared: Any) -> Tensor:
        h = await layer(x.to(dtypes[number % 3]))
        assert h.dtype == dtypes[number % 3]
        return await total(h)

    outcome = await run_guarded(body)
    assert not outcome.errors
    assert outcome.gathered_calls == 2 * RUNS


async def test_cancelled_calls() -> None:
    async def body(number: int, x: Tensor, shared: Any) -> Tensor:
        h = await layer(x)
        dropped = asyncio.ensure_future(layer(h))
        await asyncio.sleep(0)
        dropped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        try:
            async with asyncio.timeout(0):
                await layer(h)
        except TimeoutError:
            pass
        return await layer(h)

    outcome = await run_guarded(body)
    assert not outcome.errors


async def test_one_lock_around_every_call() -> None:
    async def body(number: int, x: Tensor, lock: asyncio.Lock) -> Tensor:
        async with lock:
            return await layer(x)

    outcome = await run_guarded(body, asyncio.Lock)
    assert not outcome.errors
    assert outcome.gathered_calls == RUNS


async def test_semaphores() -> None:
    async def body(number: int, x: Tensor, semaphore: asyncio.Semaphore) -> Tensor:
        for _ in range(3):
            async with semaphore:
                x = await layer(x)
            await asyncio.sleep(0)
        return x

    outcome = await run_guarded(body, lambda: asyncio.Semaphore(50))
    assert not outcome.errors
    assert outcome.gathered_calls == 3 * RUNS


async def test_sleeps() -> None:
    async def body(number: int, x: Tensor, shared: Any) -> Tensor:
        for step in range(3):
            await asyncio.sleep(0.0005 * ((number + step) % 4))
            x = await layer(x)
        return x

    outcome = await run_guarded(body, gather_wait_s=0.05)
    assert not outcome.errors
    assert outcome.gathered_calls == 3 * RUNS
    assert outcome.kernels < 200  # the wait lets sleepers come along; without it there are about as many as wake-ups


async def test_no_waiting_at_all() -> None:
    async def body(number: int, x: Tensor, shared: Any) -> Tensor:
        if number % 2:
            await asyncio.sleep(0.01)
        return await layer(x)

    outcome = await run_guarded(body, gather_wait_s=0)
    assert not outcome.errors


async def test_gather_tasks_and_groups() -> None:
    async def body(number: int, x: Tensor, shared: Any) -> Any:
        a, b = await asyncio.gather(layer(x), layer(x * 2))
        later = asyncio.create_task(layer(a))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(layer(b * k)) for k in range(number % 3)]
        return [await later, await total(layer(a)), *(task.result() for task in tasks)]

    outcome = await run_guarded(body)
    assert not outcome.errors
    assert outcome.eager_calls == 0


async def test_runs_that_wait_for_each_other() -> None:
    """Half of the runs wait for an event that the other half sets after its calls."""

    async def body(number: int, x: Tensor, event: asyncio.Event) -> Tensor:
        if number % 2:
            await event.wait()
        h = await layer(x)
        event.set()
        return h

    outcome = await run_guarded(body, asyncio.Event)
    assert not outcome.errors


@pytest.mark.parametrize("window", [1, 7, 511])
async def test_small_windows(window: int) -> None:
    async def body(number: int, x: Tensor, shared: Any) -> Tensor:
        return await total(await layer(x))

    outcome = await run_guarded(body, window=window)
    assert not outcome.errors
    assert outcome.gathered_calls == 2 * RUNS


async def test_the_window_bounds_the_runs_alive() -> None:
    alive = most = 0

    async def body(number: int, x: Tensor, shared: Any) -> Tensor:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        await asyncio.sleep(0)
        h = await layer(x)
        alive -= 1
        return h

    outcome = await run_guarded(body, window=20)
    assert not outcome.errors
    assert most == 20
