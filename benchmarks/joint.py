"""Tensors and texts in one run, against one after the other, at equal cost.

A world is a reader with a prompt in front of a linear map. The prompt's rules take noise off the reader's features.

*Coupled*: what a rule is worth depends on the weights (a feature that is ignored may as well be right), and what the
weights should be depends on the rules (noisy features deserve smaller ones). *Uncoupled*: the score is the mean of two
tasks that share nothing, one for the prompt and one for the weights.

Everything runs in this process, and the proposer adds a rule that it was not told to have tried. What these worlds can
show: whether the shares go where they are of use. What they cannot: how good proposals are (see benchmarks/prompts).
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfunc import Budget, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, ScoreResult, hyperfunction
from hyperfunc.optimization.schedule import SCHEDULES
from hyperfunc_prompts import PromptLearningOptimizer, Reply

RULES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
FAMILIES = ("coupled", "uncoupled")
_NOISE = 2.0  # of a feature whose rule is not in the prompt, in units of the feature


@hyperfunction(optimize_prompt=True)
async def read(x: Tensor, noise: Tensor, *, prompt: str) -> Tensor:
    """Read the features."""
    told = torch.tensor([float(rule in prompt) for rule in RULES])
    return x + (1 - told) * _NOISE * noise


@hyperfunction(hp_type=LoRAWeight.create(1, len(RULES), 1), optimize_hparams=True)
async def weigh(features: Tensor, hp: LoRAWeight) -> Tensor:
    """One number."""
    return (hp.weight @ features).squeeze(-1)


class Coupled(HyperSystem):
    """The weights see what the prompt lets through."""

    async def run(self, x: Tensor, noise: Tensor, right: Tensor) -> Tensor:
        return await weigh(await read(x, noise))


class Uncoupled(HyperSystem):
    """Two answers: one by the prompt alone, one by the weights alone."""

    async def run(self, x: Tensor, noise: Tensor, right: Tensor) -> Tensor:
        features = await read(x, noise)
        by_prompt = (features * right).sum(-1)
        return torch.stack([by_prompt, await weigh(x)])


class Closeness:
    """1 / (1 + squared error), of each number that came out; the mean over them."""

    def score(self, output: Tensor, expected: float, inputs: Any = None) -> ScoreResult:
        error = (torch.atleast_1d(output) - expected) ** 2
        return ScoreResult(float((1 / (1 + error)).mean()))


def examples(seed: int, part: str, count: int) -> list[Example]:
    """Examples of world ``seed``; the map to be found is the same in every part."""
    world = torch.Generator().manual_seed(seed)
    right = torch.randn(len(RULES), generator=world)
    right = right + right.sign() * 0.3
    draw = torch.Generator().manual_seed(hash((seed, len(part), count)) % 2**31)
    made = []
    for number in range(count):
        x, noise = torch.randn(2, len(RULES), generator=draw)
        made.append(Example({"x": x, "noise": noise, "right": right}, float(x @ right), id=f"{part}-{seed}-{number}"))
    return made


class Proposer:
    """Adds a rule at random that the prompt does not have."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    async def __call__(self, messages: list[dict[str, Any]]) -> Reply:
        found = re.search(r"<current_text>\n(.*?)\n</current_text>", messages[1]["content"], re.DOTALL)
        current = found.group(1) if found is not None else ""
        missing = [rule for rule in RULES if rule not in current]
        return Reply(f"<new_text>{current} Mind {self._draw.choice(missing or RULES)}.</new_text>")


async def final_score(family: str, seed: int, schedule: str, evaluations: int) -> float:
    """Score on unseen examples after ``evaluations`` runs of the program."""
    kind = Coupled if family == "coupled" else Uncoupled
    system = kind(
        seed=seed,
        system_optimizer=ESHybridSystemOptimizer(steps=10_000, pop_size=16, sigma=0.2, lr=0.2),
        prompt_optimizer=PromptLearningOptimizer(
            Proposer(seed), max_iterations=200, minibatch=20, false_accept_rate=0.5, perfect_score=1.0
        ),
    )
    await system.optimize(
        examples(seed, "train", 60),
        Closeness(),
        examples(seed, "validation", 40),
        minibatch=10,
        seed=seed,
        schedule=schedule,
        budget=Budget(evaluations=evaluations),
    )
    return await system.evaluate(examples(seed, "test", 400), Closeness())


async def compare(family: str, worlds: int, evaluations: int) -> dict[str, list[float]]:
    """Final scores by schedule, one per world."""
    scores: dict[str, list[float]] = {schedule: [] for schedule in SCHEDULES}
    for seed in range(worlds):
        for schedule, found in scores.items():
            found.append(await final_score(family, seed, schedule, evaluations))
    return scores


def main(families: Sequence[str] = FAMILIES, worlds: int = 20, evaluations: int = 12_000) -> None:
    """Print medians, and in how many worlds joint is at least as good."""
    for family in families:
        scores = asyncio.run(compare(family, worlds, evaluations))
        print(f"{family}: {worlds} worlds, {evaluations} runs of the program each; score on unseen examples")
        for schedule, found in scores.items():
            low, middle, high = statistics.quantiles(found, n=4)
            wins = sum(a >= b for a, b in zip(scores["joint"], found, strict=True))
            ratio = statistics.median(a / b for a, b in zip(scores["joint"], found, strict=True))
            print(
                f"  {schedule:20} median {middle:.3f} (quartiles {low:.3f} to {high:.3f}); "
                f"joint is {ratio:.3f} of it in the median, at least as good in {wins} of {worlds}"
            )


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=12_000)
    arguments = parser.parse_args()
    main(arguments.family or FAMILIES, arguments.worlds, arguments.evaluations)
