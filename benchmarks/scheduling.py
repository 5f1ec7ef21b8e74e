"""What each part of the learning scheduler saves.

    python -m benchmarks.scheduling                 # everything
    python -m benchmarks.scheduling racing          # the digits demo with and without racing
    python -m benchmarks.scheduling minibatch       # evaluations to a fitness, with fixed and adaptive minibatches
    python -m benchmarks.scheduling focus           # parameters that matter beside such as do not
    python -m benchmarks.scheduling concurrency     # calls at once, fixed and by measured throughput
    python -m benchmarks.scheduling pace            # gathered runs alive at once, fixed and by measured throughput
    python -m benchmarks.scheduling kernels         # lifted kernels of all examples, and of a few
    python -m benchmarks.scheduling bits            # which sizes of kernels change bits
    python -m benchmarks.scheduling --seeds 2 --steps 50 racing

Counts of evaluations and fitness do not depend on the machine's load; seconds do.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernel_bits import print_bits
from benchmarks.pace import print_kernels, print_pace
from benchmarks.virtual_time import Server
from demos.digits.__main__ import load_examples
from demos.digits.pipeline import AnswerAccuracy, DigitPipeline, LogLikelihood
from hyperfunc import ESHybridSystemOptimizer
from hyperfunc.batch import MeasuredConcurrency, batch
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.scheduling import AdaptiveMinibatch, Economy, Focus, Racing
from hyperfunc.scheduling.focus import build_strategy
from hyperfunc.testing import VirtualLoop

SEEDS = 5
STEPS = 400


@dataclass(frozen=True)
class Outcome:
    """One run of the digits demo."""

    evaluations: int
    seconds: float
    fitness: float  # best mean log-probability on the selection data
    accuracy: float  # on the test data, of the θ that it belongs to


async def digits(seed: int, steps: int, **arguments: Any) -> Outcome:
    """The demo as it is, but for ``arguments`` of ``optimize``."""
    train, validation, test = load_examples()
    optimizer = ESHybridSystemOptimizer(steps=steps, pop_size=256, sigma=0.05, lr=0.03, block_size=128)
    system = DigitPipeline(seed=seed, system_optimizer=optimizer)
    given = {"minibatch": 250, "validate_every": 10, **arguments}
    started = time.perf_counter()
    result = await system.optimize(train, LogLikelihood(), validation, seed=seed, **given)
    seconds = time.perf_counter() - started
    return Outcome(result.evaluations, seconds, result.best_fitness, await system.evaluate(test, AnswerAccuracy()))


def compare_on_digits(variants: Mapping[str, Mapping[str, Any]], seeds: int, steps: int) -> dict[str, list[Outcome]]:
    """A table of the variants, each beside the first one by seed."""
    print(f"\ndigits demo, {steps} generations of 256 members, {seeds} seeds; fitness: selection log-probability")
    print(
        f"{'':34}{'evaluations':>12}{'saved':>7}{'seconds':>9}{'fitness':>9}{'difference ± s.e.':>20}{'accuracy':>10}"
    )
    found: dict[str, list[Outcome]] = {}
    for name, arguments in variants.items():
        found[name] = runs = [asyncio.run(digits(seed, steps, **arguments)) for seed in range(seeds)]
        base = next(iter(found.values()))
        saved = 1 - sum(r.evaluations for r in runs) / sum(r.evaluations for r in base)
        differences = [r.fitness - b.fitness for r, b in zip(runs, base, strict=True)]
        error = statistics.stdev(differences) / len(runs) ** 0.5 if len(runs) > 1 else 0.0
        print(
            f"{name:34}{mean(r.evaluations for r in runs):12,.0f}{saved:7.0%}{mean(r.seconds for r in runs):9.1f}"
            f"{mean(r.fitness for r in runs):9.4f}{mean(differences):+12.4f} ± {error:.4f}"
            f"{mean(r.accuracy for r in runs):10.1%}",
            flush=True,
        )
    return found


def mean(values: Any) -> float:
    return statistics.fmean(values)


def racing(seeds: int, steps: int) -> None:
    """Racing, beside what a plain smaller minibatch gives for fewer evaluations still."""
    compare_on_digits(
        {
            "all members on 250 examples": {},
            "racing": {"economy": Economy(racing=Racing())},
            "racing, tolerance=0.25": {"economy": Economy(racing=Racing(tolerance=0.25))},
            "control: 125 examples for all": {"minibatch": 125},
        },
        seeds,
        steps,
    )


TARGET = -0.15


def minibatch(seeds: int, steps: int) -> None:
    """Evaluations until the digits demo reaches a fitness: fixed minibatches, and one that follows the noise."""
    print(f"\ndigits demo: evaluations to a selection log-probability of {TARGET}, at most {steps} generations")
    print(f"{'':34}{'reached':>9}{'median evaluations':>20}{'of those that reached it: least, most':>40}")
    variants: dict[str, dict[str, Any]] = {
        "64 examples": {"minibatch": 64},
        "125 examples": {"minibatch": 125},
        "250 examples": {"minibatch": 250},
        "500 examples": {"minibatch": 500},
        "adaptive, at most 250": {"minibatch": 250, "economy": Economy(minibatch=AdaptiveMinibatch())},
        "the same, racing": {"minibatch": 250, "economy": Economy(minibatch=AdaptiveMinibatch(), racing=Racing())},
    }
    for name, arguments in variants.items():
        runs = [asyncio.run(digits(seed, steps, target=TARGET, validate_every=5, **arguments)) for seed in range(seeds)]
        reached = sorted(run.evaluations for run in runs if run.fitness >= TARGET)
        counts = reached + [math.inf] * (len(runs) - len(reached))
        span = f"{reached[0]:,} {reached[-1]:,}" if reached else "-"
        print(f"{name:34}{len(reached):>6}/{len(runs)}{statistics.median(counts):20,.0f}{span:>40}", flush=True)


@dataclass(frozen=True)
class Groups:
    """One relevant group of parameters, and others of one kind.

    ``"noisy"``: they shake fitness without any slope; ``"idle"``: they do nothing; ``"relevant"``: all matter alike.
    """

    kind: str
    others: int = 4
    size: int = 4
    target: float = -0.1

    def evaluations_to_target(self, focus: Focus | None, seed: int, generations: int = 400) -> float:
        """Evaluations until the centre's own distance is below the target."""
        names = ["relevant.w", *(f"other{i}.w" for i in range(self.others))]
        generator = torch.Generator().manual_seed(seed)
        goal = {name: torch.randn(self.size, generator=generator) for name in names}
        phase = {name: 6 * torch.rand(self.size, generator=generator) for name in names}
        aimed = names if self.kind == "relevant" else names[:1]

        def distance(at: Mapping[str, Tensor]) -> Tensor:
            return torch.stack([(at[name] - goal[name]).square().sum(-1) for name in aimed]).mean(0)

        def fitness(at: Mapping[str, Tensor]) -> Tensor:
            shaken = [0.5 * torch.sin(200 * at[name] + phase[name]).sum(-1) for name in names[1:]]
            return -distance(at) + (torch.stack(shaken).sum(0) if self.kind == "noisy" else 0.0)

        start = {name: torch.zeros(self.size) for name in names}
        group = ParameterGroup.of(start)
        optimizer = ESHybridSystemOptimizer(pop_size=32, sigma=0.1, lr=0.05, strategy="openai-es")
        strategy = build_strategy(optimizer, group, focus)
        state = strategy.init(group, start, seed)
        for generation in range(generations):
            if -float(distance(strategy.mean(state))) >= self.target:
                return generation * strategy.population_size
            blocks = (strategy.ask(state, block) for block in strategy.blocks())
            found = [
                fitness({n: torch.stack([v.dense(i) for i in range(v.size)]) for n, v in block.items()})
                for block in blocks
            ]
            state = strategy.tell(state, torch.cat(found).double())
        return math.inf


def focus(seeds: int, steps: int) -> None:
    """Evaluations to a target where one group of five matters, and where all do."""
    del steps
    print(f"\none relevant group of parameters and four others; evaluations to the target, median of {2 * seeds} seeds")
    print(f"{'the others':12}{'plain':>9}{'reached':>9}{'focus':>9}{'reached':>9}{'saved':>8}{'better, worse':>16}")
    for groups in (Groups("noisy", target=-0.02), Groups("idle"), Groups("relevant")):
        plain, focused = (
            [groups.evaluations_to_target(options, seed) for seed in range(2 * seeds)] for options in (None, Focus())
        )
        line = f"{groups.kind:12}"
        for counts in (plain, focused):
            line += f"{statistics.median(counts):9,.0f}{sum(map(math.isfinite, counts)):6}/{len(counts)}"
        better = sum(f < p for p, f in zip(plain, focused, strict=True))
        worse = sum(f > p for p, f in zip(plain, focused, strict=True))
        saved = 1 - statistics.median(focused) / statistics.median(plain)
        print(f"{line}{saved:8.0%}{better:>9} {worse:>6}", flush=True)


def concurrency(seeds: int, steps: int) -> None:
    """Calls at once: fixed numbers, and one that follows the measured throughput, in virtual time."""
    del steps
    calls = 3000
    print(
        f"\n{calls} calls of 1 s on average (exponential) to a server that serves 24 at once unhindered, virtual "
        f"time;\nmedian of {2 * seeds} seeds [least, most], and the median of a call's time"
    )
    print(f"{'':12}{'throughput stays beyond':>34}{'throughput falls':>34}")

    def measure(size: int | MeasuredConcurrency, overload: float, seed: int) -> tuple[float, float]:
        draws = random.Random(seed)
        lengths = [draws.expovariate(1.0) for _ in range(calls)]
        server = Server(24, overload=overload, seconds=lengths.__getitem__)

        async def everything() -> float:
            async for _ in batch(server.call, range(calls), concurrency=size, order="completion"):
                pass
            return asyncio.get_running_loop().time()

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(everything()), statistics.median(server.latencies)

    for name, size in (*((str(n), n) for n in (4, 16, 64, 256)), ("measured", MeasuredConcurrency())):
        line = f"{name:12}"
        for overload in (1.0, 1.5):
            total, each = zip(*(measure(size, overload, seed) for seed in range(2 * seeds)), strict=True)
            line += f"{statistics.median(total):14.0f} s [{min(total):.0f}, {max(total):.0f}]"
            line += f" {statistics.median(each):6.2f} s"
        print(line, flush=True)


PARTS: dict[str, Callable[[int, int], None]] = {
    "racing": racing,
    "minibatch": minibatch,
    "focus": focus,
    "concurrency": concurrency,
    "pace": print_pace,
    "kernels": print_kernels,
    "bits": print_bits,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part named {', '.join(unknown)}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    for name in given.parts or PARTS:
        PARTS[name](given.seeds, given.steps)


if __name__ == "__main__":
    main()
