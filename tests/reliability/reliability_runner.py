"""The programs that are killed, and a process that has imported everything and forks the ones to be killed: a hundred
imports of torch would take minutes.

``python reliability_runner.py URL`` reads one order per line, as JSON: ``program``, ``seed``, ``steps``, ``path`` of
the journal, and ``kill``: null, or (events, spins). It prints the events of the run, then ``dead`` with the exit code.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any

import torch

from hyperfunc import Budget, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc_llm import Endpoint, LLMRuntime, llm_completion, use_runtime
from hyperfunc_prompts import PromptLearningOptimizer

RULES = ("brief", "kind", "exact")


async def ask(text: str) -> str:
    """The server's echo; events before and after."""
    print("call", flush=True)
    endpoint = Endpoint(base_url=sys.argv[1], transport="direct")
    reply = await llm_completion("openai/loopback", text, temperature=0.0, endpoint=endpoint)
    print("reply", flush=True)
    return str(reply.content)


@hyperfunction(hp_type=LoRAWeight.create(2, 3, 1), optimize_hparams=True)
async def choose(x, hp):
    return hp.weight @ x


class Asking(HyperSystem):
    """Tensors decide what a model is asked."""

    async def run(self, x, word):
        scores = await choose(x)
        reply = await ask(f"{word} {int((scores[0] * 8).round())}")
        return float(scores[1]) + len(reply) / 10


@hyperfunction(optimize_prompt=True)
async def phrase(word, level, *, prompt):
    """Answer."""
    return await ask(f"{prompt} {word} {level}")


class Phrasing(HyperSystem):
    """Tensors and a prompt decide what a model is asked; each rule that the reply follows counts."""

    async def run(self, x, word):
        scores = await choose(x)
        reply = await phrase(word, int(scores[0].round()))
        return float(scores[1]) + sum(rule in reply for rule in RULES)


def examples(seed: int, count: int, expected: float) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    return [Example({"x": torch.randn(3, generator=generator), "word": f"word{i}"}, expected) for i in range(count)]


async def optimize(program: str, seed: int, steps: int, path: str, budget: Budget) -> Any:
    tensors = ESHybridSystemOptimizer(pop_size=8 if program == "tensors" else 4, sigma=0.3, lr=0.1)
    common: dict[str, Any] = {"seed": seed, "steps": steps, "run": "r", "journal": path, "resume": True}
    common["budget"] = budget
    common["only"] = "choose"  # not the model's own parameters: each prompt is then one request
    common["callbacks"] = [lambda view: print("generation", flush=True)]
    if program == "tensors":
        data = examples(seed, 4, 3.0)
        system: HyperSystem = Asking(system_optimizer=tensors)
        return await system.optimize(data[:3], "numeric-distance", data[3:], minibatch=2, **common)
    # Far out of reach, so that every rule brings every answer nearer; enough examples for the acceptance test.
    data = examples(seed, 20, 40.0)
    prompts = PromptLearningOptimizer("writer", max_iterations=3, validation=data[8:], minibatch=4)
    system = Phrasing(system_optimizer=tensors, prompt_optimizer=prompts)
    with use_runtime(LLMRuntime({"writer": Endpoint(model="openai/writer", base_url=sys.argv[1], transport="direct")})):
        return await system.optimize(data[:8], "numeric-distance", minibatch=2, **common)


async def main(program: str, seed: int, steps: int, path: str) -> None:
    budget = Budget(calls=1000, evaluations=2000)  # what a step has used of it decides what the next one is made of
    result = await optimize(program, seed, steps, path, budget)
    told: list[Any] = [result.theta.content_hash, result.finish_reason, len(result.history), dict(result.theta.texts)]
    spent = [result.usage.calls, result.usage.total_tokens, budget.spent.calls, budget.spent.evaluations]
    print("result", json.dumps([*told, [g.kind for g in result.history], spent]), flush=True)


class Deadly:
    """Standard output that kills its process: the program itself must be the same in every process."""

    def __init__(self, stream: Any, after: int, spins: int) -> None:
        self.stream, self.after, self.spins = stream, after, spins

    def write(self, text: str) -> None:
        self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()
        self.after -= 1
        if self.after == 0:
            threading.Thread(target=self.kill).start()

    def kill(self) -> None:
        for _ in range(self.spins):
            pass
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            order = json.loads(line)
            after_and_spins = order.pop("kill")
            if after_and_spins is not None:
                sys.stdout = Deadly(sys.stdout, *after_and_spins)
            try:
                asyncio.run(main(**order))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        # On a line of its own, even if death came in the middle of one.
        print("\ndead", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
