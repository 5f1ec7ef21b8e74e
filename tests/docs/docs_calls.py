"""What the tests of docs/calls.md share: programs, examples, and functions that fail or never end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import torch
from torch import Tensor

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction

__all__ = ["NEVER", "NUMBER", "SOON", "count_of", "failing", "for_ever", "numbers", "program", "scaled", "small"]

SOON = 0.02  # seconds: a deadline that is meant to pass
NEVER = 30.0  # seconds: a deadline that is not; a hang guard
NUMBER = LoRAWeight.create(1, 1)


async def for_ever(ended: list[str] | None = None, name: str = "ended") -> None:
    """Waits until it is cancelled, and takes one more turn of the loop to end: who does not await it is found out."""
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        if ended is not None:
            ended.append(name)


def program(body: Callable[..., Awaitable[Any]], **options: Any) -> HyperSystem:
    """A system whose program is ``body(**inputs)``."""

    class Program(HyperSystem):
        async def run(self, **inputs: Any) -> Any:
            return await body(**inputs)

    return Program(**options)


@hyperfunction(hp_type=NUMBER, optimize_hparams=True)
async def scaled(x: Tensor, hp: Any) -> Any:
    return (x @ hp.weight.T).squeeze(-1)


def numbers(count: int = 3) -> list[Example]:
    return [Example({"x": torch.tensor([float(i)])}, float(i)) for i in range(count)]


def count_of(predictions: list[Any], expected: list[Any]) -> float:
    return float(len(predictions))


def small(steps: int = 1) -> ESHybridSystemOptimizer:
    return ESHybridSystemOptimizer(steps=steps, pop_size=4)


def failing(times: int, error: Callable[[int], BaseException]) -> tuple[list[int], Callable[[], Awaitable[str]]]:
    """A function that fails so many times, and the list of its attempts."""
    attempts: list[int] = []

    async def function() -> str:
        attempts.append(len(attempts) + 1)
        if len(attempts) <= times:
            raise error(len(attempts))
        return "done"

    return attempts, function
