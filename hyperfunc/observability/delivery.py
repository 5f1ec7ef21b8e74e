"""Hands observations to an exporter in a thread of its own, through a bounded queue.

A run is never slowed by a backend: what does not fit into the queue is counted and let go, a failing exporter is
reported once and counted, and closing waits no longer than 1 % of the time that was watched; the rest goes in the
background. Knows nothing of what an exporter does.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from hyperfunc.observability.metrics import Metrics, MetricsExporter
from hyperfunc.observability.records import ObservationRecord, TraceSummary
from hyperfunc.observability.spans import Span

__all__ = ["Delivery", "Exporter", "SpanExporter"]

_log = logging.getLogger("hyperfunc.observability")
_BATCH = 512
# The first batch goes early, so that it is known by the end whether the backend answers, and it is small: for one that
# does not, a full batch would have been encoded in vain.
_FIRST_INTERVAL_S = 0.1
_FIRST_BATCH = 32
_LOCAL_WAIT_S = 10.0
_GRACE_SHARE = 0.01
_EXIT_STEP_S = 0.05


class Exporter(Protocol):
    """Where observations go. ``export`` may block; it is called in a thread of its own, with one batch at a time.

    An exporter that writes on this machine says so by an attribute ``is_local = True``: the end of a session then waits
    until everything is written.
    """

    def export(self, observations: Sequence[ObservationRecord], summary: TraceSummary | None = None) -> None:
        """Send or write a batch. An exception means that the batch was not delivered; it is not tried again."""
        ...

    def shutdown(self) -> None:
        """Finish: write what is held back, close files and connections."""
        ...


@runtime_checkable
class SpanExporter(Protocol):
    """An exporter that takes spans as they are, which saves making a flat record of each."""

    def export_spans(self, spans: Sequence[Span], *, content: bool) -> None:
        """As ``export``; ``content`` includes inputs and outputs of calls."""
        ...


class Delivery:
    """A receiver of spans for one exporter.

    Args:
        exporter: called in this object's thread.
        name: how log messages call it.
        capacity: spans that may wait; those that come while it is full are dropped.
        interval_s: longest time that a span waits for others to share a batch with.
        patience_s: a backend that keeps a batch for longer does not answer.
        content: include inputs and outputs of calls.
        metrics: sent after each batch where the exporter takes metrics.

    Attributes:
        delivered, failed: spans that the exporter has taken, and that it has not.
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        name: str = "",
        capacity: int = 8192,
        interval_s: float = 1.0,
        patience_s: float = 2.0,
        content: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        self._exporter = exporter
        self._name = name or type(exporter).__name__
        self._is_local = bool(getattr(exporter, "is_local", False))
        self._capacity = capacity
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._content = content
        self._metrics = metrics
        self._waiting: deque[Span] = deque()
        self._wake = threading.Condition()
        self._in_hand = 0
        self._in_hand_since = 0.0
        self._flushes = 0
        self._answered: bool | None = None  # whether the last batch was taken
        self._failed_once = False
        self._closing = False
        self._abandoned = False
        self._dropped = 0
        self._began = self._ended = time.monotonic()
        self._deadline = float("inf")
        self._finished = threading.Event()
        self.delivered = 0
        self.failed = 0
        self._thread = threading.Thread(target=self._work, name=f"hyperfunc-export-{self._name}", daemon=True)
        self._thread.start()

    def __call__(self, span: Span) -> None:
        """Take a finished span. Never blocks on the exporter."""
        with self._wake:
            if self._closing or len(self._waiting) >= self._capacity:
                self._dropped += 1
                return
            self._waiting.append(span)
            if len(self._waiting) == _BATCH:
                self._wake.notify_all()

    @property
    def dropped(self) -> int:
        """Spans that the exporter was never offered, or had in hand when it was given up."""
        if time.monotonic() > self._deadline:
            self._abandon()
        return self._dropped

    @property
    def finished(self) -> bool:
        """Closed, and nothing is under way any more."""
        return self._finished.is_set()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Deliver what has been taken so far; whether that was done in time."""
        deadline = time.monotonic() + timeout_s
        with self._wake:
            self._flushes += 1
            self._wake.notify_all()
            while (self._waiting or self._in_hand) and (left := deadline - time.monotonic()) > 0:
                self._wake.wait(left)
            self._flushes -= 1
            return not (self._waiting or self._in_hand)

    def finish(self) -> None:
        """Take no more spans, deliver those that wait, and shut the exporter down; returns at once.

        What is not taken within ``patience_s`` is given up. The interpreter's end waits for that too, unless the
        backend refused its last batch or has kept one for longer than ``patience_s``.
        """
        with self._wake:
            if not self._closing:
                self._closing = True
                self._ended = time.monotonic()
                self._deadline = self._ended + (_LOCAL_WAIT_S if self._is_local else self._patience_s)
                atexit.register(self._at_exit)
                self._wake.notify_all()

    def close(self, timeout_s: float | None = None) -> bool:
        """:meth:`finish`, and wait for that; whether everything was done.

        Args:
            timeout_s: what is not delivered after this time counts as dropped. ``None`` waits for an exporter that
                writes on this machine; for any other 1 % of the time from this object's making to :meth:`finish`;
                for one that refused its last batch, or has kept one for longer than that, not at all. The rest then
                goes on in the background.
        """
        self.finish()
        complete = self._finished.wait(self._grace() if timeout_s is None else timeout_s)
        if not complete and timeout_s is not None:
            self._abandon()
        return complete

    def _grace(self) -> float:
        """Seconds that the end of a session may take."""
        if self._is_local:
            return _LOCAL_WAIT_S
        grace = _GRACE_SHARE * (self._ended - self._began)
        # A backend that has kept a batch for longer than we would wait is not about to answer.
        return max(0.0, self._ended + grace - time.monotonic()) if self._answers(grace) else 0.0

    def _answers(self, within_s: float) -> bool:
        """Not known to be dead: the last batch was no failure, and none is in hand for longer than ``within_s``."""
        with self._wake:
            held = time.monotonic() - self._in_hand_since if self._in_hand else 0.0
            return self._answered is not False and held <= within_s

    def _abandon(self) -> None:
        with self._wake:
            if self._abandoned or self._finished.is_set():
                return
            self._abandoned = True
            self._dropped += len(self._waiting) + self._in_hand
            self._waiting.clear()
            self._wake.notify_all()
        atexit.unregister(self._at_exit)
        self._tell_of_dropped()

    def _at_exit(self) -> None:
        while self._is_local or self._answers(self._patience_s):
            left = self._deadline - time.monotonic()
            if left <= 0 or self._finished.wait(min(left, _EXIT_STEP_S)):
                break
        self._abandon()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            if batch and not self._settle(batch, self._export(batch)):
                break
        try:
            self._exporter.shutdown()
        except Exception as error:
            self._complain("could not be shut down", error)
        if not self._abandoned:
            self._tell_of_dropped()
        self._finished.set()
        atexit.unregister(self._at_exit)

    def _next_batch(self) -> list[Span] | None:
        """Up to a batch of spans, after waiting for them; ``None`` at the end."""
        with self._wake:
            if not self._closing and not (self._flushes and self._waiting) and len(self._waiting) < _BATCH:
                # Nobody wakes this thread for a single span: that would cost the run more than recording it.
                first = self._answered is None
                self._wake.wait(min(self._interval_s, _FIRST_INTERVAL_S) if first else self._interval_s)
            size = _FIRST_BATCH if self._answered is None else _BATCH
            batch = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            self._in_hand = len(batch)
            self._in_hand_since = time.monotonic()
            return None if self._abandoned or (not batch and self._closing) else batch

    def _settle(self, batch: list[Span], taken: bool) -> bool:
        """Count what became of a batch; whether to go on."""
        if not taken and time.monotonic() > self._deadline:
            self._abandon()
        with self._wake:
            self._in_hand = 0
            self._answered = taken
            if not self._abandoned:  # else it was counted as dropped
                if taken:
                    self.delivered += len(batch)
                else:
                    self.failed += len(batch)
            self._wake.notify_all()
            return not self._abandoned

    def _export(self, batch: list[Span]) -> bool:
        try:
            if isinstance(self._exporter, SpanExporter):
                self._exporter.export_spans(batch, content=self._content)
            else:
                self._exporter.export([ObservationRecord.from_span(span, content=self._content) for span in batch])
            if self._metrics is not None and isinstance(self._exporter, MetricsExporter):
                self._exporter.export_metrics(self._metrics.snapshot())
        except Exception as error:  # an exporter's fault is not the run's
            self._complain(f"could not take {len(batch)} observations", error)
            return False
        return True

    def _complain(self, what: str, error: Exception) -> None:
        if not self._failed_once:
            self._failed_once = True
            _log.warning("%s %s: %s: %s (said once; all are counted)", self._name, what, type(error).__name__, error)

    def _tell_of_dropped(self) -> None:
        if self._dropped:
            _log.warning("%s did not take observations in time: %d were dropped", self._name, self._dropped)
