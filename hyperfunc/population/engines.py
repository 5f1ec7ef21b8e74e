"""Blocks of members on an engine that a plugin registered: other processes, other machines.

Knows nothing of what an engine does, and nothing of strategies and scores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from hyperfunc.errors import ConfigurationError
from hyperfunc.plugins import current_plugins
from hyperfunc.population.members import MemberBlock
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.program import Program
from hyperfunc.settings import Settings

__all__ = ["ClosableEngine", "Engine", "close_engine", "engine_for", "run_on_engine"]

R = TypeVar("R")


@runtime_checkable
class Engine(Protocol):
    """Where one block of members is run. Test one with :class:`hyperfunc.testing.EngineContract`."""

    async def run_block(
        self, program: Program, block: MemberBlock, inputs: Sequence[Mapping[str, Any]], settings: Settings
    ) -> BlockOutcome:
        """Run every member of ``block`` (an empty one: the program's own θ) on every example."""
        ...


@runtime_checkable
class ClosableEngine(Protocol):
    """An engine that holds something (processes, connections)."""

    def close(self) -> None:
        """Give it back; called once when the run has ended, also by an error."""
        ...


def engine_for(settings: Settings) -> Engine | None:
    """A new engine as ``settings.engine`` names it; ``None`` if it names none.

    Raises:
        PluginError: no engine has this name.
        ConfigurationError: ``execution`` asks for something else at the same time, or what is registered is no engine.
    """
    if settings.engine is None:
        return None
    if settings.execution not in (None, "auto"):
        raise ConfigurationError(
            f"engine={settings.engine!r} and execution={settings.execution!r} both say how a population is run; "
            "leave one of them out"
        )
    engine = current_plugins().make("engines", settings.engine)
    if not isinstance(engine, Engine):
        raise ConfigurationError(
            f"engine={settings.engine!r}: expected a class with `async run_block(program, block, inputs, settings)`, "
            f"got {type(engine).__name__}"
        )
    return engine


def close_engine(engine: object) -> None:
    """Close an engine that can be closed."""
    if isinstance(engine, ClosableEngine):
        engine.close()


async def run_on_engine(
    engine: Engine,
    program: Program,
    ask: Callable[[int], MemberBlock],
    blocks: Sequence[int],
    inputs: Sequence[Mapping[str, Any]],
    reduce: Callable[[int, BlockOutcome], R],
    *,
    settings: Settings,
    at_once: int,
) -> list[R]:
    """``reduce(block, outcome)`` of every block, in block order; at most ``at_once`` blocks are under way.

    When one block raises, the others are cancelled and awaited before its exception goes on.
    """
    free = asyncio.Semaphore(at_once)

    async def one(index: int) -> R:
        async with free:
            return reduce(index, await engine.run_block(program, ask(index), inputs, settings))

    tasks = [asyncio.ensure_future(one(index)) for index in blocks]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
