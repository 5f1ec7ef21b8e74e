"""Fitness to weights: the three rules, and the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperfunc.errors import ConfigurationError, ShapeError
from hyperfunc.evolution.cma_constants import cma_constants
from hyperfunc.evolution.shaping import (
    ShapingName,
    average_over_ties,
    best_index,
    centered_ranks,
    kept_members,
    shape_fitness,
    z_score,
)
from hyperfunc.evolution.snes import utilities, utilities_of

SHAPINGS: tuple[ShapingName, ...] = ("centered_ranks", "raw", "z_score")


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_centered_ranks() -> None:
    assert centered_ranks(f64(3.0, -1e9, 5.0)).tolist() == [0.0, -0.5, 0.5]
    assert centered_ranks(f64(2.0, 1.0, 2.0, 7.0)).tolist() == pytest.approx([0.0, -0.5, 0.0, 0.5])


def test_z_score() -> None:
    weights = z_score(f64(1.0, 2.0, 6.0))
    assert float(weights.sum()) == pytest.approx(0)
    assert float(weights.square().mean()) == pytest.approx(1)


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=30), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_ranks_follow_members_not_positions(values: list[int], seed: int) -> None:
    """Shuffling members shuffles their weights with them; equal members weigh the same; all weights sum to 0."""
    fitness = f64(*values)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    for weigh in (centered_ranks, utilities_of):
        weights = weigh(fitness)
        torch.testing.assert_close(weigh(fitness[order]), weights[order])
        for value in set(values):
            assert len(set(weights[fitness == value].tolist())) == 1
        assert float(weights.sum()) == pytest.approx(0, abs=1e-9)


def test_tied_members_share_the_mean_of_their_ranks() -> None:
    assert average_over_ties(f64(1, 5, 1, 9), f64(8, 4, 2, 0)).tolist() == [1, 4, 1, 8]
    assert average_over_ties(f64(1, 5, 3, 9), f64(0.1, 0.2, 0.3, 0.4)).tolist() == [0.4, 0.2, 0.3, 0.1]


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e300, 3.3e-310])
def test_constant_fitness_weighs_exactly_nothing(shaping: ShapingName, value: float) -> None:
    shaped = shape_fitness(f64(*[value] * 7), shaping)
    assert shaped.is_silent
    assert not bool(shaped.weights.any())


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_what_is_not_finite_is_dropped_with_its_twin(shaping: ShapingName) -> None:
    fitness = f64(1.0, math.nan, 3.0, 4.0, 5.0, math.inf)
    twins = torch.tensor([3, 4, 5, 0, 1, 2])
    assert kept_members(fitness, twins).tolist() == [True, False, False, True, False, False]
    shaped = shape_fitness(fitness, shaping, twins=twins)
    assert shaped.count == 2
    assert shaped.weights[[1, 2, 4, 5]].tolist() == [0, 0, 0, 0]
    assert float(shaped.weights[3]) > float(shaped.weights[0])


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_one_member_left_says_nothing(shaping: ShapingName) -> None:
    assert shape_fitness(f64(math.nan, 2.0, math.nan), shaping).is_silent


def test_groups_are_relative_to_their_mean_and_share_one_deviation() -> None:
    fitness = f64(0.0, 2.0, 100.0, 104.0)
    shaped = shape_fitness(fitness, "z_score", groups=torch.tensor([7, 7, 3, 3]))
    deviation = math.sqrt((1 + 1 + 4 + 4) / 4)
    assert shaped.weights.tolist() == pytest.approx([-1 / deviation, 1 / deviation, -2 / deviation, 2 / deviation])
    with pytest.raises(ShapeError, match="groups"):
        shape_fitness(fitness, "z_score", groups=torch.zeros(3))


def test_the_best_is_finite() -> None:
    assert best_index(f64(1.0, math.nan, 3.0, math.inf, 3.0)) == 2
    assert best_index(f64(math.nan, -math.inf)) is None
    assert best_index(f64(math.nan, -1e308)) == 1


def test_an_unknown_shaping_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="centered_ranks, raw, z_score"):
        shape_fitness(f64(1.0, 2.0), "softmax")  # type: ignore[arg-type]


def test_snes_utilities_are_those_of_the_paper() -> None:
    """Four members: ln(3) - ln(k), cut at 0, over their sum, minus 1/4."""
    raw = [math.log(3) - math.log(k) for k in (1, 2, 3)] + [0.0]
    raw = [max(0.0, r) for r in raw]
    assert utilities(4).tolist() == pytest.approx([r / sum(raw) - 0.25 for r in raw])


@pytest.mark.parametrize(("dimensions", "members"), [(1, 4), (2, 2), (10, 10), (10, 200), (100, 17), (3, 1000)])
def test_cma_constants_keep_the_covariance_positive(dimensions: int, members: int) -> None:
    c = cma_constants(dimensions, members)
    assert float(c.parents.sum()) == pytest.approx(1)
    assert bool((c.parents.diff() <= 0).all())
    assert bool((c.weights.diff() <= 1e-15).all())
    assert 0 < c.rank_one <= 1
    assert 0 <= c.rank_mu <= 1 - c.rank_one + 1e-12
    # Eq. 52: what remains of C outweighs all that the negative weights take from it.
    negative = float(c.weights.clamp(max=0).abs().sum())
    assert 1 - c.rank_one - c.rank_mu * float(c.weights.sum()) >= c.rank_mu * dimensions * negative * (1 - 1e-9) - 1e-12
