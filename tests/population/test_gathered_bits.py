"""A run's output bits depend on its member and example alone, not on window, neighbours or order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyperfunc.function import hyperfunction
from hyperfunc.parameters.lora import LoRAWeight
from hyperfunc.population.gathered import run_gathered
from hyperfunc.population.gathered_kernel import LADDER, ComponentParameters, kernel_rows
from hyperfunc.population.members import DenseMembers, FactoredMembers
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.system import HyperSystem

MEMBERS, EXAMPLES = 6, 5


@hyperfunction(hp_type=LoRAWeight.create(17, 5, 1), optimize_hparams=True)
def odd(x: Tensor, *, hp: LoRAWeight) -> Tensor:
    """Products of odd sizes, where another row of one kernel gives other bits."""
    return torch.softmax((x @ hp.weight.T) @ hp.weight, -1).log1p().tanh()


@hyperfunction
def summed(x: Tensor) -> Tensor:
    return x.std() + x.norm() + x.logsumexp(-1).sum()


class Program(HyperSystem):
    """Branches, loops of different lengths, side calls."""

    def __init__(self, jitter: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.jitter = jitter
        self.net = hyperfunction(optimize_hparams=True)(nn.Sequential(nn.Linear(5, 33), nn.Tanh(), nn.Linear(33, 5)))
        self.register_hyperfunction(odd)
        self.register_hyperfunction(summed)

    async def run(self, number: int, x: Tensor) -> Tensor:
        for _ in range((number * self.jitter) % 5):
            await asyncio.sleep(0)
        for _ in range(1 + number % 3):
            x = await odd(x)
            if x[0, 0] > 0.12:
                x = await self.net(x)
            else:
                a, b = await asyncio.gather(self.net(x[:2]), odd(x))
                x = torch.cat([a, b[2:]])
        return torch.cat([x.flatten(), (await summed(x))[None]])


def everything(factored: bool) -> tuple[Program, dict[str, Any], list[dict[str, Any]]]:
    system = Program()
    generator = torch.Generator().manual_seed(5)
    block: dict[str, Any] = {}
    for name, base in system.theta.tensors.items():
        if factored and base.ndim == 2:
            factors = (torch.randn(MEMBERS, size, 1, generator=generator) for size in base.shape)
            block[name] = FactoredMembers(base, *factors, 0.2)
        else:
            block[name] = DenseMembers(base + 0.2 * torch.randn(MEMBERS, *base.shape, generator=generator))
    inputs = [{"number": n, "x": torch.randn(17, 5, generator=generator)} for n in range(EXAMPLES)]
    return system, block, inputs


async def rows(system: Program, block: Any, inputs: Any, members: Any = None, **options: Any) -> list[list[Tensor]]:
    settings = resolve_settings(Settings(**options))
    outcome = await run_gathered(system.program(), block, inputs, settings=settings, members=members)
    assert not outcome.errors
    assert not outcome.reasons
    assert outcome.rows is not None
    return outcome.rows


def assert_same_bits(left: list[list[Tensor]], right: list[list[Tensor]]) -> None:
    assert len(left) == len(right)
    for mine, theirs in zip(left, right, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("factored", [True, False])
async def test_windows_chunks_orders_and_batch_sizes(factored: bool) -> None:
    system, block, inputs = everything(factored)
    reference = await rows(system, block, inputs)
    for window in (1,):
        assert_same_bits(await rows(system, block, inputs, window=window), reference)
    for limit in (7,):
        assert_same_bits(await rows(system, block, inputs, max_batch_size=limit), reference)
    chunks = [await rows(system, block, inputs, members=range(k, k + 2)) for k in (4, 2, 0)]
    assert_same_bits([*chunks[2], *chunks[1], *chunks[0]], reference)
    backwards = await rows(system, block, inputs, members=range(MEMBERS - 1, -1, -1))
    assert_same_bits(backwards[::-1], reference)
    for jitter in (3,):
        assert_same_bits(await rows(Program(jitter), block, inputs), reference)
    assert_same_bits(await rows(system, block, inputs, gather_wait_s=0), reference)


def test_rows_are_a_function_of_sizes_alone() -> None:
    def parameters(rows: int, columns: int) -> ComponentParameters:
        base = torch.zeros(rows, columns)
        return ComponentParameters(
            "f", {"f.hp": FactoredMembers(base, torch.zeros(2, rows, 1), torch.zeros(2, columns, 1), 1.0)}, {}
        )

    assert kernel_rows(parameters(16, 4), 4) == LADDER[0]
    assert kernel_rows(parameters(512, 784), 784) == 32
    assert kernel_rows(parameters(8192, 8192), 8192) == LADDER[-1]
    assert kernel_rows(parameters(16, 4), 4, memory_bytes=1) == LADDER[-1]
    dense = ComponentParameters("f", {"f.hp": DenseMembers(torch.zeros(2, 256, 256))}, {})
    assert kernel_rows(dense, 256) == 16 or kernel_rows(dense, 256) == 32
    assert kernel_rows(ComponentParameters("f", {}, {}), 0) == LADDER[0]
