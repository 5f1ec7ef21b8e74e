"""Lifted execution: what is lifted, what is refused, and that no way around a refusal is left open."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
import torch

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.errors import InputMutatedError, LiftError

KIND = LoRAWeight.create(3, 2)
OPTIMIZER = ESHybridSystemOptimizer(steps=2, pop_size=8, sigma=0.3)


@hyperfunction(hp_type=KIND, optimize_hparams=True)
async def layer(x, hp):
    return torch.tanh(x @ hp.weight.T)


def examples(count=6, **extra):
    generator = torch.Generator().manual_seed(0)
    return [Example({"x": torch.randn(2, generator=generator), **extra}, 0.5) for _ in range(count)]


def total(predictions, expected):
    return sum(float(torch.as_tensor(p).sum()) for p in predictions)


def system_of(run):
    class System(HyperSystem):
        async def run(self, **inputs):
            return await run(self, **inputs)

    return System(system_optimizer=OPTIMIZER)


async def optimized(run, data=None, metric=total, **settings):
    return await system_of(run).optimize(data or examples(), metric, settings=Settings(**settings))


async def straight(self, x):
    return (await layer(x)).sum()


async def test_tensor_programs_are_lifted_and_proven():
    result = await optimized(straight)
    assert (result.execution, result.reason.startswith("proven")) == ("lifted", True)


async def test_await_gather_cat_and_nested_containers_are_lifted():
    async def run(self, x):
        a, b = await asyncio.gather(layer(x), layer(x * 0.5))
        return {"sum": torch.cat([a, b]).sum(), "parts": [a, b], "name": "constant", "count": 2}

    def metric(predictions, expected):
        assert all(p["name"] == "constant" and p["count"] == 2 and len(p["parts"]) == 2 for p in predictions)
        return sum(float(p["sum"]) for p in predictions)

    assert (await optimized(run, metric=metric)).execution == "lifted"


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda h: 1.0 if h.sum() > 0 else 0.0, "bool"),
        (lambda h: float(h.sum()), "float"),
        (lambda h: h.sum().item(), "item"),
        (lambda h: h.tolist()[0], "tolist"),
        (lambda h: float(h.detach().numpy().sum()), "numpy"),
        (lambda h: float(np.asarray(h).sum()), "numpy|__array__|array"),
        (lambda h: len(f"{h.sum():.2f}") * 1.0, "format"),
        (lambda h: len(str(h)) * 1.0, "print"),
        (lambda h: [1.0, 2.0, 3.0][int(h.argmax())], "int|index"),
    ],
)
async def test_reading_a_value_is_refused_even_when_the_program_swallows_the_refusal(read, words):
    async def plain(self, x):
        return torch.as_tensor(read(await layer(x)))

    async def swallowing(self, x):
        try:
            return torch.as_tensor(read(await layer(x)))
        except Exception:
            return (await layer(x)).sum()

    for run in (plain, swallowing):
        result = await optimized(run)
        assert (result.execution, result.dropped) == ("gathered", 0)
        with pytest.raises(LiftError, match=words):
            await optimized(run, execution="lifted")


async def test_members_may_take_different_branches_when_gathered():
    async def run(self, x):
        h = await layer(x)
        return h.sum() if h.sum() > 0 else (await layer(x * 2)).sum() * 3

    system = system_of(run)
    candidates = [{"layer": torch.full((3, 2), v)} for v in (-1.0, -0.3, 0.2, 1.0)]
    await system.execute(examples()[0].inputs)
    gathered = await system.evaluate_population(candidates, examples(), total)
    alone = await system.evaluate_population(candidates, examples(), total, settings=Settings(execution="sequential"))
    assert gathered == pytest.approx(alone, rel=1e-5)


async def test_numbers_are_lifted_only_where_the_raw_ones_agree():
    async def arithmetic(self, x, k):
        return (await layer(x)).sum() * k + k**2

    async def table(self, x, k):
        return (await layer(x)).sum() * {1.0: 2.0, 2.0: 3.0}.get(k, 0.0)

    data = [Example({"x": e.inputs["x"], "k": float(i % 2 + 1)}, 0.0) for i, e in enumerate(examples(8))]
    assert (await optimized(arithmetic, data)).execution == "lifted"
    system = system_of(table)
    result = await system.optimize(data, total)
    assert result.execution == "lifted"  # as constants: one kernel per value
    candidates = [{"layer": torch.full((3, 2), v)} for v in (0.1, 0.7)]
    scores = await system.evaluate_population(candidates, data, total)
    alone = await system.evaluate_population(candidates, data, total, settings=Settings(execution="sequential"))
    assert scores == pytest.approx(alone, rel=1e-5)


async def test_whole_numbers_keep_python_semantics():
    async def run(self, x, n):
        return (await layer(x)).sum() * 2.0**-n

    data = [Example({"x": e.inputs["x"], "n": i}, 0.0) for i, e in enumerate(examples(4))]
    system = system_of(run)
    candidates = [{"layer": torch.full((3, 2), v)} for v in (0.1, 0.7)]
    await system.execute(data[0].inputs)
    scores = await system.evaluate_population(candidates, data, total)
    alone = await system.evaluate_population(candidates, data, total, settings=Settings(execution="sequential"))
    assert scores == pytest.approx(alone, rel=1e-5)


async def test_examples_are_grouped_by_shape_and_constants_and_arrays_are_stacked():
    async def run(self, x, mode, scale):
        h = await layer(torch.as_tensor(x, dtype=torch.float32))
        return h.sum() * (2.0 if mode == "double" else 1.0) * scale["by"].sum()

    rng = np.random.default_rng(0)
    data = [
        Example({"x": rng.normal(size=(rows, 2)), "mode": mode, "scale": {"by": torch.tensor([1.0, 0.5])}}, 0.0)
        for rows in (1, 3)
        for mode in ("single", "double", None)
        for _ in range(2)
    ]
    system = system_of(run)
    result = await system.optimize(data, total)
    assert result.execution == "lifted"
    candidates = [{"layer": torch.full((3, 2), v)} for v in (0.1, 0.7)]
    scores = await system.evaluate_population(candidates, data, total)
    alone = await system.evaluate_population(candidates, data, total, settings=Settings(execution="sequential"))
    assert scores == pytest.approx(alone, rel=1e-5)


async def test_io_refuses_before_it_is_called():
    paid = []

    @hyperfunction(io=True)
    async def pay(x):
        paid.append(1)
        return x

    async def run(self, x):
        return (await layer(await pay(x))).sum()

    system = system_of(run)
    result = await system.optimize(examples(3), total, steps=1)
    runs = result.evaluations + 1  # one to discover the components
    assert (result.execution, len(paid)) == ("gathered", runs)
    with pytest.raises(LiftError, match="pay performs I/O"):
        await system.optimize(examples(3), total, settings=Settings(execution="lifted"))
    assert len(paid) == runs


async def test_undeclared_io_is_noticed_by_its_waiting():
    @hyperfunction
    async def fetch(x):
        await asyncio.sleep(0.001)
        return x

    async def run(self, x):
        return (await layer(await fetch(x))).sum()

    result = await optimized(run)
    assert (result.execution, "fetch waited" in result.reason) == ("gathered", True)


async def test_state_kept_on_the_system_is_refused():
    async def run(self, x):
        self.last = await layer(x)
        return self.last.sum()

    result = await optimized(run)
    assert (result.execution, "keeps a tensor on the system" in result.reason) == ("gathered", True)


async def test_editing_the_inputs_is_an_error_that_loses_nothing():
    async def run(self, x):
        x.mul_(2)
        return (await layer(x)).sum()

    data = examples(3)
    kept = [e.inputs["x"].clone() for e in data]
    with pytest.raises(InputMutatedError, match="copy an input"):
        await optimized(run, data)
    assert len(kept) == 3


async def test_randomness_inside_the_program_is_not_lifted():
    async def run(self, x):
        return (await layer(x + torch.randn(2) * 0)).sum()

    result = await optimized(run)
    assert (result.execution, "random" in result.reason.lower()) == ("gathered", True)


async def test_a_cache_filled_by_the_reference_is_reported():
    cache = {}

    async def run(self, x):
        key = x.shape
        if key not in cache:
            cache[key] = torch.ones(())
        return cache[key] + 0 * x.sum()

    class System(HyperSystem):
        async def run(self, x):
            await layer(x)
            return await run(self, x)

    result = await System(system_optimizer=OPTIMIZER).optimize(examples(), total)
    assert any("same for every member" in note for note in result.notes)


async def test_a_fault_in_one_cell_in_a_hundred_is_found():
    """A row and a column of the (member, example) matrix are compared; this program is wrong on one example only."""

    async def run(self, x):
        h = (await layer(x)).sum()
        # `where` on a captured Python flag: vmap sees the same flag for all, a single run sees its own.
        flags.append(x.sum().detach())
        wrong = isinstance(flags[-1], torch.Tensor) and not torch._C._functorch.is_batchedtensor(flags[-1])
        return h + (1.0 if wrong and float(flags[-1]) == float(special) else 0.0)

    flags: list = []
    data = examples(40)
    special = data[37].inputs["x"].sum()
    result = await optimized(run, data)
    assert result.execution == "gathered"
    assert "disagree" in result.reason or "reads" in result.reason


async def test_an_output_that_vmap_cannot_return_is_gathered():
    class Box:
        def __init__(self, value):
            self.value = value

    async def run(self, x):
        return Box((await layer(x)).sum())

    result = await optimized(run, metric=lambda p, e: sum(float(b.value) for b in p))
    assert (result.execution, "Box" in result.reason) == ("gathered", True)


async def test_unknown_operations_are_materialised_and_reported_once():
    async def run(self, x):
        return await product(x)

    @hyperfunction(hp_type=LoRAWeight.create(3, 2, noise_rank=1), optimize_hparams=True)
    async def product(x, hp):
        return torch.linalg.norm(hp.weight) + (x @ hp.weight.T).sum()

    result = await optimized(run)
    assert result.execution == "lifted"
    assert [n for n in result.notes if "norm" in n]


async def test_a_program_error_is_one_members_failure_and_its_twin_goes_with_it():
    async def run(self, x):
        h = (await layer(x)).sum()
        if h > 1.2:
            raise ValueError("too large")
        return h

    result = await system_of(run).optimize(examples(), total, steps=3)
    assert result.dropped > 0
    assert any("too large" in str(e) and "raised by member" in e.__notes__[0] for e in result.errors)
    assert all(math.isfinite(g.best) for g in result.history)


class TestBits:
    @staticmethod
    async def theta(**settings):
        system = system_of(straight)
        data = examples(5)
        system.system_optimizer = ESHybridSystemOptimizer(steps=3, pop_size=32, block_size=8, sigma=0.3)
        result = await system.optimize(data, "mean-squared-error", settings=Settings(**settings))
        return result.execution, result.theta.content_hash

    async def test_same_bits_for_one_worker_or_many_and_any_chunking(self):
        results = {
            await self.theta(workers=workers, max_batch_size=batch, memory_bytes=memory)
            for workers, batch, memory in [(1, None, None), (2, None, None), (3, 40, None), (2, 1, None), (2, None, 64)]
        }
        assert len(results) == 1
        assert results.pop()[0] == "lifted"

    async def test_at_most_so_many_pairs_are_in_flight(self):
        import threading

        alive, most, lock = 0, 0, threading.Lock()

        async def run(self, x):
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)
            await asyncio.sleep(0.002)
            out = (await layer(x)).sum()
            with lock:
                alive -= 1
            return out

        for settings, expected in ((Settings(workers=3, max_batch_size=5 * 8), 1), (Settings(workers=3), 2)):
            most = 0
            system = system_of(run)
            system.system_optimizer = ESHybridSystemOptimizer(steps=1, pop_size=64, block_size=8, sigma=0.3)
            await system.optimize(examples(5), "mean-squared-error", settings=settings)
            assert most == 1 if expected == 1 else most >= 2
