"""EGGROLL: members, update and noise against the plain formulas."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from hyperfunc.evolution.center import CenterState
from hyperfunc.evolution.eggroll import Eggroll
from hyperfunc.evolution.gradient import GradientAscent
from hyperfunc.evolution.openai_es import OpenAIES
from hyperfunc.evolution.schedules import LinearSigma
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec
from hyperfunc.population.members import DenseMembers, FactoredMembers

SGD = GradientAscent("sgd", lr=1.0)
F64 = torch.float64
GROUP = ParameterGroup(
    {
        "w": ParameterSpec((7, 5), F64),
        "conv": ParameterSpec((4, 3, 2, 2), F64, noise_rank=3),
        "b": ParameterSpec((7,), F64),
        "thin": ParameterSpec((2, 9), F64),
    }
)
VALUES = {
    name: torch.linspace(-1, 1, spec.size, dtype=F64).reshape(spec.shape) for name, spec in GROUP.parameters.items()
}


def naive_step(strategy: Eggroll, state: CenterState, weights: Tensor) -> dict[str, Tensor]:
    """``m + 1 / (P σ) · Σ wᵢ εᵢ``, one dense member at a time, where ``εᵢ = (xᵢ - m) / σ``."""
    sigma = strategy.sigma_at(state)
    after = {name: value.clone() for name, value in state.center.items()}
    for block in strategy.blocks():
        members = strategy.ask(state, block)
        for name, values in members.items():
            for i in range(strategy.size_of(block)):
                dense = values.values[i] if isinstance(values, DenseMembers) else values.dense(i)
                noise = (dense - state.center[name]) / sigma
                weight = weights[strategy.members_of(block).start + i]
                after[name] += weight * noise / (strategy.population_size * sigma)
    return after


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("antithetic", [True, False])
def test_the_update_is_that_of_a_plain_loop(
    noise: Literal["gaussian", "rademacher"], rank: int, antithetic: bool
) -> None:
    strategy = Eggroll(
        population_size=20, block_size=8, rank=rank, noise=noise, antithetic=antithetic, ascent=SGD, shaping="raw"
    )
    state = strategy.init(GROUP, VALUES, 5)
    fitness = torch.randn(20, dtype=F64, generator=torch.Generator().manual_seed(1))
    told = strategy.tell(state, fitness)
    for name, expected in naive_step(strategy, state, fitness).items():
        torch.testing.assert_close(told.center[name], expected, rtol=1e-9, atol=1e-9)


def test_dropped_pairs_leave_the_mean_over_the_rest() -> None:
    strategy = Eggroll(population_size=8, ascent=SGD, shaping="raw")
    state = strategy.init(GROUP, VALUES, 5)
    fitness = torch.arange(8, dtype=F64)
    fitness[1] = math.nan
    weights = torch.where(torch.arange(8) % 4 == 1, 0, torch.nan_to_num(fitness))
    told = strategy.tell(state, fitness)
    expected = naive_step(strategy, state, weights * 8 / 6)  # six members of eight are left
    for name, value in expected.items():
        torch.testing.assert_close(told.center[name], value, rtol=1e-9, atol=1e-9)


def test_fitness_is_relative_to_the_group_over_the_global_deviation() -> None:
    strategy = Eggroll(population_size=8, ascent=SGD)
    state = strategy.init(GROUP, VALUES, 5)
    groups = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    fitness = torch.tensor([1.0, 2.0, 50.0, 53.0, 0.0, 5.0, 51.0, 50.0], dtype=F64)
    relative = torch.where(groups == 0, fitness - 2.0, fitness - 51.0)
    expected = naive_step(strategy, state, relative / relative.square().mean().sqrt())
    told = strategy.tell(state, fitness, groups=groups)
    for name, value in expected.items():
        torch.testing.assert_close(told.center[name], value, rtol=1e-9, atol=1e-9)


def test_which_parameters_are_factored() -> None:
    bounded = ParameterSpec((8, 8), bounds=(torch.tensor(-1.0), torch.tensor(1.0)))
    strategy = Eggroll(rank=2)
    assert strategy.factor_rank(ParameterSpec((7, 5))) == 2
    assert strategy.factor_rank(ParameterSpec((7, 5), noise_rank=4)) == 4
    assert strategy.factor_rank(ParameterSpec((16, 3, 3, 3))) == 2
    for dense in (ParameterSpec((7,)), ParameterSpec(()), ParameterSpec((2, 9)), bounded):
        assert strategy.factor_rank(dense) is None


def test_members_share_the_centre_and_pairs_share_their_factors() -> None:
    strategy = Eggroll(population_size=6, rank=1, sigma=0.1)
    state = strategy.init(GROUP, VALUES, 0)
    members = strategy.ask(state, 0)
    w = members["w"]
    assert isinstance(w, FactoredMembers)
    assert torch.equal(w.base, VALUES["w"])
    assert torch.equal(w.left[:3], -w.left[3:])
    assert torch.equal(w.right[:3], w.right[3:])
    assert w.scale == pytest.approx(0.1)
    conv = members["conv"]
    assert isinstance(conv, FactoredMembers)
    assert conv.left.shape == (6, 4, 3)
    assert conv.right.shape == (6, 12, 3)
    assert conv.scale == pytest.approx(0.1 / math.sqrt(3))


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("rank", [1, 3])
def test_entries_of_the_noise_have_variance_one(noise: Literal["gaussian", "rademacher"], rank: int) -> None:
    group = ParameterGroup({"w": ParameterSpec((20, 20))})
    strategy = Eggroll(population_size=512, block_size=512, rank=rank, sigma=0.5, noise=noise)
    members = strategy.ask(strategy.init(group, {"w": torch.zeros(20, 20)}, 2), 0)["w"]
    assert isinstance(members, FactoredMembers)
    noise_values = members.scale * (members.left @ members.right.mT) / 0.5
    assert float(noise_values.square().mean()) == pytest.approx(1, abs=0.05)
    assert float(noise_values.mean()) == pytest.approx(0, abs=1e-6)  # pairs cancel


def test_rademacher_factors_estimate_a_linear_gradient_with_less_variance() -> None:
    """For f = ⟨G, W⟩ at rank 1, ``E‖ĝ‖²/‖G‖²``: ``mn`` with Rademacher factors, ``(m + 2)(n + 2)`` with Gaussian."""
    m = n = 16
    ratio = {}
    gradient = torch.randn(m, n, generator=torch.Generator().manual_seed(0))
    for noise in ("gaussian", "rademacher"):
        group = ParameterGroup({"w": ParameterSpec((m, n))})
        strategy = Eggroll(population_size=16384, block_size=16384, rank=1, noise=noise)  # type: ignore[arg-type]
        members = strategy.ask(strategy.init(group, {"w": torch.zeros(m, n)}, 3), 0)["w"]
        assert isinstance(members, FactoredMembers)
        left, right = members.left.squeeze(2), members.right.squeeze(2)
        slope = torch.einsum("pm,mn,pn->p", left, gradient, right)
        squares = slope.square() * left.square().sum(1) * right.square().sum(1)
        ratio[noise] = float(squares.mean() / gradient.square().sum())
    assert ratio["rademacher"] == pytest.approx(m * n, rel=0.06)
    assert ratio["gaussian"] == pytest.approx((m + 2) * (n + 2), rel=0.12)
    assert ratio["rademacher"] < ratio["gaussian"]


def test_the_step_points_along_the_true_gradient() -> None:
    """With float32 parameters and factors the estimate agrees with its float64 counterpart to rounding."""
    spec = {torch.float32: ParameterSpec((64, 48)), F64: ParameterSpec((64, 48), F64)}
    estimates = {}
    for dtype, s in spec.items():
        strategy = Eggroll(population_size=256, rank=1, ascent=SGD, shaping="raw", noise="rademacher")
        state = strategy.init(ParameterGroup({"w": s}), {"w": torch.zeros(64, 48, dtype=dtype)}, 0)
        fitness = torch.randn(256, dtype=F64, generator=torch.Generator().manual_seed(1))
        estimates[dtype] = strategy.tell(state, fitness).center["w"].double().flatten()
    cosine = torch.nn.functional.cosine_similarity(*estimates.values(), dim=0)
    assert float(cosine) >= 0.9999


def test_vectors_get_the_noise_of_openai_es() -> None:
    group = ParameterGroup({"b": ParameterSpec((5,))})
    start = {"b": torch.zeros(5)}
    eggroll, openai = Eggroll(population_size=8), OpenAIES(population_size=8)
    ours, theirs = (s.ask(s.init(group, start, 4), 0)["b"] for s in (eggroll, openai))
    assert isinstance(ours, DenseMembers)
    assert isinstance(theirs, DenseMembers)
    assert torch.equal(ours.values, theirs.values)


def test_sigma_follows_its_schedule() -> None:
    strategy = Eggroll(population_size=4, sigma=0.4, sigma_schedule=LinearSigma(2, final=0.5))
    state = strategy.init(GROUP, VALUES, 0)
    widths = []
    for _ in range(4):
        members = strategy.ask(state, 0)["w"]
        assert isinstance(members, FactoredMembers)
        widths.append(members.scale)
        state = strategy.tell(state, torch.zeros(4))  # silent generations move the schedule too
    assert widths == pytest.approx([0.4, 0.3, 0.2, 0.2])
