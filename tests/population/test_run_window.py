"""Blocks that share a window of runs: opened in order, as soon as there is room, and all ended when one fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc import HyperSystem
from hyperfunc.population.gathered import run_gathered
from hyperfunc.population.in_flight import InFlight
from hyperfunc.population.members import DenseMembers
from hyperfunc.population.run_window import RunWindow
from hyperfunc.settings import resolve_settings


class Blocks:
    """Blocks of equally many runs, each of which ends when it is told to."""

    def __init__(self, limit: int, runs: int) -> None:
        self.window = RunWindow(InFlight(None, limit))
        self.runs = runs
        self.alive: list[tuple[int, int]] = []
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.fails: set[int] = set()
        self._over: dict[int, asyncio.Future[None]] = {}
        self._unfinished: dict[int, int] = {}

    async def block(self, index: int) -> str:
        self.opened.append(index)
        self._over[index] = asyncio.get_running_loop().create_future()
        self._unfinished[index] = self.runs
        todo = iter(range(self.runs))

        def start() -> bool:
            run = next(todo, None)
            if run is None:
                return False
            self.alive.append((index, run))
            self.window.runs.began(0.0)
            return True

        if self.runs:
            self.window.add(start)
            try:
                await self._over[index]
            finally:
                self.window.remove(start)
                self.closed.append(index)
        if index in self.fails:
            raise ValueError(index)
        return f"block {index}"

    def end(self, index: int, run: int) -> None:
        self.alive.remove((index, run))
        self.window.runs.ended(0.0)
        self.window.fill()
        self._unfinished[index] -= 1
        if not self._unfinished[index]:
            self._over[index].set_result(None)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_block_is_opened_as_soon_as_the_one_before_has_no_run_left_to_start() -> None:
    blocks = Blocks(limit=4, runs=3)
    running = asyncio.create_task(blocks.window.run_blocks(range(3), blocks.block))
    await settle()
    assert blocks.alive == [(0, 0), (0, 1), (0, 2), (1, 0)]
    blocks.end(0, 1)
    blocks.end(0, 2)
    assert blocks.alive == [(0, 0), (1, 0), (1, 1), (1, 2)]
    await settle()
    assert blocks.opened == [0, 1]  # no room for a third
    blocks.end(1, 0)
    await settle()
    assert blocks.alive == [(0, 0), (1, 1), (1, 2), (2, 0)]
    while blocks.alive:
        blocks.end(*blocks.alive[-1])
    assert await running == ["block 0", "block 1", "block 2"]
    assert blocks.window.runs.count == 0


async def test_blocks_without_runs_do_not_wait_for_room() -> None:
    blocks = Blocks(limit=1, runs=0)
    assert await blocks.window.run_blocks([4, 2], blocks.block) == ["block 4", "block 2"]


async def test_a_block_that_fails_ends_the_others_also_while_there_is_no_room() -> None:
    blocks = Blocks(limit=4, runs=3)
    blocks.fails = {0}
    running = asyncio.create_task(blocks.window.run_blocks(range(5), blocks.block))
    await settle()
    for run in range(3):
        blocks.end(0, run)
    with pytest.raises(ValueError, match="0"):
        await running
    assert sorted(blocks.closed) == sorted(blocks.opened)


async def test_cancellation_awaits_the_open_blocks() -> None:
    blocks = Blocks(limit=4, runs=3)
    running = asyncio.create_task(blocks.window.run_blocks(range(5), blocks.block))
    await settle()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(blocks.closed) == [0, 1]


async def test_a_block_whose_runs_cannot_be_started_fails_and_not_the_one_that_made_room() -> None:
    class Broken(dict[str, DenseMembers]):
        """A block that counts its members, and fails for the second one."""

        def items(self) -> Any:
            self.asked = getattr(self, "asked", 0) + 1
            if self.asked > 1:
                raise ValueError("no such member")
            return super().items()

    class Doubling(HyperSystem):
        async def run(self, x: Tensor) -> Tensor:
            await asyncio.sleep(0)
            return x * 2

    program, settings = Doubling().program(), resolve_settings()
    inputs = [{"x": torch.ones(1)}]
    window = RunWindow(InFlight(None, 1))
    members = DenseMembers(torch.zeros(2, 1))
    whole = asyncio.create_task(run_gathered(program, {"a": members}, inputs, settings=settings, window=window))
    await asyncio.sleep(0)
    broken = asyncio.create_task(run_gathered(program, Broken(a=members), inputs, settings=settings, window=window))
    with pytest.raises(ValueError, match="no such member"):
        await asyncio.wait_for(broken, 60)
    assert [len(row) for row in (await asyncio.wait_for(whole, 60)).rows or ()] == [1, 1]
    assert window.runs.count == 0
