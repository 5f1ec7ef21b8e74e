"""Lifted, gathered and a plain loop give the same fitness on random programs, branches included."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperfunc import Example, HyperSystem, Settings, hyperfunction
from hyperfunc.parameters.protocol import get_hp_shape
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.members import DenseMembers, FactoredMembers
from hyperfunc.settings import resolve_settings

WIDTH, MEMBERS, EXAMPLES = 5, 4, 5
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
MARGIN = 1e-3  # decisions nearer than this to their threshold may go either way in another summation order


def matrix(dtype_: torch.dtype) -> type[Any]:
    class Matrix:
        def __init__(self, value: Tensor) -> None:
            self.value = value

        @classmethod
        def shape(cls) -> tuple[int, ...]:
            return (WIDTH, WIDTH)

        @classmethod
        def dim(cls) -> int:
            return WIDTH * WIDTH

        @classmethod
        def dtype(cls) -> torch.dtype:
            return dtype_

        @classmethod
        def from_tensor(cls, t: Tensor) -> Any:
            return cls(t)

    assert get_hp_shape(Matrix) == (WIDTH, WIDTH)
    return Matrix


LAYERS = ("linear", "transposed", "residual", "gather", "unknown", "branch", "loop", "normal")


class RandomProgram(HyperSystem):
    """A chain of layers, each a hyperfunction or a piece of Python between them."""

    def __init__(self, plan: list[str], dtype: torch.dtype) -> None:
        super().__init__(seed=1)
        self.plan = plan
        self.margins: list[float] = []
        kind = matrix(dtype)

        @hyperfunction(hp_type=kind, optimize_hparams=True)
        async def linear(x: Tensor, hp: Any) -> Tensor:
            return torch.tanh(x @ hp.value.mT)

        @hyperfunction(hp_type=kind, optimize_hparams=True)
        def transposed(x: Tensor, hp: Any) -> Tensor:
            return torch.tanh(hp.value.T @ x)

        @hyperfunction(hp_type=kind, optimize_hparams=True)
        def unknown(x: Tensor, hp: Any) -> Tensor:
            return x * torch.linalg.vector_norm(hp.value) / WIDTH

        self.linear, self.transposed, self.unknown = linear, transposed, unknown

    async def run(self, x: Tensor) -> Tensor:
        for layer in self.plan:
            if layer == "linear":
                x = await self.linear(x)
            elif layer == "transposed":
                x = await self.transposed(x)
            elif layer == "unknown":
                x = await self.unknown(x)
            elif layer == "residual":
                x = x + 0.5 * await self.linear(x)
            elif layer == "gather":
                a, b = await asyncio.gather(self.linear(x), self.transposed(0.5 * x))
                x = torch.cat([a[:2], b[2:]])
            elif layer == "normal":
                x = (x - x.mean()) / (1 + x.std())
            elif layer == "loop":
                for _ in range(2):
                    x = await self.linear(0.7 * x)
            elif layer == "branch":
                self.margins.append(abs(float(x.sum())))
                x = await self.linear(x) if x.sum() > 0 else await self.transposed(x) - 1
        return x


async def outputs(system: RandomProgram, block: Any, inputs: list[Any], execution: str) -> tuple[str, Tensor]:
    resolved = resolve_settings(Settings(execution=execution))
    with PopulationRunner(system.program(), resolved) as runner:
        (rows,) = await runner.run(lambda _: block, [0], ExampleBatch(inputs), lambda _, outcome: list(outcome))
        return runner.execution, torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    plan=st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5),
    seed=st.integers(0, 2**16),
    factored=st.booleans(),
    rank=st.integers(1, 2),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_all_ways_to_run_agree(dtype: torch.dtype, plan: list[str], seed: int, factored: bool, rank: int) -> None:
    asyncio.run(check(dtype, plan, seed, factored, rank))


async def check(dtype: torch.dtype, plan: list[str], seed: int, factored: bool, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    system = RandomProgram(plan, dtype)
    block: dict[str, Any] = {}
    for name, base in system.theta.tensors.items():
        if factored:
            sides = [torch.randn(MEMBERS, WIDTH, rank, generator=generator, dtype=dtype) for _ in range(2)]
            block[name] = FactoredMembers(base, sides[0], sides[1], 0.3)
        else:
            noise = torch.randn(MEMBERS, WIDTH, WIDTH, generator=generator, dtype=dtype)
            block[name] = DenseMembers(base + 0.3 * noise)
    inputs = [{"x": torch.randn(WIDTH, generator=generator, dtype=dtype)} for _ in range(EXAMPLES)]
    _, reference = await outputs(system, block, inputs, "sequential")
    if any(margin < MARGIN for margin in system.margins):
        return  # a decision on the edge: other sums may decide it otherwise
    scale = float(reference.abs().max().clamp_min(1.0))
    for execution in ("auto", "gathered"):
        taken, found = await outputs(system, block, inputs, execution)
        assert found.dtype == dtype
        assert taken == ("gathered" if "branch" in plan or execution == "gathered" else "lifted")
        worst = float((found - reference).abs().max())
        assert worst <= TOLERANCE[dtype] * scale, f"{taken} differs by {worst} at scale {scale}"


async def test_fitness_is_the_same_through_the_public_api() -> None:
    system = RandomProgram(["linear", "branch", "gather"], torch.float64)
    generator = torch.Generator().manual_seed(3)
    examples = [
        Example({"x": torch.randn(WIDTH, generator=generator, dtype=torch.float64)}, torch.zeros(WIDTH).double())
        for _ in range(4)
    ]
    await system.execute(examples[0].inputs)
    candidates = [
        {n: v + 0.2 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in system.theta.tensors.items()}
        for _ in range(70)
    ]
    scores = {
        execution: await system.evaluate_population(
            candidates, examples, "mean-squared-error", settings=Settings(execution=execution)
        )
        for execution in ("auto", "sequential")
    }
    assert scores["auto"] == pytest.approx(scores["sequential"], rel=1e-9)
    assert len(scores["auto"]) == 70
