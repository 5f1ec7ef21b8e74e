"""Processor time per call: untraced, in a session, and with exporters.

Calls look like those of a language model (tokens, money, model, finish reason) and return at once, so nothing hides
behind waiting. Counted is the processor time of the whole process, exporting threads included, until the collector has
everything. Legs take turns.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from benchmarks.observability.collector import Collector
from hyperfunc import HyperSystem, hyperfunction
from hyperfunc.observability import Exporter, span
from hyperfunc.tape import add_usage
from hyperfunc.usage import Usage
from hyperfunc_json import JSONExporter
from hyperfunc_otlp import OTLPExporter

__all__ = ["USAGES", "measure_calls"]

USAGES = itertools.cycle(  # no two calls that follow each other cost the same
    [Usage(calls=1, input_tokens=100 + 7 * i, output_tokens=11 * i, usd=i / 31_337, seconds=0.8) for i in range(5000)]
)


@hyperfunction(io=True)
async def model(question: str) -> str:
    add_usage(next(USAGES))
    add_usage(
        Usage(),
        model="small-2026-07",
        request_model="small",
        provider="example",
        operation="chat",
        temperature=0.7,
        finish_reason="stop",
    )
    return question


class Asking(HyperSystem):
    async def run(self, calls: int) -> None:
        for _ in range(calls):
            await model("where is my order?")


def measure_calls(collector: Collector, calls: int, rounds: int) -> None:
    """Processor time per call: untraced, in a session, and with exporters."""
    folder = Path(tempfile.mkdtemp(prefix="hyperfunc-bench-"))
    legs: dict[str, Callable[[], Sequence[Exporter]] | None] = {
        "untraced": None,
        "session, no exporter": list,
        "JSON lines": lambda: [JSONExporter(folder / "trace.jsonl", jsonl=True)],
        "OTLP over HTTP": lambda: [OTLPExporter(collector.endpoints["http"], "http")],
        "OTLP over gRPC": lambda: [OTLPExporter(collector.endpoints["grpc"])],
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in legs}

    def one(exporters: Callable[[], Sequence[Exporter]] | None) -> tuple[float, float]:
        system = Asking()
        hub = system.observability
        made = None if exporters is None else exporters()
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        with nullcontext() if made is None else hub.trace(exporters=made):
            asyncio.run(_ask(system, calls))
        hub.flush()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert (hub.dropped, hub.failed) == (0, 0), (hub.dropped, hub.failed)
        return cpu / calls * 1e6, wall / calls * 1e6

    expected = collector.spans()
    for round_number in range(rounds + 1):  # the first warms up
        for name, exporters in legs.items():
            figures = one(exporters)
            if round_number:
                taken[name].append(figures)
            expected += calls + 1 if name.startswith("OTLP") else 0
    assert collector.spans() == expected, "spans were lost"
    blocks = min(timeit.repeat(_unwatched_block, number=10_000, repeat=5)) / 10_000 * 1e6
    print(f"where nothing is traced: {blocks:.2f} microseconds for a span(...) block")
    print(f"microseconds per call, {calls} calls one after another, medians of {rounds} rounds")
    print(f"{'':22}{'processor':>10}{'above untraced':>16}{'wall clock':>12}")
    base = statistics.median(cpu for cpu, _ in taken["untraced"])
    for name, figures_taken in taken.items():
        cpu = statistics.median(cpu for cpu, _ in figures_taken)
        low, high = min(c for c, _ in figures_taken), max(c for c, _ in figures_taken)
        wall = statistics.median(wall for _, wall in figures_taken)
        print(f"{name:22}{cpu:10.1f}{cpu - base:16.1f}{wall:12.1f}   ({low:.1f} to {high:.1f})")


def _unwatched_block() -> None:
    with span("generation", "g"):
        pass


async def _ask(system: HyperSystem, calls: int) -> None:
    # In portions, as programs make them: one run never ends, and queues drain while it lasts.
    for _ in range(calls // 100):
        await system.run(100)
