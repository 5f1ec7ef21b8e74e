"""``python -m demos.chat_agent``: train the barista, print the curve, test it on new guests, show two visits."""

from __future__ import annotations

import argparse
import asyncio
import time

from demos.chat_agent.barista import Report, examine, open_barista, train
from hyperfunc.optimization.options import GenerationView
from hyperfunc_agents import Conversation


def report(view: GenerationView) -> None:
    """One line per generation."""
    generation = view.generation
    print(f"generation {generation.index + 1:3}  mean {generation.mean:6.3f}  best {generation.best:6.3f}")


async def main(seed: int, *, steps: int = 60) -> Report:
    """Train and test a barista."""
    barista = open_barista(seed)
    before = await examine(barista)
    started = time.perf_counter()
    result = await train(barista, seed, report, steps=steps)
    print(f"{result.execution}, {result.finish_reason}, {time.perf_counter() - started:.1f} s")
    after = await examine(barista)
    for name, found in (("before", before), ("after", after)):
        print(
            f"{name:6}: score {found.score:.2f} on new guests, {found.served:.0%} got their drink"
            f" ({found.served_without_memory:.0%} without memory)"
        )
    print(f"\nA new guest:\n\n{after.first}\n\nThe same person twice, with what the first visit left in the memory:\n")
    for visit in (["Hello!", "My favourite drink is lemonade."], ["Hello again!", "Which drink should I have?"]):
        conversation = Conversation(barista.run, memory=barista.memory, user_id="ann")
        for message in visit:
            print(f"Ann: {message}\nBarista: {(await conversation.say(message)).message}")
        print()
    return after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a chat agent that remembers, by evolution.")
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(main(parser.parse_args().seed))
