"""Worker threads that run blocks of members, each with one intra-op thread and an event loop of its own.

One intra-op thread, because the order in which several threads add changes bits; many workers are as fast. The event
loop, because a lifted program is a coroutine and the caller's loop is busy awaiting us. Knows nothing of programs.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

__all__ = ["BlockWorkers"]

T = TypeVar("T")


class BlockWorkers:
    """A pool of ``count`` threads; close it (or use it as a context manager) when the run ends."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._local = threading.local()
        self._runners: list[asyncio.Runner] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="hyperfunc-block", initializer=self._start_thread)

    def _start_thread(self) -> None:
        torch.set_num_threads(1)
        runner = asyncio.Runner()
        self._local.runner = runner
        with self._lock:
            self._runners.append(runner)

    async def map(self, work: Callable[[int, asyncio.Runner], T], indices: Sequence[int], *, at_once: int) -> list[T]:
        """``work(index, runner)`` for every index, ``at_once`` at a time, results in order. The first error cancels
        what has not begun, waits for what has, and is raised."""
        loop = asyncio.get_running_loop()
        limit = asyncio.Semaphore(max(1, min(at_once, self.count)))
        threads_here = torch.get_num_threads()

        async def one(index: int) -> T:
            async with limit:
                context = contextvars.copy_context()
                return await loop.run_in_executor(self._pool, context.run, self._call, work, index)

        tasks = [asyncio.ensure_future(one(index)) for index in indices]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # set_num_threads is partly global: give threads that start elsewhere back what they had.
            torch.set_num_threads(threads_here)

    def _call(self, work: Callable[[int, asyncio.Runner], T], index: int) -> T:
        return work(index, self._local.runner)

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        # Closing a loop runs it once more, which the caller's thread, inside its own loop, may not do.
        closer = threading.Thread(target=self._close_runners)
        closer.start()
        closer.join()

    def _close_runners(self) -> None:
        for runner in self._runners:
            runner.close()
        self._runners.clear()

    def __enter__(self) -> BlockWorkers:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
