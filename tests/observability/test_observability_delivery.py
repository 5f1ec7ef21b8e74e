"""Delivery: nothing that a backend does slows or fails a run, and what is lost is counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import pytest

from hyperfunc.observability import (
    Delivery,
    MetricPoint,
    Metrics,
    ObservationRecord,
    Span,
    Tracer,
    TraceSummary,
    tracing,
)
from hyperfunc.observability import span as open_span


class Recorder:
    """An exporter that can be held up or broken."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.batches = 0
        self.shut_down = 0
        self.points: list[MetricPoint] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.entered = threading.Event()
        self.error: Exception | None = None

    def export(self, observations: Sequence[ObservationRecord], summary: TraceSummary | None = None) -> None:
        self.entered.set()
        self.may_go.wait()
        if self.error is not None:
            raise self.error
        self.batches += 1
        self.names += [record.fn_name for record in observations]

    def export_metrics(self, points: list[MetricPoint]) -> None:
        self.points = points

    def shutdown(self) -> None:
        self.shut_down += 1


def finished(name: str) -> Span:
    tracer = Tracer()
    made = tracer.start("run", name, None)
    tracer.end(made)
    return made


def test_spans_arrive_in_order_and_in_batches() -> None:
    exporter = Recorder()
    delivery = Delivery(exporter, interval_s=60)  # batches go when they are full, or when someone flushes
    for index in range(1300):
        delivery(finished(str(index)))
    assert delivery.flush(30)
    assert exporter.names == [str(index) for index in range(1300)]
    assert exporter.batches < 10
    assert delivery.close(30)
    assert (delivery.delivered, delivery.dropped, delivery.failed, exporter.shut_down) == (1300, 0, 0, 1)
    delivery(finished("late"))
    assert delivery.dropped == 1


def test_a_lonely_span_is_sent_without_a_flush() -> None:
    exporter = Recorder()
    delivery = Delivery(exporter, interval_s=0.01)
    delivery(finished("only"))
    assert exporter.entered.wait(30)
    delivery.close(30)
    assert exporter.names == ["only"]


def test_a_stuck_backend_holds_up_nobody_and_losses_are_counted() -> None:
    exporter = Recorder()
    exporter.may_go.clear()
    delivery = Delivery(exporter, capacity=100, interval_s=0.001)
    delivery(finished("first"))
    assert exporter.entered.wait(30)
    before = time.perf_counter()
    for index in range(10_000):
        delivery(finished(str(index)))
    assert time.perf_counter() - before < 10
    assert delivery.dropped == 9900
    assert not delivery.close(0.05)
    assert delivery.dropped == 10_001  # the hundred that waited and the one in hand
    exporter.may_go.set()
    delivery._thread.join(30)
    assert not delivery._thread.is_alive()
    assert (delivery.delivered, delivery.failed, exporter.shut_down) == (0, 0, 1)


def test_a_failing_exporter_is_reported_once_and_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Recorder()
    exporter.error = ConnectionRefusedError("nobody there")
    delivery = Delivery(exporter, name="otlp")
    for _ in range(3):
        delivery(finished("x"))
        assert delivery.flush(30)
    assert delivery.failed == 3
    with caplog.at_level(logging.WARNING, "hyperfunc.observability"):
        delivery.close(30)
    messages = [record.getMessage() for record in caplog.records if record.name == "hyperfunc.observability"]
    assert messages == [
        "otlp could not take 1 observations: ConnectionRefusedError: nobody there (said once; all are counted)"
    ]


def test_metrics_follow_each_batch() -> None:
    exporter = Recorder()
    metrics = Metrics()
    delivery = Delivery(exporter, metrics=metrics)
    with tracing(Tracer(delivery, metrics=metrics)), open_span("generation", "g", best=0.75, mean=float("nan")):
        pass
    delivery.close(30)
    assert [(p.name, p.value, dict(p.attributes)) for p in exporter.points] == [
        ("hyperfunc.fitness", 0.75, {"hyperfunc.statistic": "best"})
    ]
