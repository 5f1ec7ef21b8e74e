"""Runs experiment trackers in a thread of their own, so that a slow or dead one costs a run nothing.

Knows the three moments of a tracker's life, nothing of what they draw.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["Tracker", "TrackerThread"]

_log = logging.getLogger("hyperfunc.observability")


class Tracker(Protocol):
    """What ``hyperfunc_register_trackers`` takes: a class whose instances follow one run."""

    def start(self, run: str, configuration: Mapping[str, Any] | None = None) -> None:
        """The run begins."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one generation."""
        ...

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        """The run has ended; write what is held back."""
        ...


class TrackerThread:
    """A tracker that never blocks and never raises.

    Args:
        tracker: gets the same calls, in the same order, in this object's thread; one that raises gets no more of them.
        name: how log messages call it.
        capacity: calls that may wait; further points of curves are dropped, the beginning and the end never are.

    Attributes:
        dropped: points that were not delivered.
    """

    def __init__(self, tracker: Tracker, *, name: str = "", capacity: int = 1024) -> None:
        self._tracker = tracker
        self._name = name or type(tracker).__name__
        self._capacity = capacity
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._broken = False
        self._finished = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name=f"hyperfunc-tracker-{self._name}", daemon=True)
        self._thread.start()

    def start(self, run: str, configuration: Mapping[str, Any] | None = None) -> None:
        """Begin the run."""
        self._calls.put(lambda: self._tracker.start(run, configuration))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers of one generation."""
        if self._broken or self._calls.qsize() >= self._capacity:
            self.dropped += 1
            return
        copy = dict(values)
        self._calls.put(lambda: self._log(step, copy))

    def finish(self, result: Mapping[str, Any] | None = None, *, timeout_s: float = 5.0) -> bool:
        """End the run; whether the tracker has taken everything within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        self._calls.put(lambda: self._tracker.finish(result))
        self._calls.put(None)
        complete = self._finished.wait(max(0.0, deadline - time.monotonic()))
        if not complete:
            self._broken = True  # what still waits is skipped once the call in progress returns
        return complete and not self._broken

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        if self._broken:
            self.dropped += 1
            return
        try:
            self._tracker.log(step, values)
        except Exception:
            self.dropped += 1
            raise

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # a tracker's fault is not the run's
                if not self._broken:
                    _log.warning("tracker %s is switched off: %s: %s", self._name, type(error).__name__, error)
                self._broken = True
        self._finished.set()
