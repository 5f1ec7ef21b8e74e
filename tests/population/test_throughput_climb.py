"""The climb finds the knee of a throughput, whatever it began with, and seldom leaves it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperfunc.population.throughput_climb import ThroughputClimb


def climbed(
    throughput: Callable[[int], float], first: int, windows: int = 60, most: int = 4096, worthwhile: float = 0.1
) -> tuple[ThroughputClimb, Counter[int]]:
    """The climb after so many windows, and how many it spent at each size."""
    climb = ThroughputClimb(first, 1, most, step=2.0, worthwhile=worthwhile)
    spent: Counter[int] = Counter()
    for _ in range(windows):
        spent[climb.size] += 1
        climb.observe(throughput(climb.size))
    return climb, spent


@pytest.mark.parametrize("first", [1, 8, 24, 300, 4096])
@pytest.mark.parametrize("overload", [0.0, 0.5])
def test_it_comes_to_the_knee_from_both_sides(first: int, overload: float) -> None:
    capacity = 24
    climb, _ = climbed(lambda n: min(n, capacity) * (capacity / max(n, capacity)) ** overload, first)
    assert capacity / 1.25 <= climb.standing <= 1.25 * capacity


def test_it_goes_to_the_least_where_more_at_once_gains_nothing_and_to_the_most_where_it_always_does() -> None:
    assert climbed(lambda n: 100.0, 64)[0].standing == 1
    assert climbed(lambda n: float(n), 64, most=500)[0].standing == 500


def test_it_seldom_leaves_the_knee() -> None:
    _, spent = climbed(lambda n: float(min(n, 32)), 32, windows=200)
    assert spent[32] > 150


def test_it_follows_a_knee_that_moves() -> None:
    climb = ThroughputClimb(64, 1, 4096, step=2.0, worthwhile=0.1)
    for window in range(160):
        capacity = 100 if window < 80 else 12
        climb.observe(min(climb.size, capacity) * min(1.0, capacity / climb.size) ** 0.5)
        if window == 79:
            assert 75 <= climb.standing <= 130
    assert 9 <= climb.standing <= 16


def test_noise_of_a_tenth_leaves_it_near_the_knee() -> None:
    draws = random.Random(0)
    for _ in range(5):
        climb, _ = climbed(lambda n: min(n, 40) * draws.gauss(1.0, 0.1), 8, windows=80, worthwhile=0.3)
        assert 0.7 * 40 <= climb.standing * min(1.0, 40 / climb.standing) <= 40


def test_a_place_to_go_on_from_is_kept_within_the_limits() -> None:
    climb = ThroughputClimb(8, 2, 16, step=2.0, worthwhile=0.1)
    for wanted, kept in ((5, 5), (100, 16), (1, 2)):
        climb.stand_at(wanted)
        assert climb.size == climb.standing == kept


@given(
    st.lists(st.floats(1e-3, 1e6), max_size=60),
    st.tuples(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50)),
    st.floats(1.01, 8),
    st.floats(0.01, 0.99),
)
def test_it_stays_within_its_limits_whatever_it_observes(
    observed: list[float], sizes: tuple[int, int, int], step: float, worthwhile: float
) -> None:
    least, above, further = sizes
    climb = ThroughputClimb(least + above, least, least + above + further, step=step, worthwhile=worthwhile)
    for throughput in observed:
        climb.observe(throughput)
        assert least <= climb.size <= least + above + further
        assert least <= climb.standing <= least + above + further
