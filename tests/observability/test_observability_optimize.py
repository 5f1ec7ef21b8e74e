"""A traced optimization: run, generations, evaluations and calls hang together, and nothing is computed otherwise."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer
from hyperfunc.function import hyperfunction
from hyperfunc.observability import ObservabilityHub
from hyperfunc.settings import Settings
from hyperfunc.system import HyperSystem


class Scale:
    """One number."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    @classmethod
    def dim(cls) -> int:
        return 1

    @classmethod
    def from_tensor(cls, t: torch.Tensor) -> Scale:
        return cls(t[0])

    def to_tensor(self, device: Any = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return self.value.reshape(1).to(dtype=dtype)


@hyperfunction(hp_type=Scale, optimize_hparams=True)
async def scale(x: torch.Tensor, *, hp: Scale) -> torch.Tensor:
    return x * hp.value


@hyperfunction(io=True)
async def lookup(x: torch.Tensor) -> torch.Tensor:
    await asyncio.sleep(0)
    if float(x) > 2.5:
        raise TimeoutError("no reply")
    return x


class Program(HyperSystem):
    async def run(self, x: torch.Tensor) -> torch.Tensor:
        return await scale(await lookup(x))


def metric(predictions: list[Any], expected: list[Any]) -> float:
    return -sum(abs(float(p) - float(e)) for p, e in zip(predictions, expected, strict=True))


TRAIN = [Example({"x": torch.tensor(float(i))}, torch.tensor(2.0 * i)) for i in (1, 2)]


async def optimized(hub: ObservabilityHub | None, train: list[Example] = TRAIN, **trace: Any) -> torch.Tensor:
    optimizer = ESHybridSystemOptimizer(steps=2, pop_size=8)
    system = Program(system_optimizer=optimizer, settings=Settings(progress=False))
    with nullcontext() if hub is None else hub.trace("s", **trace):
        await system.optimize(train, metric, seed=1)
    return system.get_hp_state()["scale"]


async def test_run_generation_evaluation_and_call_hang_together_and_change_nothing() -> None:
    hub = ObservabilityHub(Program())
    traced = await optimized(hub)
    assert torch.equal(traced, await optimized(None))
    records = {record.span_id: record for record in hub.observations()}
    chains = set()
    for record in records.values():
        chain = []
        here = record
        while True:
            chain.append(here.kind)
            if not here.parent_id:
                break
            here = records[here.parent_id]
        chains.add(tuple(reversed(chain)))
    assert ("run", "run", "generation", "evaluation", "call") in chains
    generations = [r for r in records.values() if r.kind == "generation"]
    assert [g.attributes["hyperfunc.index"] for g in generations] == [0, 1]
    assert all(isinstance(g.attributes["hyperfunc.best"], float) for g in generations)
    assert {r.fn_name for r in records.values() if r.kind == "call"} >= {"lookup"}
    fitness = {p.attributes["hyperfunc.statistic"]: p.value for p in hub.metrics.snapshot() if p.kind == "gauge"}
    assert fitness["best"] == generations[-1].attributes["hyperfunc.best"]


async def test_failing_evaluations_of_a_population_are_kept() -> None:
    hub = ObservabilityHub(Program())
    train = [*TRAIN, Example({"x": torch.tensor(3.0)}, torch.tensor(6.0))]
    with pytest.raises(Exception, match="no reply"):
        await optimized(hub, train, sampling=0.0)
    evaluations = [record for record in hub.observations() if record.kind == "evaluation"]
    assert evaluations
    assert {e.error_type for e in evaluations} == {"TimeoutError"}
    assert hub.sampled_out > 0


async def test_a_system_has_a_hub_of_its_own() -> None:
    system = Program()
    assert system.observability is system.observability
    assert system.get_call_history() == []
    with system.observability.trace():
        await system.execute({"x": torch.tensor(1.0)})
        output, tape = await system.execute({"x": torch.tensor(2.0)}, record=True)
    assert [call.function for call in tape] == ["lookup", "scale"]
    assert tape.calls[1].output is output  # a recorded execution inside a session is both recorded and traced
    assert [record.fn_name for record in system.get_call_history()] == ["lookup", "scale"] * 2
