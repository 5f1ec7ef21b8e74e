"""What each part of the learning scheduler saves.

    python -m benchmarks.scheduling                 # everything
    python -m benchmarks.scheduling racing          # the digits demo with and without racing
    python -m benchmarks.scheduling --seeds 2 --steps 50 racing

Counts of evaluations and fitness do not depend on the machine's load; seconds do.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from demos.digits.__main__ import load_examples
from demos.digits.pipeline import AnswerAccuracy, DigitPipeline, LogLikelihood
from hyperfunc import ESHybridSystemOptimizer
from hyperfunc.scheduling import AdaptiveMinibatch, Economy, Racing

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
    """Racing, beside what a plain smaller minibatch gives for as many evaluations."""
    compare_on_digits(
        {
            "all members on 250 examples": {},
            "racing": {"economy": Economy(racing=Racing())},
            "racing, survival=0.1": {"economy": Economy(racing=Racing(survival=0.1))},
            "control: 125 examples for all": {"minibatch": 125},
        },
        seeds,
        steps,
    )


def minibatch(seeds: int, steps: int) -> None:
    """Examples per generation that follow the noise, beside fixed numbers of them."""
    compare_on_digits(
        {
            "250 examples": {},
            "adaptive, noise 1": {"minibatch": None, "economy": Economy(minibatch=AdaptiveMinibatch(noise=1.0))},
            "adaptive, noise 0.7": {"minibatch": None, "economy": Economy(minibatch=AdaptiveMinibatch(noise=0.7))},
            "adaptive, noise 0.5": {"minibatch": None, "economy": Economy(minibatch=AdaptiveMinibatch(noise=0.5))},
        },
        seeds,
        steps,
    )


PARTS: dict[str, Callable[[int, int], None]] = {"racing": racing, "minibatch": minibatch}


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
