"""A user's program for the commands: a tensor, a paid model call by HTTP, and how it is optimized."""

from __future__ import annotations

import os

import torch

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc_llm import Endpoint, llm_completion


@hyperfunction(hp_type=LoRAWeight.create(2, 2, 1), optimize_hparams=True)
async def weigh(text, hp):
    numbers = torch.tensor([len(text) / 20, text.count("o") / 4])
    return (hp.weight @ numbers).sum()


class Reader(HyperSystem):
    async def run(self, question):
        endpoint = Endpoint(base_url=os.environ["CLI_PROGRAM_URL"], transport="direct")
        reply = await llm_completion("openai/loopback", question, temperature=0.0, endpoint=endpoint)
        return float(await weigh(reply.content))


def make_system(lr=0.1):
    return Reader(system_optimizer=ESHybridSystemOptimizer(pop_size=4, sigma=0.3, lr=lr))


@hyperfunction
async def greet(question):
    return f"[bold]{question}[/bold]"


class Greeter(HyperSystem):
    """Another program than the one that the runs are of."""

    async def run(self, question):
        return await greet(question)


TRAIN = [Example({"question": f"why {word}?"}, 5.0) for word in ("one", "two", "four")]


async def train(run, journal, steps=3, lr=0.1):
    return await make_system(lr).optimize(
        TRAIN, "numeric-distance", steps=steps, seed=3, run=run, journal=journal, resume=True, only="weigh"
    )


async def train_further(run, journal):
    await train(run, journal, steps=5)


async def forget_to_resume():
    return None


def not_a_coroutine():
    return None
