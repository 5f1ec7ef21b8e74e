"""Lifted kernels of a few examples: the same outputs in the same order, and a size that follows from sizes alone."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, Settings, hyperfunction
from hyperfunc.errors import ConfigurationError, ResumeError
from hyperfunc.population.inputs import ExampleBatch
from hyperfunc.population.kernel_size import BoundedKernels, slices
from hyperfunc.population.lifted import LiftRefusedError, largest_tensor, run_lifted
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.scheduling import Economy

WIDTH = 33


class Wide(HyperSystem):
    """Its weights are 33 numbers wide, and the largest thing that it makes of an example 7 × 33."""

    def __init__(self, said: Any = None) -> None:
        super().__init__(seed=0, system_optimizer=ESHybridSystemOptimizer(pop_size=8, block_size=4, sigma=0.1, steps=4))
        torch.manual_seed(0)
        self.net = hyperfunction(optimize_hparams=True)(nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh()))
        self.said = said

    async def run(self, x: Tensor) -> Any:
        hidden = (await self.net(x.expand(7, 5))).mT.mT
        return {"mean": hidden.mean(0), "said": self.said} if self.said is not None else hidden.mean()


def members(system: HyperSystem, count: int, *, factored: bool = True) -> MemberBlock:
    generator = torch.Generator().manual_seed(1)
    block: dict[str, Any] = {}
    for name, base in system.theta.tensors.items():
        if factored and base.ndim == 2:
            left, right = (torch.randn(count, size, 1, generator=generator) for size in base.shape)
            block[name] = FactoredMembers(base, left, right, 0.1)
        else:
            block[name] = DenseMembers(base + 0.1 * torch.randn(count, *base.shape, generator=generator))
    return block


def data(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(2)
    return [{"x": torch.randn(5, generator=generator)} for _ in range(count)]


def in_a_thread(work: Any) -> Any:
    """What a worker does, with an event loop of its own."""

    def call() -> Any:
        with asyncio.Runner() as runner:
            return work(runner)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def lifted(system: HyperSystem, block: MemberBlock, inputs: Any, most: int | None) -> BlockOutcome:
    groups = ExampleBatch(inputs).groups(False)
    found: BlockOutcome = in_a_thread(
        lambda runner: run_lifted(system.program(), block, groups, runner, examples_at_once=most)
    )
    return found


@pytest.mark.parametrize("most", [1, 4, 9, 10, 100])
def test_the_outputs_are_those_of_one_kernel(most: int) -> None:
    system, inputs = Wide(), data(10)
    block = members(system, 3)
    whole, parts = lifted(system, block, inputs, None), lifted(system, block, inputs, most)
    assert whole.stacked is not None
    assert parts.stacked is not None  # scorers of whole tensors still see one
    torch.testing.assert_close(parts.stacked, whole.stacked)
    assert parts.groups[0].examples == whole.groups[0].examples


def test_constants_and_groups_of_other_shapes_are_kept_apart() -> None:
    system = Wide(said="so")
    inputs = data(5)
    inputs[2] = {"x": inputs[2]["x"][None]}
    whole, parts = (lifted(system, members(system, 2), inputs, most) for most in (None, 2))
    for member in range(2):
        for mine, theirs in zip(parts.outputs_of(member), whole.outputs_of(member), strict=True):
            assert mine["said"] == "so"
            torch.testing.assert_close(mine["mean"], theirs["mean"])


def test_a_constant_that_differs_from_kernel_to_kernel_is_refused() -> None:
    class Counting(Wide):
        async def run(self, x: Tensor) -> Any:
            self.said = 1 + (self.said or 0)
            return await super().run(x)

    with pytest.raises(LiftRefusedError, match="constant"):
        lifted(Counting(), members(Counting(), 2), data(4), 2)


@pytest.mark.parametrize("block", [{}, members(Wide(), 6), members(Wide(), 6, factored=False)])
def test_the_largest_tensor_is_that_of_one_run_and_none_of_the_parameters(block: MemberBlock) -> None:
    groups = ExampleBatch(data(9)).groups(False)
    found = in_a_thread(lambda runner: largest_tensor(Wide().program(), block, groups, runner))
    assert found == 7 * WIDTH * 4


def test_how_many_examples_follows_from_sizes() -> None:
    kernels = BoundedKernels(tensor_bytes=1000)
    assert [kernels.examples(10, size) for size in (0, 1, 10, 99, 100, 10**9)] == [1000, 100, 10, 1, 1, 1]
    (group,) = ExampleBatch(data(7)).groups(False)
    assert [part.examples for part in slices(group, 3)] == [(0, 1, 2), (3, 4, 5), (6,)]
    (constant,) = ExampleBatch([{"word": "a"}] * 3).groups(False)
    assert [part.examples for part in slices(constant, 1)] == [(0, 1, 2)]


def theta_after(kernels: BoundedKernels | None, **arguments: Any) -> Any:
    settings = Settings(execution="lifted", workers=arguments.pop("workers", 1))
    examples = [Example(inputs, 0.3) for inputs in data(10)]
    given = {"steps": 4, "economy": Economy(kernels=kernels), "settings": settings, **arguments}
    return asyncio.run(Wide().optimize(examples, "numeric-distance", **given)).theta


def test_it_is_the_same_in_every_run_and_every_resumed_one(tmp_path: Path) -> None:
    kernels = BoundedKernels(tensor_bytes=3 * 4 * 7 * WIDTH * 4)  # three examples of the four members of a block
    whole = theta_after(kernels)
    assert theta_after(kernels, workers=2) == whole
    journal = {"run": "r", "journal": tmp_path / "journal.db"}
    theta_after(kernels, steps=2, **journal)
    with pytest.raises(ResumeError, match="economy"):
        theta_after(None, resume=True, **journal)
    assert theta_after(kernels, resume=True, **journal) == whole
    for name, value in theta_after(None).tensors.items():  # the default's bits may differ, its result does not
        torch.testing.assert_close(whole.tensors[name], value, rtol=1e-4, atol=1e-4)


def test_large_bounds_change_nothing() -> None:
    assert theta_after(BoundedKernels(tensor_bytes=2**40)) == theta_after(None)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True])
def test_a_bound_out_of_range_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="tensor_bytes"):
        BoundedKernels(tensor_bytes=wrong)
