"""Runs alive at once, by measured throughput and fixed; and lifted kernels of a few examples.

    python -m benchmarks.scheduling pace kernels

Variants take turns, so that a machine whose speed drifts treats all alike; medians, least and most in brackets.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperfunc import HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.population.evaluate import PopulationRunner
from hyperfunc.population.inputs import ExampleBatch
from hyperfunc.population.kernel_size import BoundedKernels
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock
from hyperfunc.scheduling import MeasuredPace
from hyperfunc.settings import resolve_settings

__all__ = ["print_kernels", "print_pace"]

REPEATS = 5


@hyperfunction(hp_type=LoRAWeight.create(8, 8, 1), optimize_hparams=True)
async def small(x: Tensor, hp: Any) -> Tensor:
    return torch.tanh(hp.weight @ x)


class Branching(HyperSystem):
    """Three calls of a small model, and a branch after each."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.register_hyperfunction(small)

    async def run(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = await small(x)
            if x[0] > 0:
                x = x + 0.1
        return x


class Asking(Branching):
    """A question to a server, then the small model."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    async def run(self, x: Tensor) -> Tensor:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"question\n")
        await reader.readline()
        writer.close()
        answer: Tensor = await small(x)
        return answer


class Server:
    """Answers on loopback, in a thread of its own; beyond ``capacity`` at once every answer takes longer.

    Args:
        overload: power of the excess by which an answer's time grows; at 1 the throughput stays, above it falls.
    """

    def __init__(self, capacity: int, overload: float, seconds: float) -> None:
        self.capacity, self.overload, self.seconds = capacity, overload, seconds
        self.in_flight = self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()
        self._ready.wait()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=8192))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        self.in_flight += 1
        await asyncio.sleep(self.seconds * max(1.0, self.in_flight / self.capacity) ** self.overload)
        self.in_flight -= 1
        writer.write(b"answer\n")
        await writer.drain()
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


def blocks_of(system: HyperSystem, blocks: int, members: int) -> list[MemberBlock]:
    """Perturbed members, drawn once."""
    generator = torch.Generator().manual_seed(0)
    found: list[MemberBlock] = []
    for _ in range(blocks):
        block: dict[str, Any] = {}
        for name, base in system.theta.tensors.items():
            if base.ndim == 2:
                left, right = (torch.randn(members, size, 1, generator=generator) for size in base.shape)
                block[name] = FactoredMembers(base, left, right, 0.1)
            else:
                block[name] = DenseMembers(base + 0.1 * torch.randn(members, *base.shape, generator=generator))
        found.append(block)
    return found


async def generations(
    system: HyperSystem,
    blocks: list[MemberBlock],
    inputs: list[dict[str, Any]],
    count: int,
    settings: Settings,
    prepare: Callable[[PopulationRunner], None],
) -> tuple[float, float, int]:
    """Seconds and CPU seconds of so many generations, the first of them included, and runs alive in the end."""
    batch = ExampleBatch(inputs)
    with PopulationRunner(system.program(), resolve_settings(settings)) as runner:
        prepare(runner)
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            await runner.run(lambda index: blocks[index], range(len(blocks)), batch, lambda *_: None)
        alive = runner.decision()["runs_alive"] or 0
        return time.perf_counter() - started, time.process_time() - cpu, alive


Variant = Callable[[], Awaitable[tuple[float, float, int]]]


def in_turn(variants: Mapping[str, Variant], repeats: int = REPEATS) -> None:
    """A line per variant."""
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in variants}

    async def one(variant: Variant) -> tuple[float, float, int]:
        return await variant()

    for _ in range(repeats):
        for name, variant in variants.items():
            found[name].append(asyncio.run(one(variant)))
    for name, runs in found.items():
        seconds, cpu, alive = ([run[at] for run in runs] for at in range(3))
        line = f"{name:34}{statistics.median(seconds):9.3f} s [{min(seconds):.3f}, {max(seconds):.3f}]"
        line += f"   CPU {statistics.median(cpu):7.3f} s"
        print(line + (f"   alive in the end {statistics.median(alive):.0f}" if any(alive) else ""), flush=True)


def paced(
    system: HyperSystem, blocks: list[MemberBlock], inputs: list[dict[str, Any]], count: int, repeats: int = REPEATS
) -> None:
    def variant(window: int | None) -> Variant:
        def prepare(runner: PopulationRunner) -> None:
            if window is None:
                runner.follow(MeasuredPace())

        settings = Settings(execution="gathered", window=window)
        return lambda: generations(system, blocks, inputs, count, settings, prepare)

    fixed = {f"at most {n}": variant(n) for n in (8, 16, 64, 256)}
    in_turn({**fixed, "at most 4096 (default)": variant(4096), "measured": variant(None)}, repeats)


def inputs_of(size: int, count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(size, generator=generator)} for _ in range(count)]


def print_pace(seeds: int, steps: int) -> None:
    """Gathered runs of a small model, and of calls to a server on loopback."""
    del seeds, steps
    print("\na small model, 3 calls and branches; 6 generations of 4 blocks of 16 members on 50 examples, gathered")
    system: HyperSystem = Branching()
    paced(system, blocks_of(system, 4, 16), inputs_of(8, 50), 6)
    print("\na call to a server (20 ms), then the small model; 6 generations of 8 blocks of 4 members on 10 examples")
    for capacity, overload, told in (
        (16, 1.0, "the server has room for 16; beyond, its throughput stays"),
        (16, 1.5, "the server has room for 16; beyond, its throughput falls"),
        (10_000, 1.0, "the server has room for all"),
    ):
        print(told)
        server = Server(capacity, overload, 0.02)
        system = Asking(server.port)
        paced(system, blocks_of(system, 8, 4), inputs_of(8, 10), 6, repeats=3)
        server.close()


@hyperfunction(hp_type=LoRAWeight.create(8, 8, 1), optimize_hparams=True)
async def signal(x: Tensor, hp: Any) -> Tensor:
    gain = hp.weight.sum()
    y = x * gain
    for _ in range(10):
        y = torch.tanh(y) + x
    mean: Tensor = y.mean()
    return mean


class Filtering(HyperSystem):
    """Elementwise operations on a long signal: memory is all that it costs."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.register_hyperfunction(signal)

    async def run(self, x: Tensor) -> Tensor:
        answer: Tensor = await signal(x)
        return answer


class Layers(HyperSystem):
    """Matrix products: arithmetic is most of what it costs."""

    def __init__(self, hidden: int) -> None:
        super().__init__(seed=0)
        torch.manual_seed(0)
        self.net = hyperfunction(optimize_hparams=True)(
            nn.Sequential(
                nn.Linear(784, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 10)
            )
        )

    async def run(self, x: Tensor) -> Any:
        return await self.net(x)


def print_kernels(seeds: int, steps: int) -> None:
    """Lifted kernels that take all examples, or a few at a time."""
    del seeds, steps
    mib = 2**20
    cases: list[tuple[str, HyperSystem, int, int, int]] = [
        ("22 elementwise operations on 4 096 numbers, 32 members, 64 examples", Filtering(), 4096, 32, 64),
        ("the same on 512 numbers, 64 members, 128 examples", Filtering(), 512, 64, 128),
        ("784-1024-1024-10, 32 members, 100 examples", Layers(1024), 784, 32, 100),
        ("784-256-256-10, 64 members, 250 examples", Layers(256), 784, 64, 250),
    ]
    for told, system, width, members, examples in cases:
        print(f"\n{told}; 3 generations of 2 blocks, one worker")
        blocks, inputs = blocks_of(system, 2, members), inputs_of(width, examples)

        def variant(
            limit: int | None,
            system: HyperSystem = system,
            blocks: list[MemberBlock] = blocks,
            inputs: list[dict[str, Any]] = inputs,
        ) -> Variant:
            def prepare(runner: PopulationRunner) -> None:
                runner.restore_decision({**runner.decision(), "execution": "lifted"})  # without the proof's runs
                if limit is not None:
                    runner.bound(BoundedKernels(tensor_bytes=limit))

            return lambda: generations(system, blocks, inputs, 3, Settings(workers=1), prepare)

        bounded = {f"at most {limit / mib:g} MiB": variant(limit) for limit in LIMITS}
        in_turn({"all examples (default)": variant(None), **bounded})


LIMITS = tuple(int(2**20 * size) for size in (0.25, 1, 4, 16))
