"""Timeouts of many attempts behind one timer.

``asyncio.timeout`` makes a timer, a copy of the context and bound methods for every block. With a thousand requests in
flight that is a thousand of each for the garbage collector to walk over, again and again. Here a timeout is one object,
and the event loop knows one timer: that of the timeout that ends first. Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from types import TracebackType

__all__ = ["Timeout", "TimeoutWatch"]


class Timeout:
    """Cancels the block that it surrounds (``with``) at a moment.

    Args:
        watch: of the running event loop.
        ends_at: on the event loop's clock; infinity is never.

    Raises:
        TimeoutError: the block did not end in time.
    """

    __slots__ = ("_cancelled_before", "_task", "_watch", "ends_at", "expired")

    def __init__(self, watch: TimeoutWatch, ends_at: float) -> None:
        self.ends_at = ends_at
        self.expired = False
        self._watch = watch

    def __enter__(self) -> Timeout:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a timeout needs a task to cancel")
        self._task, self._cancelled_before = task, task.cancelling()
        self._watch._open(self)
        return self

    def expire(self) -> None:
        """Cancel the block."""
        self.expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch._close(self)
        # As in asyncio.timeout: a cancellation that came from elsewhere meanwhile is not ours to swallow.
        if self.expired and self._task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise TimeoutError from error


class TimeoutWatch:
    """The open timeouts of one event loop."""

    __slots__ = ("__weakref__", "_looks_at", "_timeouts", "_timer")

    def __init__(self) -> None:
        self._timeouts: dict[Timeout, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = float("inf")

    def _open(self, timeout: Timeout) -> None:
        self._timeouts[timeout] = None
        if timeout.ends_at < self._looks_at:
            self._look_at(timeout.ends_at)

    def _close(self, timeout: Timeout) -> None:
        self._timeouts.pop(timeout, None)

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = moment
        # A context of its own: that of whoever comes first must not be kept alive until the timer runs.
        self._timer = asyncio.get_running_loop().call_at(moment, self._look, context=Context())

    def _look(self) -> None:
        """Expire what has ended; look again when the next one does. Most timeouts are closed long before that, so that
        this runs about once per timeout's length, however many requests were made meanwhile."""
        due = max(self._looks_at, asyncio.get_running_loop().time())
        self._timer, self._looks_at = None, float("inf")
        for timeout in [t for t in self._timeouts if t.ends_at <= due]:
            self._close(timeout)
            timeout.expire()
        following = min((t.ends_at for t in self._timeouts), default=float("inf"))
        if following < float("inf"):
            self._look_at(following)
