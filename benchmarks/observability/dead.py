"""What a collector that is not there, or never says a word, changes about the time of a traced run.

Each leg's runs are compared with the one without an exporter of the same round; the order of the legs is turned from
round to round. Before each run the garbage of earlier ones is collected: a full collection takes 0.1 s, comes about
every other run, and would otherwise fall to whichever leg it meets.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.observability.calls import USAGES
from benchmarks.observability.pairs import excess
from hyperfunc import HyperSystem, hyperfunction
from hyperfunc.observability import Exporter, ObservabilityHub
from hyperfunc.tape import add_usage
from hyperfunc_otlp import OTLPExporter

__all__ = ["measure_dead"]


@hyperfunction(io=True)
async def slow_model(question: str) -> str:
    await asyncio.sleep(0.004)
    add_usage(next(USAGES), model="small-2026-07")
    return question


class SlowlyAsking(HyperSystem):
    async def run(self, calls: int) -> None:
        for _ in range(calls // 20):
            await asyncio.gather(*(slow_model("where is my order?") for _ in range(20)))


@contextmanager
def _silent_host() -> Iterator[str]:
    """A host that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def measure_dead(rounds: int, calls: int) -> None:
    """Print seconds of a traced run without an exporter, with one that is refused, with one that is never answered."""
    logging.disable(logging.CRITICAL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with _silent_host() as silent:
        legs: dict[str, Callable[[], Sequence[Exporter]]] = {
            "no exporter": list,
            "refused, gRPC": lambda: [OTLPExporter(refused)],
            "refused, HTTP": lambda: [OTLPExporter(refused, "http")],
            "never answers, gRPC": lambda: [OTLPExporter(silent)],
            "never answers, HTTP": lambda: [OTLPExporter(silent, "http")],
        }
        walls: dict[str, list[float]] = {name: [] for name in legs}
        processor: dict[str, list[float]] = {name: [] for name in legs}
        hubs: dict[str, ObservabilityHub] = {}  # of the last run
        names = list(legs)
        for name in names:  # imports
            _one(legs[name](), 200)
        for number in range(rounds):
            turned = names[number % len(names) :] + names[: number % len(names)]
            for name in turned if number % 2 else reversed(turned):
                wall, cpu, hubs[name] = _one(legs[name](), calls)
                walls[name].append(wall)
                processor[name].append(cpu)
        for hub in hubs.values():
            hub.flush(10)
    logging.disable(logging.NOTSET)
    print(f"a run of {calls} calls of 4 ms, 20 at a time; medians of {rounds} rounds; goal: less than +2 %")
    print("ratio to the run without an exporter of the same round, 95 % interval")
    base, base_processor = walls["no exporter"], processor["no exporter"]
    for name in names:
        ratio = excess(list(zip(base, walls[name], strict=True)))
        more = statistics.median(b - a for a, b in zip(base_processor, processor[name], strict=True))
        share = more / statistics.median(base)
        print(
            f"  {name:20}{statistics.median(walls[name]):8.3f} s  {ratio:30}"
            f" processor {more * 1e3:+6.1f} ms ({share:+.2%} of the run), {_lost(hubs[name])} spans lost"
        )


def _one(exporters: Sequence[Exporter], calls: int) -> tuple[float, float, ObservabilityHub]:
    system = SlowlyAsking()
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    with system.observability.trace(exporters=exporters):
        asyncio.run(system.run(calls))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, system.observability


def _lost(hub: ObservabilityHub) -> int:
    return hub.dropped + hub.failed
