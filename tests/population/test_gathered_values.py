"""Gathered outputs are those of the plain loop, whatever the program's arguments, branches and results look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from hyperfunc.function import hyperfunction
from hyperfunc.parameters.lora import LoRAWeight
from hyperfunc.population.gathered import GatheredOutcome, run_gathered
from hyperfunc.population.members import DenseMembers, FactoredMembers
from hyperfunc.population.sequential import run_sequential
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.system import HyperSystem

MEMBERS = 6


def block_of(system: HyperSystem, *, size: int = MEMBERS, factored: bool = True, scale: float = 0.1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(7)
    block: dict[str, Any] = {}
    for name, base in system.theta.tensors.items():
        if factored and base.ndim >= 2:
            left = torch.randn(size, base.shape[0], 1, generator=generator, dtype=base.dtype)
            right = torch.randn(size, base[0].numel(), 1, generator=generator, dtype=base.dtype)
            block[name] = FactoredMembers(base, left, right, scale)
        else:
            noise = torch.randn(size, *base.shape, generator=generator, dtype=base.dtype)
            block[name] = DenseMembers(base + scale * noise)
    return block


async def both(
    system: HyperSystem, block: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]], **options: Any
) -> GatheredOutcome:
    """Gathered and plain runs, compared."""
    program = system.program()
    plain = await run_sequential(program, block, inputs)
    gathered = await run_gathered(program, block, inputs, settings=resolve_settings(Settings(**options)))
    assert plain.rows is not None
    assert gathered.rows is not None
    assert {k: (type(e), str(e)) for k, e in plain.errors.items()} == {
        k: (type(e), str(e)) for k, e in gathered.errors.items()
    }
    ours, theirs = tree_flatten(gathered.rows), tree_flatten(plain.rows)
    assert ours[1] == theirs[1]
    for mine, reference in zip(ours[0], theirs[0], strict=True):
        if isinstance(reference, Tensor):
            torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5, equal_nan=True)
        else:
            assert (type(mine), mine) == (type(reference), reference)
    return gathered


@hyperfunction(hp_type=LoRAWeight.create(3, 4, 1), optimize_hparams=True)
def project(x: Tensor, *, hp: LoRAWeight) -> Tensor:
    return torch.tanh(x @ hp.weight.T)


@hyperfunction(hp_type=LoRAWeight.create(2, 3, 1), optimize_hparams=True)
async def left(x: Tensor, *, hp: LoRAWeight) -> Tensor:
    return x @ hp.weight.T


@hyperfunction(hp_type=LoRAWeight.create(2, 3, 1), optimize_hparams=True)
async def right(x: Tensor, *, hp: LoRAWeight) -> Tensor:
    return (x @ hp.weight.T).softmax(-1)


class Branching(HyperSystem):
    """Members take different branches."""

    def __init__(self) -> None:
        super().__init__()
        for component in (project, left, right):
            self.register_hyperfunction(component)

    async def run(self, x: Tensor) -> Tensor:
        h = await project(x)
        return await (left(h) if h.sum() > 0 else right(h))


def example_inputs(count: int, seed: int = 3) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(4, generator=generator)} for _ in range(count)]


@pytest.mark.parametrize("factored", [True, False])
async def test_members_that_branch_on_values(factored: bool) -> None:
    system = Branching()
    outcome = await both(system, block_of(system, factored=factored), example_inputs(9))
    assert outcome.gathered_calls == 2 * MEMBERS * 9
    assert outcome.kernels == 3
    assert outcome.reasons == {}


async def test_an_empty_block_is_one_member() -> None:
    outcome = await both(Branching(), {}, example_inputs(5))
    assert (outcome.members, outcome.examples) == (1, 5)


async def test_chosen_members_in_the_order_given() -> None:
    system = Branching()
    block, inputs = block_of(system), example_inputs(4)
    every = await run_gathered(system.program(), block, inputs, settings=resolve_settings())
    some = await run_gathered(system.program(), block, inputs, settings=resolve_settings(), members=[4, 1])
    assert every.rows is not None
    assert some.rows is not None
    assert some.members == 2
    torch.testing.assert_close(some.rows, [every.rows[4], every.rows[1]], rtol=0, atol=0)


async def test_no_examples_and_no_members() -> None:
    system = Branching()
    block = block_of(system)
    assert (await run_gathered(system.program(), block, [], settings=resolve_settings())).rows == [[]] * MEMBERS
    nobody = await run_gathered(system.program(), block, example_inputs(2), settings=resolve_settings(), members=[])
    assert nobody.rows == []


class Modules(HyperSystem):
    """A convolution, a normalization with buffers and tied weights, through modules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = hyperfunction(optimize_hparams=True)(
            nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(0), nn.LayerNorm(6))
        )
        self.memory = hyperfunction(optimize_hparams=True)(nn.GRUCell(6, 5))

    async def run(self, x: Tensor) -> Any:
        h = torch.zeros(5)
        for step in range(3):
            h = await self.memory(await self.features(x[None] * (step + 1)), h)
        return {"state": h, "name": "memory", "pair": (h.argmax(), h.sum() > 0)}


async def test_modules_and_nested_outputs() -> None:
    system = Modules()
    outcome = await both(system, block_of(system), example_inputs(5))
    assert outcome.reasons == {}
    assert outcome.gathered_calls == 6 * MEMBERS * 5


@dataclass
class Scale:
    value: Tensor

    @classmethod
    def dim(cls) -> int:
        return 1

    @classmethod
    def from_tensor(cls, t: Tensor) -> Scale:
        return cls(t)

    def to_tensor(self, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.value


@hyperfunction(hp_type=Scale, optimize_hparams=True)
def mixed(
    x: Tensor, a: Any = 0, b: Any = 0, *, hp: Scale, mode: str = "a", factor: float = 1.0, more: Any = None
) -> Any:
    total = x.sum() * hp.value * factor
    for tensor in more["extra"] if more else []:
        total = total + torch.as_tensor(tensor).sum()
    return (total, mode, (a, b)) if mode == "b" else total


class Arguments(HyperSystem):
    async def run(self, x: Tensor) -> Any:
        self.register_hyperfunction(mixed)
        return [
            await mixed(x),
            await mixed(x, 1, True, factor=2.0),
            await mixed(x, 1.0, 1, mode="b"),
            await mixed(x, more={"extra": [x * 2, np.ones(3, np.float32)]}),
            await mixed(x, -0.0, mode="b"),
            await mixed(x, 0.0, mode="b"),
            await mixed(x, float("nan")),
            await mixed(x.double()),
        ]


async def test_constants_keep_their_types_and_signs() -> None:
    system = Arguments()
    system.register_hyperfunction(mixed)
    outcome = await both(system, block_of(system), example_inputs(3))
    assert outcome.reasons == {}
    assert outcome.rows is not None
    row = outcome.rows[0][0]
    assert [type(v) for v in row[2][2]] == [float, int]
    assert str(row[4][2]) == "(-0.0, 0)"
    assert str(row[5][2]) == "(0.0, 0)"


@hyperfunction
def same_for_all(x: Tensor) -> Tensor:
    return torch.zeros(2)


class WritesIntoResults(HyperSystem):
    async def run(self, x: Tensor) -> Tensor:
        mine = await same_for_all(x)
        mine += x[0]
        await same_for_all(x)
        return mine


async def test_results_are_nobody_elses_memory() -> None:
    await both(WritesIntoResults(), {}, example_inputs(20))


async def test_kept_outputs_do_not_keep_their_kernels() -> None:
    outcome = await run_gathered(Branching().program(), {}, example_inputs(3), settings=resolve_settings())
    assert outcome.rows is not None
    assert all(output.untyped_storage().nbytes() == output.nbytes for output in outcome.rows[0])


class Random(HyperSystem):
    """A program made of a list of steps."""

    def __init__(self, steps: Sequence[str]) -> None:
        super().__init__()
        for component in (project, left, right):
            self.register_hyperfunction(component)
        self.steps = steps

    async def run(self, x: Tensor) -> Tensor:
        h = await project(x)
        for step in self.steps:
            if step == "left":
                h = torch.cat([await left(h), h[:1]])
            elif step == "branch":
                h = torch.cat([await (left(h) if float(h[0]) > float(h[1]) else right(h)), h[1:2]])
            elif step == "loop":
                for _ in range(1 + int(h.abs().sum() > 1)):
                    h = torch.cat([await right(h), h[2:]]).tanh()
            elif step == "fail" and h[0] > 0.5:
                raise ValueError("positive")
        return h


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.sampled_from(["left", "branch", "loop", "fail"]), max_size=5),
    seed=st.integers(0, 1000),
    window=st.sampled_from([1, 5, 4096]),
)
async def test_random_programs(steps: list[str], seed: int, window: int) -> None:
    system = Random(steps)
    await both(system, block_of(system, size=3), example_inputs(4, seed), window=window)
