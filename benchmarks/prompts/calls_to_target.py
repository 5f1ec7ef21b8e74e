"""Calls to reach a test score, per world family and optimizer, counted by the provider.

    python -m benchmarks.prompts.calls_to_target --worlds 20

40 training and 20 validation examples; the test score (200 examples, target 0.9) is computed outside and never paid
for. What counts is the number of task and reflection calls at the moment when a text that reaches the target is
accepted. In ``no-headroom`` worlds nothing is better than the seed: there every acceptance is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.prompts.simulated import SimulatedProvider, running
from benchmarks.prompts.worlds import FAMILIES, SEED_TEXT, World
from hyperfunc.evaluation import Example, ScoreResult
from hyperfunc.hookspecs import hookimpl
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.system import HyperSystem
from hyperfunc_llm import Endpoint, LLMRuntime, make_llm_completion, use_runtime
from hyperfunc_prompts import PromptLearningOptimizer, ReflectivePareto

TARGET = 0.9

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "prompt-learning": lambda **given: PromptLearningOptimizer("reflect", max_iterations=8, **given),
    "reflective-pareto": lambda **given: ReflectivePareto("reflect", max_iterations=40, **given),
}


class WorldScorer:
    """The world's score and feedback."""

    def __init__(self, world: World) -> None:
        self.world = world

    def score(self, output: Any, expected: Any, inputs: Any = None) -> ScoreResult:
        return ScoreResult(*self.world.score(expected, output.content))


class Watch:
    """Notes each accepted text with the calls made until then."""

    def __init__(self, calls: Callable[[], int]) -> None:
        self.calls = calls
        self.accepted: list[tuple[int, str]] = []

    @hookimpl
    def hyperfunc_candidate_accepted(self, run: str, name: str, before: Any, after: Any, evidence: Any) -> None:
        self.accepted.append((self.calls(), after))


async def one_run(provider: SimulatedProvider, world: World, optimizer: str) -> tuple[int | None, int, bool]:
    """Calls to target (``None``: not reached), calls in all, and whether what was shipped is worse than the seed."""
    ask = make_llm_completion("task", system_prompt=SEED_TEXT, optimize_hparams=False, name="ask")

    class Program(HyperSystem):
        async def run(self, request: str) -> Any:
            return await ask(request)

    def examples(part: str, count: int) -> list[Example]:
        return [Example({"request": row.request}, row, id=row.request) for row in world.rows(count, part)]

    def endpoint(role: str) -> Endpoint:
        model = f"openai/{role}/{world.family}/{world.seed}"
        return Endpoint(model=model, base_url=f"{provider.url}/v1", transport="direct", concurrency=16)

    start = sum(provider.counts(world))
    watch = Watch(lambda: sum(provider.counts(world)) - start)
    runtime = LLMRuntime({"task": endpoint("task"), "reflect": endpoint("reflect")})
    async with runtime:
        with use_runtime(runtime), use_plugins(load_plugins([("watch", watch)])):
            learner = OPTIMIZERS[optimizer](validation=examples("validation", 20), seed=world.seed)
            result = await learner.optimize(Program(), examples("train", 40), WorldScorer(world))
    reached = next((calls for calls, text in watch.accepted if world.expected_score(text) >= TARGET), None)
    shipped = str(result.best.texts["ask.prompt"])
    worse = world.expected_score(shipped, 2000) < world.expected_score(SEED_TEXT, 2000)
    return reached, sum(provider.counts(world)) - start, worse


async def main(worlds: int, first: int) -> None:
    """Run everything and print a table."""
    print(f"{'family':<12} {'optimizer':<18} {'reached':>8} {'median':>7} {'IQR':>11} {'all calls':>10} {'worse':>6}")
    with running() as provider:
        for family in FAMILIES:
            for optimizer in OPTIMIZERS:
                rows = [
                    await one_run(provider, World(family, seed), optimizer) for seed in range(first, first + worlds)
                ]
                reached = sorted(calls for calls, _, _ in rows if calls is not None)
                quartiles = statistics.quantiles(reached, n=4) if len(reached) > 1 else None
                median = f"{statistics.median(reached):.0f}" if reached else "-"
                spread = f"{quartiles[0]:.0f}-{quartiles[2]:.0f}" if quartiles else "-"
                total = statistics.median(calls for _, calls, _ in rows)
                worse = sum(worse for _, _, worse in rows)
                print(
                    f"{family:<12} {optimizer:<18} {len(reached):>4}/{worlds:<3} {median:>7} {spread:>11} "
                    f"{total:>10.0f} {worse:>3}/{worlds}",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=20, help="worlds per family")
    parser.add_argument("--first", type=int, default=200, help="seed of the first; 0 to 199 are for development")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.worlds, arguments.first))
