"""What a task awaits while its call waits in the queue: a future without the cost of one.

An ``asyncio.Future`` costs a second object, a handle and a turn of the event loop for every call (about 2 µs of the 15
that a call may cost). An :class:`Answer` follows the same protocol (``_asyncio_future_blocking``,
``add_done_callback``), so every task can wait on it, but it is woken by whoever answered a whole kernel, which is a
callback of the event loop and may step tasks directly. Exactly one task waits on each. Knows nothing of calls and
kernels.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator
from typing import Any

__all__ = ["Answer"]


class Answer:
    """An awaitable result, set once."""

    __slots__ = ("_asyncio_future_blocking", "context", "error", "loop", "resolved", "value", "wakeup")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.resolved = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._asyncio_future_blocking = False
        self.wakeup: Callable[[Answer], object] | None = None
        self.context: contextvars.Context | None = None

    # --- for whoever answers -------------------------------------------------------------------------------------

    def resolve(self, value: Any, error: BaseException | None = None) -> None:
        """Set the result; the waiting task goes on at :meth:`wake`."""
        self.value = value
        self.error = error
        self.resolved = True

    def wake(self) -> None:
        """Step the waiting task, here and now. Only from a callback of the event loop: no task may be running."""
        if self.wakeup is not None and self.context is not None:
            self.context.run(self.wakeup, self)

    def answer_soon(self, value: Any, error: BaseException | None = None) -> None:
        """Set the result and let the event loop wake the task; from anywhere in its thread."""
        if not self.resolved:
            self.resolve(value, error)
            self.loop.call_soon(self.wake)

    # --- the protocol of futures, as far as tasks use it ---------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, Any]:
        if not self.resolved:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value

    def cancel(self, msg: Any = None) -> bool:
        """The waiting task is cancelled; nobody wants this answer any more."""
        if self.resolved:
            return False
        self.answer_soon(None, asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.loop

    def add_done_callback(
        self, wakeup: Callable[[Answer], object], *, context: contextvars.Context | None = None
    ) -> None:
        self.context = contextvars.copy_context() if context is None else context
        self.wakeup = wakeup
