"""The forecast of a dry run is what the run then does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.budget import Budget
from hyperfunc.calls import StoredCall
from hyperfunc.errors import ConfigurationError, EvaluationError
from hyperfunc.scope import current_scope
from hyperfunc.tape import add_usage
from hyperfunc.usage import Usage


@hyperfunction(hp_type=LoRAWeight.create(2, 2, 1), optimize_hparams=True)
async def layer(x, hp):
    return (hp.weight @ x).sum()


@hyperfunction(io=True)
async def pay(x):
    """A paid call as the runtime makes it: looked up, reserved, settled, kept. Dearer for larger inputs."""
    scope, key = current_scope(), f"pay {x.tolist()}"
    if scope.store is not None and await scope.store.get(key) is not None:
        return x
    usage = Usage(calls=1, usd=0.01 * float(x[1]), input_tokens=10)
    if scope.budget is not None:
        scope.budget.reserve(usage).settle(usage)
    add_usage(usage)
    if scope.store is not None:
        await scope.store.put(StoredCall(key, "test", None, usage))
    return x


class Local(HyperSystem):
    async def run(self, x):
        return await layer(x)


class Paying(HyperSystem):
    async def run(self, x):
        return await layer(await pay(x))


def data(count, offset=0):
    return [Example({"x": torch.tensor([float(i + offset), 1.0 + i % 2])}, 0.5) for i in range(count)]


def optimizer():
    return ESHybridSystemOptimizer(pop_size=4, sigma=0.1, steps=6)


@pytest.mark.parametrize("validation", [None, data(3, 50)])
@pytest.mark.parametrize("arguments", [{}, {"minibatch": 2}, {"minibatch": 9}, {"steps": 5, "validate_every": 2}])
async def test_the_number_of_runs_is_exact(arguments, validation):
    system = Local(system_optimizer=optimizer())
    system.register_hyperfunction(layer)
    expected = await system.dry_run(data(5), validation, **arguments)
    assert (expected.usd, expected.calls) == ((0, 0), (0, 0))
    result = await system.optimize(data(5), "numeric-distance", validation, **arguments)
    assert expected.evaluations == result.evaluations
    assert expected.generations == len(result.history)


async def test_the_declared_usage_bounds_what_is_paid():
    system = Paying(system_optimizer=optimizer())
    least, most = Usage(calls=1, usd=0.01, input_tokens=10), Usage(calls=1, usd=0.02, input_tokens=10)
    system.register_hyperfunction(layer)
    system.register_hyperfunction(pay)
    expected = await system.dry_run(data(4), per_run=(least, most))
    budget = Budget(usd=100)
    await system.optimize(data(4), "numeric-distance", budget=budget)
    assert expected.calls[0] == 4  # every example once at least
    assert 4 <= budget.spent.calls < expected.calls[1]  # equal calls in flight together may all be paid here
    assert expected.usd[0] < budget.spent.usd < expected.usd[1]
    assert budget.spent.total_tokens <= expected.tokens[1]
    assert "declared" in str(expected)
    assert f"{expected.usd[1]:.4f}" in str(expected)


async def test_with_a_journal_an_example_is_paid_for_once_at_least(tmp_path: Path):
    system = Paying(system_optimizer=optimizer())
    expected = await system.dry_run(data(6), record=2, run="r", minibatch=2)
    assert expected.source == "measured on 2 examples"
    assert expected.calls[0] == 6
    assert expected.usd == (pytest.approx(0.06), pytest.approx(0.02 * expected.evaluations, rel=0.1))
    budget = Budget(usd=100)
    one_by_one = Settings(execution="sequential")  # `pay` does not wait for an equal call in flight
    await system.optimize(
        data(6),
        "numeric-distance",
        minibatch=2,
        run="r",
        journal=tmp_path / "journal.db",
        budget=budget,
        settings=one_by_one,
    )
    assert budget.spent.calls == 6
    assert expected.usd[0] <= budget.spent.usd <= expected.usd[1]


async def test_nothing_is_run_unless_allowed():
    ran = []

    class Watched(HyperSystem):
        async def run(self, x):
            ran.append(x)
            return await layer(await pay(x))

    system = Watched(system_optimizer=optimizer())
    with pytest.raises(ConfigurationError, match="record=1"):
        await system.dry_run(data(3))
    system.register_hyperfunction(pay)
    with pytest.raises(ConfigurationError, match="pay may cost"):
        await system.dry_run(data(3))
    system.register_hyperfunction(layer)
    assert (await system.dry_run(data(3), per_run=Usage(calls=2))).calls[1] == 2 * (6 * 4 * 3 + 3 * 3 + 1)
    assert ran == []
    await system.dry_run(data(3), record=2)
    assert len(ran) == 2


async def test_what_cannot_be_said_is_refused_or_noted():
    system = Local(system_optimizer=optimizer())
    system.register_hyperfunction(layer)
    with pytest.raises(EvaluationError):
        await system.dry_run([])
    with pytest.raises(ConfigurationError, match="record"):
        await system.dry_run(data(1), record=-1)
    with pytest.raises(ConfigurationError, match="not both"):
        await system.dry_run(data(1), record=1, per_run=Usage())
    with pytest.raises(ConfigurationError, match="least"):
        await system.dry_run(data(1), per_run=(Usage(calls=2), Usage(calls=1)))
    assert "before this" in str(await system.dry_run(data(1), target=0.9))
    nothing = await system.dry_run(data(1), freeze="layer")
    assert (nothing.evaluations, nothing.generations) == (0, 0)
