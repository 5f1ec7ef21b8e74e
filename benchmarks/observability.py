"""What watching costs: per call by exporter, on the lifted benchmark, and where the collector is dead.

    python -m benchmarks.observability [calls] [lifted] [dead] [--rounds 7]

Calls look like those of a language model (tokens, money, model, finish reason) and return at once, so nothing hides
behind waiting. Counted is the processor time of the whole process, exporting threads included, until the collector has
everything; the collector runs in a process of its own. Legs take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import logging
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hyperfunc import MSE, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc.observability import Exporter, span
from hyperfunc.tape import add_usage
from hyperfunc.usage import Usage

_USAGES = itertools.cycle(  # no two calls that follow each other cost the same
    [Usage(calls=1, input_tokens=100 + 7 * i, output_tokens=11 * i, usd=i / 31_337, seconds=0.8) for i in range(5000)]
)


@hyperfunction(io=True)
async def model(question: str) -> str:
    add_usage(next(_USAGES))
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


# -- a collector in a process of its own ------------------------------------------------------------------------------


def serve_collector() -> None:
    """Count the spans that arrive by gRPC and HTTP; print the total for every line on standard input."""
    import grpc  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    total = 0

    def count(request: Any) -> Any:
        nonlocal total
        total += sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
        return ExportTraceServiceResponse()

    traces = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.trace.v1.TraceService",
        {
            "Export": grpc.unary_unary_rpc_method_handler(
                lambda request, context: count(request),
                ExportTraceServiceRequest.FromString,
                ExportTraceServiceResponse.SerializeToString,
            )
        },
    )
    metrics = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.metrics.v1.MetricsService",
        {"Export": grpc.unary_unary_rpc_method_handler(lambda request, context: b"")},
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((traces, metrics))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path.endswith("/traces"):
                count(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    futures.ThreadPoolExecutor(1).submit(http.serve_forever)
    print(json.dumps({"grpc": f"http://127.0.0.1:{port}", "http": f"http://127.0.0.1:{http.server_address[1]}"}))
    sys.stdout.flush()
    for _ in sys.stdin:
        print(total, flush=True)
    http.shutdown()
    server.stop(None)


class Collector:
    """The process of :func:`serve_collector`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.observability", "collector"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.endpoints: dict[str, str] = json.loads(self._process.stdout.readline())

    def spans(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("count\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


# -- the three measurements -------------------------------------------------------------------------------------------


def measure_calls(collector: Collector, calls: int, rounds: int) -> None:
    """Processor time per call: untraced, in a session, and with exporters."""
    from hyperfunc_json import JSONExporter
    from hyperfunc_otlp import OTLPExporter

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


@hyperfunction(hp_type=LoRAWeight.create(64, 16, 1), optimize_hparams=True)
async def hidden(x: Any, hp: Any) -> Any:
    return (x @ hp.weight.T).relu()


@hyperfunction(hp_type=LoRAWeight.create(1, 128, 1), optimize_hparams=True)
async def out(x: Any, hp: Any) -> Any:
    return (x @ hp.weight.T).sigmoid()


class Pipeline(HyperSystem):
    async def run(self, x: Any) -> Any:
        import torch

        a, b = await asyncio.gather(hidden(x), hidden(x * 0.5))
        return (await out(torch.cat([a, b], -1))).squeeze(-1)


def measure_lifted(collector: Collector, rounds: int, generations: int = 60) -> None:
    """Milliseconds per generation of ``benchmarks.lifted``'s pipeline, untraced and over OTLP."""
    import torch

    from hyperfunc_otlp import OTLPExporter

    generator = torch.Generator().manual_seed(0)
    examples = [Example({"x": torch.randn(16, generator=generator)}, 0.5) for _ in range(100)]

    def one(exporters: Sequence[Exporter] | None) -> tuple[float, float]:
        system = Pipeline(system_optimizer=ESHybridSystemOptimizer(pop_size=256, block_size=128))
        clocks: list[tuple[float, float]] = []  # at the end of each generation; the proof of the first is left out
        with nullcontext() if exporters is None else system.observability.trace(exporters=exporters):
            result = asyncio.run(
                system.optimize(
                    examples,
                    MSE(),
                    steps=generations + 1,
                    validate_every=1000,
                    callbacks=[lambda view: clocks.append((time.perf_counter(), time.process_time()))],
                )
            )
        assert result.execution == "lifted", result.reason
        (wall, cpu), (wall_end, cpu_end) = clocks[0], clocks[-1]
        return (wall_end - wall) / (len(clocks) - 1) * 1e3, (cpu_end - cpu) / (len(clocks) - 1) * 1e3

    taken: dict[str, list[tuple[float, float]]] = {"untraced": [], "OTLP over gRPC": []}
    for round_number in range(rounds + 1):
        for name, times in taken.items():
            figures = one(None if name == "untraced" else [OTLPExporter(collector.endpoints["grpc"])])
            if round_number:
                times.append(figures)
    print(f"lifted, 256 members x 100 examples: milliseconds per generation, medians of {rounds} rounds")
    for position, what in enumerate(("wall clock", "processor")):
        plain, traced = ([figures[position] for figures in times] for times in taken.values())
        paired = statistics.median(t / p - 1 for p, t in zip(plain, traced, strict=True))
        print(
            f"  {what:11} untraced {statistics.median(plain):.2f}, over OTLP gRPC {statistics.median(traced):.2f}, "
            f"median of pairs {paired:+.1%}"
        )


@hyperfunction(io=True)
async def slow_model(question: str) -> str:
    await asyncio.sleep(0.004)
    add_usage(next(_USAGES), model="small-2026-07")
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
    """Seconds of a traced run without an exporter, with one that is refused, with one that is never answered."""
    from hyperfunc_otlp import OTLPExporter

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
        taken: dict[str, list[float]] = {name: [] for name in legs}
        used: dict[str, list[float]] = {name: [] for name in legs}
        lost: dict[str, int] = {}
        for round_number in range(rounds + 1):
            for name, exporters in legs.items():
                system = SlowlyAsking()
                made = exporters()
                started, cpu = time.perf_counter(), time.process_time()
                with system.observability.trace(exporters=made):
                    asyncio.run(system.run(calls))
                seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
                if round_number:
                    taken[name].append(seconds)
                    used[name].append(cpu)
                system.observability.flush()
                lost[name] = system.observability.dropped + system.observability.failed
    logging.disable(logging.NOTSET)
    print(f"a run of {calls} calls of 4 ms, 20 at a time, medians of {rounds} rounds")
    base = taken["no exporter"]
    for name, times in taken.items():
        paired = statistics.median(t / b - 1 for t, b in zip(times, base, strict=True))
        print(
            f"  {name:22}{statistics.median(times):8.3f} s {paired:+8.2%}   ({min(times):.3f} to {max(times):.3f}), "
            f"processor {statistics.median(used[name]):.3f} s, {lost[name]} spans lost"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["calls", "lifted", "dead"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5000)
    given = parser.parse_args()
    if given.what == ["collector"]:
        serve_collector()
        return
    collector = Collector()
    try:
        if "calls" in given.what:
            measure_calls(collector, given.calls, given.rounds)
        if "lifted" in given.what:
            measure_lifted(collector, given.rounds)
        if "dead" in given.what:
            measure_dead(given.rounds, given.calls)
    finally:
        collector.stop()


if __name__ == "__main__":
    main()
