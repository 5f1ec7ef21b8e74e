"""Time that passes without waiting: tests of deadlines, rates and pauses are quick, and the same on any machine."""

from __future__ import annotations

import asyncio

__all__ = ["VirtualLoop"]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as nothing else is to be done.

    ``with asyncio.Runner(loop_factory=VirtualLoop) as runner: runner.run(…)``; seconds are those of ``loop.time()``.
    For programs of timers and tasks alone: the clock does not wait for answers of sockets, threads or processes.
    """

    _now = 0.0

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]
