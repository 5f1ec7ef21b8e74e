"""Hands observations to an exporter in a thread of its own, through a bounded queue.

A run is never slowed by a backend: what does not fit into the queue is counted and let go, a failing exporter is
reported once and counted, and closing waits only so long. Knows nothing of what an exporter does.
"""

from __future__ import annotations

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


class Exporter(Protocol):
    """Where observations go. ``export`` may block; it is called in a thread of its own, with one batch at a time."""

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
        content: include inputs and outputs of calls.
        metrics: sent after each batch where the exporter takes metrics.
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        name: str = "",
        capacity: int = 8192,
        interval_s: float = 1.0,
        content: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        self._exporter = exporter
        self._name = name or type(exporter).__name__
        self._capacity = capacity
        self._interval_s = interval_s
        self._content = content
        self._metrics = metrics
        self._waiting: deque[Span] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._abandoned = False
        self._in_hand = 0
        self._flushes = 0
        self._failed_once = False
        self.delivered = 0
        self.dropped = 0
        self.failed = 0
        self._thread = threading.Thread(target=self._work, name=f"hyperfunc-export-{self._name}", daemon=True)
        self._thread.start()

    def __call__(self, span: Span) -> None:
        """Take a finished span. Never blocks on the exporter."""
        with self._wake:
            if self._closing or len(self._waiting) >= self._capacity:
                self.dropped += 1
                return
            self._waiting.append(span)
            if len(self._waiting) == _BATCH:
                self._wake.notify_all()

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

    def close(self, timeout_s: float = 5.0) -> bool:
        """Deliver what waits and shut the exporter down, for at most ``timeout_s``; the rest counts as dropped.

        A backend that has never taken anything is not waited for.
        """
        known_dead = self.failed > 0 and self.delivered == 0
        complete = self.flush(0.0 if known_dead else timeout_s)
        with self._wake:
            self._closing = True
            self._abandoned = not complete
            self.dropped += len(self._waiting) + (0 if complete else self._in_hand)
            self._waiting.clear()
            self._wake.notify_all()
        if complete:
            self._thread.join(max(0.1, timeout_s))
        return complete

    def _work(self) -> None:
        while True:
            with self._wake:
                if not self._closing and not (self._flushes and self._waiting) and len(self._waiting) < _BATCH:
                    # Nobody wakes this thread for a single span: that would cost the run more than recording it.
                    self._wake.wait(self._interval_s)
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                self._in_hand = len(batch)
                if not batch and self._closing:
                    break
            delivered = self._export(batch) if batch else True
            with self._wake:
                self._in_hand = 0
                if self._abandoned:  # close() has counted this batch as dropped
                    break
                if delivered:
                    self.delivered += len(batch)
                else:
                    self.failed += len(batch)
                self._wake.notify_all()

        try:
            self._exporter.shutdown()
        except Exception as error:
            self._complain("could not be shut down", error)

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
