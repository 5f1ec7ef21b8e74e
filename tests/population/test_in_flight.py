"""Throughput at a limit, from what is in flight; in a time that the tests make."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest

from hyperfunc.population.in_flight import InFlight
from hyperfunc.population.throughput_climb import ThroughputClimb


class Watched(ThroughputClimb):
    """Notes what it is told, and stays where it is unless a size is asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(size, 1, 10_000, step=2.0, worthwhile=0.1)
        self.observed: list[float] = []
        self.wanted: int | None = None

    def observe(self, throughput: float) -> None:
        self.observed.append(throughput)
        if self.wanted is not None:
            self.size = self.standing = self.wanted


def work(in_flight: InFlight, count: int, seconds: float | Callable[[int], float], now: float = 0.0) -> float:
    """``count`` things of so many seconds, as many at once as may be; when the last one has ended."""
    ends: list[float] = []
    begun = 0
    while begun < count or ends:
        while begun < count and in_flight.has_room:
            in_flight.began(now)
            heapq.heappush(ends, now + (seconds(begun) if callable(seconds) else seconds))
            begun += 1
        now = heapq.heappop(ends)
        in_flight.ended(now)
    return now


def test_throughput_at_the_limit_of_one_long_round() -> None:
    climb = Watched(10)
    work(InFlight(climb), 500, 2.0)
    assert climb.observed
    assert climb.observed == pytest.approx([10 / 2.0] * len(climb.observed))


def test_rounds_shorter_than_a_window_say_the_same_together() -> None:
    """25 at 10 at once take 3 waves, the last one half empty: 25 in 6 s, but 10 at once do 5 per second."""
    climb, now = Watched(10), 0.0
    in_flight = InFlight(climb)
    for _ in range(20):
        now = work(in_flight, 25, 2.0, now) + 100.0  # pauses do not count
    assert len(climb.observed) > 5
    assert climb.observed == pytest.approx([5.0] * len(climb.observed), rel=0.15)  # windows cut through waves
    assert sum(climb.observed) / len(climb.observed) == pytest.approx(5.0, rel=0.03)  # 4.2 by the clock


def test_too_little_to_do_says_nothing() -> None:
    climb, now = Watched(10), 0.0
    in_flight = InFlight(climb)
    for _ in range(100):
        now = work(in_flight, 9, 1.0, now)
    assert climb.observed == []


def test_what_was_in_flight_at_a_change_says_nothing_about_the_new_limit() -> None:
    """Those that began at 50 at once took 10 s each, the later ones take 1 s."""
    climb = Watched(50)
    in_flight = InFlight(climb)
    climb.wanted = 5
    work(in_flight, 400, lambda begun: 10.0 if begun < 150 else 1.0)
    assert in_flight.limit == 5
    assert climb.observed[0] == pytest.approx(5.0)
    assert len(climb.observed) > 3
    assert climb.observed[1:] == pytest.approx([5.0] * len(climb.observed[1:]))


def test_cancelled_work_drops_the_window() -> None:
    climb = Watched(4)
    in_flight = InFlight(climb)
    for now in range(500):
        in_flight.began(now)
        in_flight.abandoned(now + 0.5)
    assert climb.observed == []
    assert in_flight.count == 0


def test_a_fixed_limit_is_kept() -> None:
    in_flight = InFlight(None, 3)
    work(in_flight, 500, 1.0)
    in_flight.stand_at(7)
    assert (in_flight.limit, in_flight.standing, in_flight.count) == (3, 3, 0)
