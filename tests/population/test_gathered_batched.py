"""Functions that take whole batches: who shares one, how large it is, and what happens when it fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc.errors import CallLimitError, ExecutionError
from hyperfunc.function import HyperFunction, hyperfunction
from hyperfunc.parameters.lora import LoRAWeight
from hyperfunc.population.gathered import GatheredOutcome, run_gathered
from hyperfunc.population.members import DenseMembers
from hyperfunc.settings import resolve_settings
from hyperfunc.system import HyperSystem


class System(HyperSystem):
    def __init__(self, body: Any, *functions: HyperFunction[..., Any]) -> None:
        super().__init__()
        self.body = body
        for function in functions:
            self.register_hyperfunction(function)

    async def run(self, number: int) -> Any:
        return await self.body(number)


async def gathered(system: System, runs: int, block: Any = None) -> GatheredOutcome:
    inputs = [{"number": n} for n in range(runs)]
    running = run_gathered(system.program(), block or {}, inputs, settings=resolve_settings())
    return await asyncio.wait_for(running, 60)


async def test_texts_and_tensors_in_one_batch() -> None:
    batches: list[list[str]] = []

    @hyperfunction(batched=True)
    async def reads(image: Tensor, languages: list[str]) -> list[str]:
        batches.append(languages)
        await asyncio.sleep(0)
        return [f"{language}:{int(total)}" for language, total in zip(languages, image.sum((1, 2)), strict=True)]

    async def body(number: int) -> str:
        return await reads(torch.full((2, 2), float(number)), ["en", "de"][number % 2])

    outcome = await gathered(System(body, reads), 40)
    assert not outcome.errors
    assert outcome.rows is not None
    assert outcome.rows[0] == [f"{['en', 'de'][n % 2]}:{4 * n}" for n in range(40)]
    assert [len(batch) for batch in batches] == [40]
    assert outcome.gathered_calls == 40


async def test_a_tensor_of_results_and_max_batch() -> None:
    sizes: list[int] = []

    @hyperfunction(batched=True, max_batch=16)
    def squares(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x**2

    async def body(number: int) -> Tensor:
        return await squares(torch.tensor(float(number)))

    outcome = await gathered(System(body, squares), 40)
    assert outcome.rows is not None
    assert [float(value) for value in outcome.rows[0]] == [float(n * n) for n in range(40)]
    assert sizes == [16, 16, 8]


async def test_one_set_of_parameters_for_each_batch() -> None:
    sizes: list[int] = []

    @hyperfunction(hp_type=LoRAWeight.create(1, 1, 1), optimize_hparams=True, batched=True)
    def scaled(x: Tensor, *, hp: LoRAWeight) -> Tensor:
        sizes.append(len(x))
        return x * hp.weight[0, 0]

    async def body(number: int) -> Tensor:
        return await scaled(torch.tensor(float(number)))

    block = {"scaled.hp": DenseMembers(torch.arange(3.0).reshape(3, 1, 1))}
    outcome = await gathered(System(body, scaled), 5, block)
    assert sizes == [5, 5, 5]
    assert outcome.rows is not None
    assert [[float(v) for v in row] for row in outcome.rows] == [[k * n for n in range(5)] for k in range(3)]


async def test_ragged_calls_are_different_batches() -> None:
    @hyperfunction(batched=True)
    def lengths(x: Tensor) -> list[int]:
        return [x.shape[1]] * len(x)

    async def body(number: int) -> int:
        return await lengths(torch.zeros(number % 3))

    outcome = await gathered(System(body, lengths), 9)
    assert outcome.rows == [[0, 1, 2] * 3]
    assert outcome.kernels == 3


async def test_only_the_guilty_call_of_a_batch_fails() -> None:
    @hyperfunction(batched=True)
    async def strict(texts: list[str]) -> list[str]:
        if "bad" in texts:
            raise ValueError("bad text")
        return [text.upper() for text in texts]

    async def body(number: int) -> str:
        return await strict("bad" if number in (3, 8) else f"text {number}")

    outcome = await gathered(System(body, strict), 20)
    assert sorted(example for _, example in outcome.errors) == [3, 8]
    assert outcome.rows is not None
    assert outcome.rows[0][4] == "TEXT 4"


async def test_a_wrong_number_of_results_is_an_error() -> None:
    @hyperfunction(batched=True)
    def forgets(texts: list[str]) -> list[str]:
        return []

    async def body(number: int) -> str:
        return await forgets("a")

    outcome = await gathered(System(body, forgets), 3)
    assert {type(error) for error in outcome.errors.values()} == {ExecutionError}
    assert "expected 1 results for 1 calls, got 0" in str(outcome.errors[0, 0])


async def test_batches_that_call_other_functions_are_made_one_by_one() -> None:
    @hyperfunction
    async def inner(x: Tensor) -> Tensor:
        return x + 1

    @hyperfunction(batched=True)
    async def outer(x: Tensor) -> Tensor:
        return await inner(x)

    async def body(number: int) -> Tensor:
        return await outer(torch.tensor(float(number)))

    outcome = await gathered(System(body, inner, outer), 6)
    assert not outcome.errors
    assert outcome.rows is not None
    assert [float(v) for v in outcome.rows[0]] == [n + 1.0 for n in range(6)]
    assert "a batch belongs to no single run" in outcome.reasons["outer"]


async def test_limits_of_batched_functions_hold() -> None:
    @hyperfunction(batched=True, max_calls=1)
    def once(texts: list[str]) -> list[str]:
        return texts

    async def body(number: int) -> str:
        await once("a")
        return await once("b")

    outcome = await gathered(System(body, once), 4)
    assert {type(error) for error in outcome.errors.values()} == {CallLimitError}


async def test_cancelling_while_a_batch_runs() -> None:
    started = asyncio.Event()
    ended: list[str] = []

    @hyperfunction(batched=True)
    async def slow(texts: list[str]) -> list[str]:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")
        return texts

    async def body(number: int) -> str:
        return await slow("a")

    running = asyncio.create_task(gathered(System(body, slow), 4))
    await asyncio.wait_for(started.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["cancelled"]
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []
