"""What every experiment tracker must do, as tests: override the fixture ``tracker_case``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["TrackerCase", "TrackerContract"]


@dataclass(frozen=True)
class TrackerCase:
    """A tracker and how to see what it kept.

    Attributes:
        tracker: new, nothing started yet.
        curve: the points ``(step, value)`` of a metric after ``finish``, in order of steps. ``None`` where that cannot
            be seen from here; the test is then skipped.
    """

    tracker: Any
    curve: Callable[[str], Sequence[tuple[int, float]]] | None = None


class TrackerContract:
    """Tests of one tracker."""

    @pytest.fixture
    def tracker_case(self) -> TrackerCase:
        """A new tracker. Override this."""
        raise NotImplementedError("override the fixture tracker_case with a TrackerCase")

    def test_a_run_from_start_to_end(self, tracker_case: TrackerCase) -> None:
        tracker = tracker_case.tracker
        tracker.start("run 1", {"strategy": "snes", "steps": 3, "nested": {"a": [1, None]}, "text": "ü" * 600})
        for step in range(3):
            tracker.log(step, {"best": step / 2, "mean": -step})
        tracker.finish({"best_fitness": 1.0, "finish_reason": "completed"})

    def test_points_come_back(self, tracker_case: TrackerCase) -> None:
        if tracker_case.curve is None:
            pytest.skip("curves cannot be seen; give TrackerCase(curve=...)")
        tracker = tracker_case.tracker
        tracker.start("run", {})
        for step in range(4):
            tracker.log(step, {"best": step / 2})
        tracker.finish()
        assert [step for step, _ in tracker_case.curve("best")] == [0, 1, 2, 3]
        assert [value for _, value in tracker_case.curve("best")] == pytest.approx([0.0, 0.5, 1.0, 1.5])

    def test_numbers_that_are_not_finite_are_no_error(self, tracker_case: TrackerCase) -> None:
        tracker_case.tracker.start("run")
        tracker_case.tracker.log(0, {"nan": math.nan, "inf": -math.inf, "best": 1.0})
        tracker_case.tracker.log(1, {"nan": math.nan})
        tracker_case.tracker.log(2, {})
        tracker_case.tracker.finish()

    def test_the_end_may_come_twice(self, tracker_case: TrackerCase) -> None:
        tracker_case.tracker.start("run")
        tracker_case.tracker.finish()
        tracker_case.tracker.finish({"best_fitness": 0.0})

    def test_the_end_may_come_before_the_start(self, tracker_case: TrackerCase) -> None:
        tracker_case.tracker.finish()

    def test_two_runs_after_each_other(self, tracker_case: TrackerCase) -> None:
        for run in ("first", "second"):
            tracker_case.tracker.start(run, {"name": run})
            tracker_case.tracker.log(0, {"best": 1.0})
            tracker_case.tracker.finish({})
