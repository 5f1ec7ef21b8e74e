"""The window of gathered runs: how many are alive, whose turn it is, and when the next block is opened.

A window belongs to one block, or is shared by all blocks of a run: then the next block begins as soon as the ones
before have no run left to start, so that waiting for the last runs of a block costs nothing. Knows nothing of what a
run does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from hyperfunc.population.in_flight import InFlight

__all__ = ["RunWindow"]

R = TypeVar("R")


class RunWindow:
    """As many runs alive as ``runs`` says.

    Args:
        runs: what is alive, and how many may be.
    """

    def __init__(self, runs: InFlight) -> None:
        self.runs = runs
        self._starters: deque[Callable[[], bool]] = deque()  # of blocks with runs to start, oldest first
        self._has_nothing_to_start: asyncio.Future[None] | None = None

    def add(self, start: Callable[[], bool]) -> None:
        """Start runs by ``start``, which says whether there was one left, as soon as there is room."""
        self._starters.append(start)
        self.fill()

    def remove(self, start: Callable[[], bool]) -> None:
        """Start no more of these."""
        if start in self._starters:
            self._starters.remove(start)

    def fill(self) -> None:
        """Start what there is room for. Only from a callback of the event loop or a task."""
        while self._starters and self.runs.has_room:
            start = self._starters[0]
            if not start():
                self.remove(start)
        waited_for = self._has_nothing_to_start
        if waited_for is not None and not waited_for.done() and self._wants_a_block:
            waited_for.set_result(None)

    @property
    def _wants_a_block(self) -> bool:
        return self.runs.has_room and not self._starters

    async def run_blocks(self, blocks: Sequence[int], run_block: Callable[[int], Coroutine[Any, Any, R]]) -> list[R]:
        """``run_block(block)`` of every block, results in order; each is opened when there is room for its runs.

        When one block raises, the others are cancelled and awaited before its exception goes on.
        """
        tasks: list[asyncio.Task[R]] = []
        try:
            for block in blocks:
                while not self._wants_a_block:
                    self._has_nothing_to_start = asyncio.get_running_loop().create_future()
                    awaited: list[asyncio.Future[Any]] = [task for task in tasks if not task.done()]
                    awaited.append(self._has_nothing_to_start)
                    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                    for task in tasks:
                        if task.done():
                            task.result()  # raises what the block raised
                tasks.append(asyncio.create_task(run_block(block)))
                await asyncio.sleep(0)  # the block starts its runs
            return await asyncio.gather(*tasks)
        finally:
            self._has_nothing_to_start = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
