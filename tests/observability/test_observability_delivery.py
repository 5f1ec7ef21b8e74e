"""Delivery: nothing that a backend does slows or fails a run, and what is lost is counted."""

from __future__ import annotations

import logging
import subprocess
import sys
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


def slow_to_wake(**options: float) -> tuple[Recorder, Delivery]:
    """An exporter that has a span in hand and says nothing until ``may_go`` is set."""
    exporter = Recorder()
    exporter.may_go.clear()
    delivery = Delivery(exporter, interval_s=0.001, **options)
    delivery(finished("first"))
    assert exporter.entered.wait(30)
    return exporter, delivery


def test_closing_does_not_wait_for_a_backend_that_never_answered_and_goes_on_without_the_run() -> None:
    exporter, delivery = slow_to_wake(patience_s=600)
    delivery(finished("second"))
    before = time.perf_counter()
    assert not delivery.close()
    assert time.perf_counter() - before < 30  # far less than the patience
    assert (delivery.dropped, delivery.finished) == (0, False)  # nothing is lost yet
    exporter.may_go.set()
    delivery._thread.join(30)
    assert exporter.names == ["first", "second"]
    assert (delivery.delivered, delivery.dropped, delivery.failed, delivery.finished) == (2, 0, 0, True)
    assert exporter.shut_down == 1


def test_what_a_silent_backend_has_not_taken_in_time_is_counted_once() -> None:
    exporter, delivery = slow_to_wake(patience_s=0.01)
    delivery(finished("second"))
    assert not delivery.close()
    deadline = time.monotonic() + 30
    while delivery.dropped == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert delivery.dropped == 2
    exporter.may_go.set()  # too late: what it takes now stays counted as dropped
    delivery._thread.join(30)
    assert (delivery.delivered, delivery.dropped, delivery.failed, exporter.shut_down) == (0, 2, 0, 1)


def after(seconds: float, delivery: Delivery) -> Delivery:
    """As if the session had lasted that long."""
    delivery._began -= seconds
    return delivery


def test_a_backend_known_to_be_silent_or_failing_is_not_waited_for_at_all() -> None:
    exporter, delivery = slow_to_wake(patience_s=600)
    delivery._in_hand_since -= 60  # longer than the hundredth of the session
    assert not after(1000, delivery).close()
    assert delivery._grace() == 0.0
    exporter.may_go.set()
    delivery._thread.join(30)
    exporter = Recorder()
    exporter.error = TimeoutError("no reply")
    delivery = after(1e6, Delivery(exporter))
    delivery(finished("second"))
    assert delivery.flush(30)
    delivery.finish()
    assert delivery._grace() == 0.0


def test_however_slow_a_session_ends_a_hundredth_of_its_time_later_at_most() -> None:
    waiting = [after(100, slow_to_wake(patience_s=600)[1]) for _ in range(3)]
    for delivery in waiting:
        delivery.finish()
    assert all(0.5 < delivery._grace() <= 1.1 for delivery in waiting)
    waiting[0]._ended -= 0.6  # time passes
    waiting[0]._began -= 0.6
    assert waiting[0]._grace() < 0.5  # of the same hundredth; a second delivery does not begin to wait anew
    for delivery in waiting:
        delivery._abandon()


@pytest.mark.parametrize("local", [False, True])
def test_a_backend_that_answers_in_time_and_one_on_this_machine_are_waited_for(local: bool) -> None:
    exporter = Recorder()
    exporter.is_local = local  # type: ignore[attr-defined]
    delivery = Delivery(exporter, interval_s=60, patience_s=600)
    if not local:
        after(3000, delivery)
    exporter.may_go.clear()
    delivery(finished("last"))
    threading.Timer(0.2, exporter.may_go.set).start()
    assert delivery.close()
    assert exporter.names == ["last"]
    assert exporter.shut_down == 1


def test_what_was_dropped_is_told(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Recorder()
    exporter.may_go.clear()
    delivery = Delivery(exporter, capacity=10, name="otlp", interval_s=0.001)
    delivery(finished("first"))
    assert exporter.entered.wait(30)
    for index in range(13):
        delivery(finished(str(index)))
    exporter.may_go.set()
    with caplog.at_level(logging.WARNING, "hyperfunc.observability"):
        assert delivery.close(30)
    assert [record.getMessage() for record in caplog.records] == [
        "otlp did not take observations in time: 3 were dropped"
    ]


_SCRIPT = """
import sys, threading, time
from hyperfunc.observability import Delivery, Tracer

class Exporter:
    def export(self, observations, summary=None):
        if sys.argv[1] == "silent":
            threading.Event().wait()
        time.sleep(0.3)
        print(*(record.fn_name for record in observations), flush=True)

    def shutdown(self):
        print("shut down", flush=True)

delivery = Delivery(Exporter(), patience_s=1.0 if sys.argv[1] == "silent" else 60.0)
tracer = Tracer(delivery)
for name in ("a", "b"):
    tracer.end(tracer.start("run", name, None))
print("complete" if delivery.close() else "not yet", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "expected"), [("slow", ["not yet", "a b", "shut down"]), ("silent", ["not yet"])])
def test_the_end_of_the_program_waits_for_what_goes_on_in_the_background(how: str, expected: list[str]) -> None:
    ended = subprocess.run([sys.executable, "-c", _SCRIPT, how], capture_output=True, text=True, timeout=120)
    assert ended.stderr == ("" if how == "slow" else "Exporter did not take observations in time: 2 were dropped\n")
    assert (ended.returncode, ended.stdout.splitlines()) == (0, expected)
