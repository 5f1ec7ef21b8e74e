"""The gradient estimate: one GEMM over pairs equals the sum member by member, and its variance is the theory's."""

from __future__ import annotations

import pytest
import torch

from hyperfunc.errors import ShapeError
from hyperfunc.population.noise import NoiseKind, draw, generator_for
from hyperfunc.population.update import accumulation_dtype, blocked_sum, dense_gradient, factored_gradient

KINDS: tuple[NoiseKind, ...] = ("gaussian", "rademacher")


def factors(kind: NoiseKind, pairs: int, rows: int, columns: int, rank: int, dtype: torch.dtype = torch.float32):
    generator = generator_for(0, kind, pairs, rank)
    return (
        draw((pairs, rows, rank), generator, kind=kind, dtype=dtype),
        draw((pairs, columns, rank), generator, kind=kind, dtype=dtype),
        draw((pairs,), generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_factored_gradient_is_the_sum_over_every_member_of_each_pair(kind: NoiseKind, rank: int) -> None:
    left, right, plus_fitness = factors(kind, 7, 6, 4, rank, torch.float64)
    minus_fitness = plus_fitness.flip(0) * 0.5
    expected = torch.zeros(6, 4, dtype=torch.float64)
    for a, b, plus, minus in zip(left, right, plus_fitness, minus_fitness, strict=True):
        expected += plus * (a @ b.mT) + minus * (-a @ b.mT)
    torch.testing.assert_close(factored_gradient(left, right, plus_fitness - minus_fitness), expected)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2, 2), ()])
def test_dense_gradient_is_the_weighted_sum_of_the_noise(shape: tuple[int, ...]) -> None:
    noise = draw((9, *shape), generator_for(1), dtype=torch.float64)
    weights = draw((9,), generator_for(2), dtype=torch.float64)
    expected = sum((w * e for w, e in zip(weights, noise, strict=True)), torch.zeros(shape, dtype=torch.float64))
    torch.testing.assert_close(dense_gradient(noise, weights), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_narrow_noise_is_accumulated_in_float32_and_points_the_way_float64_does(
    kind: NoiseKind, dtype: torch.dtype
) -> None:
    left, right, weights = factors(kind, 512, 24, 32, 2, dtype)
    got = factored_gradient(left, right, weights)
    assert got.dtype == torch.float32 == accumulation_dtype(dtype)
    exact = torch.einsum("p,pir,pjr->ij", weights, left.double(), right.double())
    assert torch.cosine_similarity(got.double().flatten(), exact.flatten(), dim=0) >= 0.9999
    noise = draw((512, 24, 32), generator_for(3), kind=kind, dtype=dtype)
    dense = dense_gradient(noise, weights)
    exact = torch.einsum("p,pij->ij", weights, noise.double())
    assert dense.dtype == torch.float32
    assert torch.cosine_similarity(dense.double().flatten(), exact.flatten(), dim=0) >= 0.9999


def test_equal_fitness_is_exactly_a_zero_step() -> None:
    left, right, _ = factors("gaussian", 16, 5, 3, 1)
    assert torch.equal(factored_gradient(left, right, torch.zeros(16)), torch.zeros(5, 3))
    assert torch.equal(dense_gradient(draw((16, 5), generator_for(4)), torch.zeros(16)), torch.zeros(5))


def test_the_blocked_sum_is_a_left_fold_in_the_order_given() -> None:
    """1 + 2⁻²⁴ + 2⁻²⁴ rounds to 1 from the left and to 1 + 2⁻²³ from the right: the order shows in the bits."""
    one, tiny = torch.ones(3), torch.full((3,), 2.0**-24)
    assert torch.equal(blocked_sum(iter([one, tiny, tiny])), one)
    assert torch.equal(blocked_sum(iter([tiny, tiny, one])), one + 2.0**-23)


def test_the_blocked_sum_leaves_its_inputs_alone() -> None:
    first = torch.ones(2)
    assert torch.equal(blocked_sum([first, first]), torch.full((2,), 2.0))
    assert torch.equal(first, torch.ones(2))


@pytest.mark.parametrize(
    ("kind", "bound"), [("rademacher", lambda m, n: m * n), ("gaussian", lambda m, n: (m + 2) * (n + 2))]
)
def test_variance_for_a_linear_objective_matches_the_theory(kind: NoiseKind, bound) -> None:
    """For ``f(W) = <G, W>`` one draw estimates ``<G, E> E``; E|g|²/|G|² is mn (Rademacher), (m+2)(n+2) (Gaussian)."""
    rows, columns, draws = 12, 10, 40_000
    generator = generator_for(5, kind)
    left = draw((draws, rows, 1), generator, kind=kind, dtype=torch.float64)
    right = draw((draws, columns, 1), generator, kind=kind, dtype=torch.float64)
    objective = draw((rows, columns), generator_for(6), dtype=torch.float64)
    slopes = torch.einsum("pir,ij,pjr->p", left, objective, right)  # (f⁺ − f⁻) / 2σ

    # |g|² = slope² · |E|², and |E|² = |a|²|b|² at rank 1; checked against the function on a few draws.
    squared = slopes.square() * left.square().sum((1, 2)) * right.square().sum((1, 2))
    for i in range(3):
        one = factored_gradient(left[i : i + 1], right[i : i + 1], slopes[i : i + 1])
        torch.testing.assert_close(one.square().sum(), squared[i])
    measured = float(squared.mean() / objective.square().sum())
    if kind == "rademacher":
        assert measured <= 1.01 * bound(rows, columns)
    assert measured == pytest.approx(bound(rows, columns), rel=0.05)


@pytest.mark.parametrize(
    ("left", "right", "weights"),
    [
        ((4, 3, 1), (5, 2, 1), (4,)),
        ((4, 3, 1), (4, 2, 2), (4,)),
        ((4, 3), (4, 2), (4,)),
        ((4, 3, 1), (4, 2, 1), (3,)),
    ],
)
def test_mismatched_pairs_are_refused_with_the_shapes(left, right, weights) -> None:
    with pytest.raises(ShapeError, match="expected"):
        factored_gradient(torch.zeros(left), torch.zeros(right), torch.zeros(weights))


def test_dense_and_blocked_misuse_is_refused() -> None:
    with pytest.raises(ShapeError, match="one weight per pair"):
        dense_gradient(torch.zeros(4, 2), torch.zeros(3))
    with pytest.raises(ShapeError, match="pairs"):
        dense_gradient(torch.tensor(1.0), torch.zeros(1))
    with pytest.raises(ShapeError, match="at least one"):
        blocked_sum([])
    with pytest.raises(ShapeError, match="block 1"):
        blocked_sum([torch.zeros(2), torch.zeros(3)])
