"""``python -m demos.prompt_tuning``: find out which prompt fails, improve it, and show what changed."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

from demos.prompt_tuning.model import Provider, running
from demos.prompt_tuning.program import HelpDesk, oracles, tickets
from hyperfunc import Budget
from hyperfunc.calls import MemoryCallStore
from hyperfunc.evaluation import ExactMatch
from hyperfunc.scope import enter_scope
from hyperfunc_llm import Endpoint, LLMRuntime, use_runtime
from hyperfunc_prompts import Blame, BlameDriven, PromptSearchResult, ReflectivePareto, assign_blame


@dataclass(frozen=True)
class Tuned:
    """What the demo found.

    Attributes:
        blame: who is to blame before.
        result: of the optimizer.
        before, after: score on tickets that nothing was learned from, in [0, 1].
    """

    blame: Blame
    result: PromptSearchResult
    before: float
    after: float


async def tune(provider: Provider, seed: int = 0) -> Tuned:
    """Improve the help desk: at most 12 proposals and 3 000 calls, each paid once."""
    aliases = ("extract", "decide", "reflect")
    endpoints = {
        name: Endpoint(model=f"openai/{name}", base_url=provider.base_url, transport="direct") for name in aliases
    }
    desk, train, validation, test = HelpDesk(), *(tickets(n, 3 * seed + k) for k, n in enumerate((60, 60, 100)))
    async with LLMRuntime(endpoints) as runtime:
        with use_runtime(runtime), enter_scope(store=MemoryCallStore(), budget=Budget(calls=3000)):
            before = await desk.evaluate(test, ExactMatch())
            blame = await assign_blame(desk, train, ExactMatch(), oracles(), seed=seed)
            optimizer = ReflectivePareto(
                "reflect",
                max_iterations=12,
                minibatch=6,
                validation=validation,
                component_choice=BlameDriven(oracles()),
                seed=seed,
            )
            result = await optimizer.optimize(desk, train, ExactMatch())
            after = await desk.evaluate(test, ExactMatch())
    return Tuned(blame, result, before, after)


def curve(result: PromptSearchResult) -> str:
    """A line per candidate that came as far as the validation tickets: its score there, and what became of it."""
    tested = [candidate for candidate in result.pool if "validation" in candidate.evidence]
    scores = [(result.pool.seed, tested[0].evidence["validation"]["mean_a"])] if tested else []
    scores += [(candidate, candidate.evidence["validation"]["mean_b"]) for candidate in tested]
    lines = [f"  {c.id:3d}  {score:4.2f} {'#' * round(40 * score):40s} {c.verdict}" for c, score in scores]
    return "\n".join(lines)


async def main(seed: int) -> None:
    with running() as provider:
        tuned = await tune(provider, seed)
    result = tuned.result
    print(f"who fails?\n{tuned.blame}\n")
    print(f"candidates on the validation tickets:\n{curve(result)}\n")
    print(f"accepted:\n{result.diff()}\n")
    print(f"on new tickets: {tuned.before:.2f} -> {tuned.after:.2f}, after {sum(provider.requests.values())} requests")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Improve a prompt against a deterministic model on loopback.")
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(main(parser.parse_args().seed))
