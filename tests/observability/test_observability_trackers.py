"""Trackers in threads of their own: in order, never blocking, never failing a run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from hyperfunc.observability.trackers import TrackerThread


class Recorder:
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.threads: set[str] = set()
        self.may_go = threading.Event()
        self.may_go.set()
        self.entered = threading.Event()
        self.error: Exception | None = None

    def _note(self, *call: Any) -> None:
        self.entered.set()
        self.may_go.wait()
        if self.error is not None:
            raise self.error
        self.calls.append(call)
        self.threads.add(threading.current_thread().name)

    def start(self, run: str, configuration: Mapping[str, Any] | None = None) -> None:
        self._note("start", run, configuration)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._note("log", step, values)

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        self._note("finish", result)


def test_everything_arrives_in_order_in_another_thread() -> None:
    recorder = Recorder()
    tracker = TrackerThread(recorder)
    tracker.start("run", {"sigma": 0.1})
    values = {"best": 0.5}
    tracker.log(0, values)
    values["best"] = 1.0  # what was logged is what it was then
    tracker.log(1, values)
    assert tracker.finish({"reason": "target"}, timeout_s=30)
    assert recorder.calls == [
        ("start", "run", {"sigma": 0.1}),
        ("log", 0, {"best": 0.5}),
        ("log", 1, {"best": 1.0}),
        ("finish", {"reason": "target"}),
    ]
    assert recorder.threads == {"hyperfunc-tracker-Recorder"}
    assert tracker.dropped == 0


def test_a_stuck_tracker_holds_up_nobody() -> None:
    recorder = Recorder()
    recorder.may_go.clear()
    tracker = TrackerThread(recorder, capacity=10)
    tracker.start("run")
    assert recorder.entered.wait(30)
    before = time.perf_counter()
    for step in range(1000):
        tracker.log(step, {"best": 0.0})
    assert not tracker.finish(timeout_s=0.05)
    assert time.perf_counter() - before < 10
    assert tracker.dropped == 990
    recorder.may_go.set()
    tracker._thread.join(30)
    assert not tracker._thread.is_alive()
    assert [call[0] for call in recorder.calls] == ["start", "finish"]  # it was given up, but may still tidy up
    assert tracker.dropped == 1000


def test_a_failing_tracker_is_switched_off_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.error = ConnectionError("no server")
    with caplog.at_level(logging.WARNING, "hyperfunc.observability"):
        tracker = TrackerThread(recorder, name="mlflow")
        tracker.start("run")
        for step in range(5):
            tracker.log(step, {})
        assert not tracker.finish(timeout_s=30)
    assert [r.getMessage() for r in caplog.records] == ["tracker mlflow is switched off: ConnectionError: no server"]
    assert recorder.calls == []
    assert tracker.dropped == 5
