"""What tracing adds to a generation of ``benchmarks.lifted``'s pipeline.

Within one run, tracing is on for two of every four generations: off, on, on, off. The four share everything else (the
memory that they got, the threads, the machine's other work), and a drift of the machine's speed cancels. A block's
figure is the ratio of its two sums, told is the median of many blocks of several runs. What the exporting thread does
beside the run could fall into any generation: its processor time is added to the traced ones in full. A control in
which nothing is ever traced says what this method finds where there is nothing to find.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch

from benchmarks.observability.collector import Collector
from benchmarks.observability.pairs import excess
from hyperfunc import MSE, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc.observability import Delivery, Metrics, Tracer, trace_calls_with
from hyperfunc_otlp import OTLPExporter

__all__ = ["measure_lifted"]


@hyperfunction(hp_type=LoRAWeight.create(64, 16, 1), optimize_hparams=True)
async def hidden(x: Any, hp: Any) -> Any:
    return (x @ hp.weight.T).relu()


@hyperfunction(hp_type=LoRAWeight.create(1, 128, 1), optimize_hparams=True)
async def out(x: Any, hp: Any) -> Any:
    return (x @ hp.weight.T).sigmoid()


class Pipeline(HyperSystem):
    async def run(self, x: Any) -> Any:
        a, b = await asyncio.gather(hidden(x), hidden(x * 0.5))
        return (await out(torch.cat([a, b], -1))).squeeze(-1)


def measure_lifted(collector: Collector, runs: int, generations: int) -> None:
    """Print milliseconds per generation, untraced and over OTLP, by the clock and with the exporting thread."""
    generator = torch.Generator().manual_seed(0)
    examples = [Example({"x": torch.randn(16, generator=generator)}, 0.5) for _ in range(100)]
    blocks = generations // 4
    _run(None, examples, 4)  # imports
    control: list[tuple[float, float]] = []
    pairs: list[tuple[float, float]] = []
    exporting: list[float] = []  # milliseconds per traced generation
    before = collector.spans()
    for _ in range(runs):
        control += _blocks(_run(None, examples, blocks * 4))
        metrics = Metrics()
        delivery = Delivery(OTLPExporter(collector.endpoints["grpc"]), metrics=metrics)
        pairs += _blocks(_run(Tracer(delivery, metrics=metrics), examples, blocks * 4))
        assert delivery.flush(30)
        exporting.append(_processor_seconds() / (blocks * 2) * 1e3)
        delivery.close(30)
        assert (delivery.dropped, delivery.failed) == (0, 0), (delivery.dropped, delivery.failed)
    assert collector.spans() - before >= runs * blocks * 2, "traced generations made no spans"
    exported = statistics.mean(exporting)
    print(f"lifted, 256 members x 100 examples, {runs} runs of {blocks} blocks of four generations")
    print("milliseconds per generation, median ratio of blocks and its 95 % interval; goal: at most +5 %")
    whole = [(plain, traced + 2 * exported) for plain, traced in pairs]
    for name, measured in (("control", control), ("OTLP gRPC", pairs), ("with the exporting thread", whole)):
        plain, traced = (statistics.median(pair[side] / 2 for pair in measured) for side in (0, 1))
        print(f"  {name:26} untraced {plain:.2f}, traced {traced:.2f}: {excess(measured)}")


def _run(tracer: Tracer | None, examples: Sequence[Example], generations: int) -> list[float]:
    """Milliseconds of each generation but the first, which holds the proof that lifting is right."""
    system = Pipeline(system_optimizer=ESHybridSystemOptimizer(pop_size=256, block_size=128))
    clocks: list[float] = []
    traced = ExitStack()

    def between_generations(_: object) -> None:
        now = time.perf_counter()
        number = len(clocks) % 4  # of the generation that comes
        if tracer is not None and number == 1:
            traced.enter_context(trace_calls_with(tracer))
        elif number == 3:
            traced.close()
        clocks.append(now)

    gc.collect()
    with traced:
        result = asyncio.run(
            system.optimize(
                examples, MSE(), steps=generations + 1, validate_every=10_000, callbacks=[between_generations]
            )
        )
    assert result.execution == "lifted", result.reason
    times = [(end - begin) * 1e3 for begin, end in pairwise(clocks)]
    assert len(times) == generations
    return times


def _blocks(times: Sequence[float]) -> list[tuple[float, float]]:
    fours = zip(*[iter(times)] * 4, strict=True)
    return [(first + last, second + third) for first, second, third, last in fours]


def _processor_seconds() -> float:
    """What the exporting thread has used so far."""
    (found,) = [thread for thread in threading.enumerate() if thread.name.startswith("hyperfunc-export")]
    assert found.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(found.ident))
