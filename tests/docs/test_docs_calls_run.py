"""docs/calls.md: what one run promises, and one conversation or episode. Docstrings are the statements."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from docs_calls import NUMBER, SOON, failing, for_ever, program, scaled
from torch import Tensor

import hyperfunc_agents.plugin
from hyperfunc import HyperSystem, hyperfunction
from hyperfunc.errors import (
    CallLimitError,
    ClosedBindingError,
)
from hyperfunc.hookspecs import hookimpl
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc_agents import TensorCartPole


async def test_siblings_of_a_failure() -> None:
    """When a run fails, every call that it had started in another task is cancelled and awaited before the error goes
    on."""
    ended: list[str] = []
    waits = hyperfunction(for_ever)

    @hyperfunction
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    async def body() -> None:
        await asyncio.gather(waits(ended, "first"), waits(ended, "second"), fails())

    with pytest.raises(ValueError, match="broken"):
        await program(body).run()
    assert sorted(ended) == ["first", "second"]


async def test_a_caught_failure() -> None:
    """A program that catches the failure of a call goes on, and the siblings of that call with it."""
    release = asyncio.Event()

    @hyperfunction
    async def waits() -> str:
        await release.wait()
        return "undisturbed"

    fails = hyperfunction(failing(9, lambda _: ValueError("no"))[1])

    async def body() -> str:
        sibling = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        try:
            await fails()
        except ValueError:
            release.set()
        return await sibling

    assert await program(body).run() == "undisturbed"


async def test_cancelling_a_run() -> None:
    """Cancelling a run cancels and awaits every call that it has started."""
    ended: list[str] = []
    waits = hyperfunction(for_ever)

    async def body() -> None:
        started = [asyncio.ensure_future(waits(ended, name)) for name in ("first", "second")]
        await asyncio.shield(asyncio.gather(*started))  # even what is shielded from the run itself

    task = asyncio.ensure_future(program(body).run())
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == ["first", "second"]


async def test_left_over_calls() -> None:
    """After a run has ended, a call that was left over raises `ClosedBindingError` instead of using parameters that no
    longer hold."""
    left_over: list[Any] = []

    async def body(x: Tensor) -> int:
        left_over.append(scaled(x))
        return 1

    await program(body).run(x=torch.ones(1))
    with pytest.raises(ClosedBindingError, match="await every call"):
        await left_over[0]


async def test_concurrent_runs_are_apart() -> None:
    """Concurrent runs count their calls and see their parameters apart from each other."""

    @hyperfunction(hp_type=NUMBER, max_calls=2)
    async def limited(x: Tensor, hp: Any) -> float:
        await asyncio.sleep(0)
        return float(x * hp.weight)

    async def body(x: Tensor) -> Any:
        return await limited(x) + await limited(x)

    system = program(body)
    system.register_hyperfunction(limited)
    values = [{"limited.hp": torch.tensor([[float(v)]])} for v in range(20)]
    results = await asyncio.gather(*(system.execute({"x": torch.ones(1)}, theta=theta) for theta in values))
    assert results == [2.0 * v for v in range(20)]


# --- one conversation, one episode ------------------------------------------------------------------------------------


class Episode:
    """An agent type whose example is as many calls of ``run`` as ``steps`` says."""

    liftable: ClassVar[bool] = False

    async def run_example(self, run: Callable[..., Awaitable[Any]], inputs: Mapping[str, Any], system: Any) -> Any:
        return [await run(step=step) for step in range(inputs["steps"])]


class EpisodePlugin:
    @staticmethod
    @hookimpl
    def hyperfunc_register_agent_types(register: Any) -> None:
        register("episode", Episode)


def episodes(body: Callable[..., Awaitable[Any]]) -> HyperSystem:
    class Program(HyperSystem):
        agent_type = "episode"

        async def run(self, step: int) -> Any:
            return await body(step)

    return Program()


@contextlib.contextmanager
def episode_plugin() -> Any:
    with use_plugins(load_plugins([("episode", EpisodePlugin())], entry_points=False)) as plugins:
        yield plugins


async def test_max_calls_over_an_episode() -> None:
    """`max_calls` counts over a whole conversation or episode, not anew for every message or step."""

    @hyperfunction(max_calls=3)
    async def limited(step: Any) -> Any:
        return step

    class Chat(HyperSystem):
        agent_type = "chat"

        async def run(self, message: str) -> str:
            return str(await limited(message))

    class Game(HyperSystem):
        agent_type = "game"

        async def run(self, observation: Tensor) -> int:
            await limited(observation)
            return 0

    agents = load_plugins([("agents", hyperfunc_agents.plugin), ("episode", EpisodePlugin())], entry_points=False)
    talks: list[dict[str, Any]] = [{"conversation": ["hello"] * turns} for turns in (3, 3, 4)]
    games: list[dict[str, Any]] = [{"env": TensorCartPole(), "seed": 0, "max_steps": steps} for steps in (3, 3, 4)]
    own: list[dict[str, Any]] = [{"steps": steps} for steps in (3, 3, 4)]
    systems: list[tuple[HyperSystem, list[dict[str, Any]]]] = [
        (Chat(), talks),
        (Game(), games),
        (episodes(lambda step: limited(step)), own),
    ]
    with use_plugins(agents):
        for system, (short, again, long) in systems:
            await system.execute(short)
            await system.execute(again)
            with pytest.raises(CallLimitError):
                await system.execute(long)


async def test_timeouts_and_retries_in_an_episode() -> None:
    """`timeout_s` and `retries` hold for each call in it, never for the whole."""
    attempts: list[int] = []

    @hyperfunction(timeout_s=10 * SOON, retries=1)
    async def flaky(step: int) -> int:
        attempts.append(step)
        await asyncio.sleep(3 * SOON)  # five of them take longer than one may
        if attempts.count(step) == 1:
            raise ValueError("the first attempt at every step")
        return step

    with episode_plugin():
        assert await episodes(lambda step: flaky(step)).execute({"steps": 5}) == [0, 1, 2, 3, 4]
    assert attempts == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


async def test_a_failing_step() -> None:
    """When one message or step fails, the conversation or episode fails, and calls that it had started are cancelled
    and awaited."""
    ended: list[str] = []
    waits = hyperfunction(for_ever)
    background: list[asyncio.Future[None]] = []

    async def body(step: int) -> None:
        if step == 1:
            raise ValueError("step 1")
        background.append(asyncio.ensure_future(waits(ended)))
        await asyncio.sleep(0)

    with episode_plugin(), pytest.raises(ValueError, match="step 1"):
        await episodes(body).execute({"steps": 3})
    assert ended == ["ended"]
    assert background[0].cancelled()
