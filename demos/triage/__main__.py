"""``python -m demos.triage``: learn a prompt and weights in one run, show what changed, save both curves."""

from __future__ import annotations

import argparse
import asyncio
import math
from pathlib import Path

from demos.triage.model import answer
from demos.triage.program import Closeness, Triage, tickets
from hyperfunc import Budget, ESHybridSystemOptimizer, OptimizeResult
from hyperfunc.testing.llm_server import LLMServer
from hyperfunc_llm import Endpoint, Endpoints
from hyperfunc_prompts import PromptLearningOptimizer

_BARS = "▁▂▃▄▅▆▇█"


def curve(result: OptimizeResult, kind: str, width: int = 60) -> str:
    """Fitness on the validation tickets after each step of ``kind``, as a line of bars."""
    values = [g.center for g in result.history if g.kind == kind and not math.isnan(g.center)]
    values = values[:: max(1, math.ceil(len(values) / width))]
    low, high = result.initial_fitness, max(result.best_fitness, result.initial_fitness + 1e-9)
    places = [(min(max(value, low), high) - low) / (high - low) for value in values]
    return "".join(_BARS[round(place * (len(_BARS) - 1))] for place in places)


async def learn(system: Triage, schedule: str, seed: int) -> OptimizeResult:
    """One run over both kinds of parameters, within a ceiling of requests."""
    return await system.optimize(
        tickets(60, seed=2 * seed),
        Closeness(),
        tickets(60, seed=2 * seed + 1),
        minibatch=30,
        schedule=schedule,
        seed=seed,
        budget=Budget(calls=3000),
    )


def endpoints(address: str, models: dict[str, str | None]) -> Endpoints:
    """Every alias as the model that was given for it, or as the stand-in at ``address``."""
    made = {}
    for alias, model in models.items():
        stand_in = Endpoint(model=f"openai/{alias}", base_url=address, transport="direct")
        made[alias] = stand_in if model is None else Endpoint(model=model)
    return Endpoints(made)


async def main(steps: int, seed: int, schedule: str, out: Path, models: dict[str, str | None]) -> OptimizeResult:
    """Learn, print, save."""
    async with LLMServer(answer=answer) as server:
        system = Triage(
            seed=seed,
            system_optimizer=ESHybridSystemOptimizer(steps=steps, pop_size=32, sigma=0.1, lr=0.1),
            prompt_optimizer=PromptLearningOptimizer("writer", max_iterations=8, perfect_score=0.95, minibatch=20),
        )
        with endpoints(server.base_url, models):
            result = await learn(system, schedule, seed)
            test = await system.evaluate(tickets(200, seed=1000 + seed), Closeness())
    print(result)
    print(f"weights  {curve(result, 'tensors')}")
    print(f"prompt   {curve(result, 'texts')}")
    accepted = sum(g.accepted for g in result.history)
    print(f"{accepted} of {sum(g.kind == 'texts' for g in result.history)} proposals accepted; what changed:\n")
    print(result.diff())
    result.history.plot(out / "fitness.png", title="triage", ylabel="closeness of the urgency")
    folder = result.export(out / "export")
    print(f"\n{result.usage.calls} requests for {result.evaluations} runs; saved {out / 'fitness.png'}, {folder}")
    print(f"closeness on unseen tickets: {test:.3f}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn a prompt and weights of one system together.")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", default="joint")
    parser.add_argument("--out", type=Path, default=Path("out/triage"))
    parser.add_argument("--reader", help="a real model for reading tickets, such as openai/gpt-4o-mini")
    parser.add_argument("--writer", help="a real model for writing prompts")
    a = parser.parse_args()
    asyncio.run(main(a.steps, a.seed, a.schedule, a.out, {"reader": a.reader, "writer": a.writer}))
