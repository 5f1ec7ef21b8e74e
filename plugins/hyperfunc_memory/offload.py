"""Blocking calls off the event loop; cancellation leaves nothing under way. Knows nothing of memories."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from hyperfunc_memory.errors import MemoryStoreError

__all__ = ["InPlaceWhileCheap", "Offload"]

P = ParamSpec("P")
R = TypeVar("R")
_MAX_THREADS = 8


class Offload:
    """A few worker threads, started when first needed, and usable from any event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._closed = False

    async def __call__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``function(*args, **kwargs)`` on a worker thread, in the caller's context.

        A cancelled caller waits for a call that has begun, and drops one that has not: once it has been told, nothing
        is written behind its back.
        """
        context = contextvars.copy_context()
        submitted = self._started().submit(context.run, partial(function, *args, **kwargs))
        waiting = asyncio.wrap_future(submitted)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not submitted.cancel():
                await asyncio.wait([waiting])
                if not waiting.cancelled():
                    waiting.exception()  # retrieved, or asyncio would log it
            raise

    @staticmethod
    async def once(function: Callable[[], R]) -> R:
        """``function()`` on asyncio's own worker threads: for what ends this object's."""
        return await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(function)))

    def close(self) -> None:
        """Let the calls under way end, then end the threads. Calling it again does nothing."""
        with self._lock:
            self._closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)

    def _started(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise MemoryStoreError("this memory is closed; make a new one")
            if self._process != os.getpid():  # threads do not live on in a forked child
                self._executor = None
                self._process = os.getpid()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="hyperfunc-memory")
            return self._executor


class InPlaceWhileCheap:
    """Calls made on the event loop as long as ``cheap()`` holds, and on the threads of ``offload`` otherwise.

    For calls that wait for nothing and end within a millisecond: handing one to a thread takes longer than making it.
    Other tasks get their turn before each.
    """

    def __init__(self, offload: Offload, cheap: Callable[[], bool]) -> None:
        self._offload = offload
        self._cheap = cheap

    async def __call__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``function(*args, **kwargs)``, here or there."""
        if not self._cheap():
            return await self._offload(function, *args, **kwargs)
        await asyncio.sleep(0)
        return function(*args, **kwargs)
