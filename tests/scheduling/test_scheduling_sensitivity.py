"""What each component contributes, on systems where that is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from hyperfunc import Example, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc.errors import ConfigurationError, UnknownParameterError

Knob = LoRAWeight.create(1, 1, 1)


@hyperfunction(hp_type=Knob, optimize_hparams=True)
async def strong(x, hp):
    return 10.0 * hp.weight.sum() * x


@hyperfunction(hp_type=Knob, optimize_hparams=True)
async def weak(x, hp):
    return hp.weight.sum() * x


@hyperfunction(hp_type=Knob, optimize_hparams=True)
async def idle(x, hp):
    return 0.0 * hp.weight.sum() * x


@hyperfunction
async def double(x):
    return 2 * x


class Parts(HyperSystem):
    async def run(self, x):
        return await strong(x) + await weak(x) + await idle(x) + await double(x)


class Outer(HyperSystem):
    def __init__(self):
        super().__init__()
        self.inner = Parts()

    async def run(self, x):
        return await self.inner.run(x)


EXAMPLES = [Example({"x": torch.tensor(float(i))}, 0.0) for i in (1, 2, 3)]


def mean_output(predictions, expected):
    return sum(float(p) for p in predictions) / len(predictions)


async def test_a_linear_system_is_measured_in_closed_form():
    found = await Parts().sensitivity(EXAMPLES, mean_output, members=400, sigma=0.1, seed=1)
    assert [entry.component for entry in found.components][:2] == ["strong", "weak"]
    # f = (10 a + b) · mean(x): half a pair's difference is 10 · 2 · σ ε, and its mean is the centre's fitness.
    assert found["strong"].effect == pytest.approx(10 * 2 * 0.1, rel=0.15)
    assert found["weak"].effect == pytest.approx(2 * 0.1, rel=0.15)
    assert found["idle"].effect == 0
    assert found["strong"].bend == pytest.approx(0, abs=1e-4)
    assert found["strong"].pairs == 200
    assert found.evaluations == 3 * (1 + 400 * 3)
    assert "strong" in str(found)


async def test_a_maximum_bends_down():
    system = Parts()
    await system.run(torch.tensor(1.0))
    best = next(name for name in system.theta.tensors if name.startswith("weak"))

    def negative_square(predictions, expected):
        return -sum(float(p) ** 2 for p in predictions) / len(predictions)

    system.set_theta({name: torch.zeros_like(t) for name, t in system.theta.tensors.items()})
    system.set_theta({best: torch.full_like(system.theta.tensors[best], -2.0)})  # cancels double
    found = await system.sensitivity(EXAMPLES, negative_square, only=["weak", "strong"], members=200, sigma=0.1)
    assert {entry.component for entry in found.components} == {"weak", "strong"}
    assert found.fitness == 0
    assert found["weak"].bend < -5 * found["weak"].bend_error < 0
    assert found["weak"].effect == pytest.approx(0, abs=1e-6)


async def test_sensitivity_changes_nothing_and_repeats():
    system = Parts()
    await system.run(torch.tensor(1.0))
    before = system.theta
    first = await system.sensitivity(EXAMPLES, mean_output, members=4)
    assert system.theta == before
    assert await system.sensitivity(EXAMPLES, mean_output, members=4) == first
    with pytest.raises(ConfigurationError, match="even"):
        await system.sensitivity(EXAMPLES, mean_output, members=3)
    with pytest.raises(UnknownParameterError):
        first["nobody"]


@pytest.mark.parametrize("make", [Parts, Outer])
async def test_ablation_takes_away_what_training_gave(make):
    system = make()
    await system.run(torch.tensor(1.0))
    prefix = "inner." if make is Outer else ""
    name = f"{prefix}weak"
    initial = system.theta
    start = float(initial.tensors[f"{name}.hp"].sum())
    system.set_theta({f"{name}.hp": initial.tensors[f"{name}.hp"] + 3.0})
    trained = system.theta
    found = await system.ablate(name, EXAMPLES, mean_output)
    assert found.contribution == pytest.approx(3.0 * 2, rel=1e-5)
    assert system.theta == trained
    assert math.isfinite(start)
    assert (await system.ablate(f"{prefix}idle", EXAMPLES, mean_output)).contribution == 0


async def test_a_replacement_is_called_in_its_place():
    system = Parts()
    assert (await system.ablate(double, EXAMPLES, mean_output, replacement=lambda x: x)).contribution == pytest.approx(
        2
    )

    async def nothing(x):
        return 0.0 * x

    found = await system.ablate("double", EXAMPLES, "numeric-distance", replacement=nothing)
    assert found.examples == 3
    assert math.isfinite(found.standard_error)
    assert "double" in str(found)
    with pytest.raises(ConfigurationError, match="replacement"):
        await system.ablate("double", EXAMPLES, mean_output)
    with pytest.raises(UnknownParameterError):
        await system.ablate("nobody", EXAMPLES, mean_output)

    def broken(x):
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError):
        await system.ablate("double", EXAMPLES, mean_output, replacement=broken)
