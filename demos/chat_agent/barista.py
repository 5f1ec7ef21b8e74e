"""The barista: one linear layer over hashed words chooses what to say. And how it is trained."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from demos.chat_agent.guests import Service, guest_examples, remember_regulars, served
from demos.chat_agent.phrases import DRINKS, INTENTS, REPLIES
from hyperfunc import AgentType, ESHybridSystemOptimizer, HyperSystem, OptimizeResult, hyperfunction
from hyperfunc.optimization.options import Callback
from hyperfunc_agents import ChatResponse, ConversationResult
from hyperfunc_memory import Memory

__all__ = ["Barista", "Report", "examine", "features", "open_barista", "train"]

BUCKETS = 48  # of each bag of words
COMMON = frozenset(
    (
        "a",
        "and",
        "are",
        "at",
        "do",
        "for",
        "i",
        "is",
        "it",
        "me",
        "my",
        "of",
        "on",
        "s",
        "t",
        "the",
        "this",
        "to",
        "user",
        "what",
        "you",
        "your",
    )
)


FRAME = frozenset(("drink", "favourite", "memories", "preferred", "relevant"))  # words that every memory has


@cache
def features(text: str, ignored: frozenset[str] = COMMON) -> Tensor:
    """Which hashed words are in ``text``, ``ignored`` ones apart; shape ``[BUCKETS]``."""
    bag = torch.zeros(BUCKETS)
    for word in {*re.findall(r"[a-z]+", text.lower())} - ignored:
        bag[zlib.crc32(word.encode()) % BUCKETS] = 1.0
    return bag


class Barista(HyperSystem):
    """Two small classifiers: what the guest wants, from the message; which drink, from what is remembered.

    It sees the last message and what its memory found for it, nothing else: what a guest likes to drink reaches it
    through the memory alone.
    """

    agent_type = AgentType.CHAT

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.intent = hyperfunction(name="intent", optimize_hparams=True)(_open_to_all(len(INTENTS)))
        self.drink = hyperfunction(name="drink", optimize_hparams=True)(_open_to_all(len(DRINKS)))

    async def run(self, message: str, memory_context: str = "") -> ChatResponse:
        intent = INTENTS[int((await self.intent(features(message))).argmax())]
        reply = REPLIES[intent]
        if intent == "order":
            reply = reply.format(
                drink=DRINKS[int((await self.drink(features(memory_context, COMMON | FRAME))).argmax())]
            )
        return ChatResponse(reply, done=intent == "thanks", metadata={"intent": intent})


def _open_to_all(classes: int) -> nn.Module:
    classifier = nn.Linear(BUCKETS, classes)
    for weight in classifier.parameters():
        nn.init.zeros_(weight)
    return classifier


def open_barista(seed: int = 0) -> Barista:
    """A barista who knows nothing yet, with a memory of the regulars."""
    memory = Memory()
    remember_regulars(memory)
    return Barista(memory=memory, seed=seed)


async def train(
    barista: Barista, seed: int = 0, callback: Callback | None = None, *, steps: int = 60, guests: int = 8
) -> OptimizeResult:
    """Evolve both classifiers, on fresh guests in every generation."""
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return await barista.optimize_tensors(
            guest_examples(guests * steps, seed),
            Service(),
            guest_examples(20, seed + 1_000_000),
            optimizer=ESHybridSystemOptimizer(steps=steps, pop_size=32, sigma=1.0, strategy="snes"),
            minibatch=guests,
            seed=seed,
            validate_every=10,
            callbacks=[callback] if callback else [],
        )
    finally:
        torch.set_num_threads(found)


@dataclass(frozen=True)
class Report:
    """What guests who speak in new phrases made of the barista.

    Attributes:
        score: mean of :class:`~demos.chat_agent.guests.Service`, 0 to 1.
        served: share of the guests who were offered their drink, 0 to 1.
        served_without_memory: the same with the memory switched off.
        first: the first visit.
    """

    score: float
    served: float
    served_without_memory: float
    first: ConversationResult


async def examine(barista: Barista, guests: int = 40, seed: int = 7) -> Report:
    """Send guests whom no generation has met, with phrases that no training guest uses."""
    examples = guest_examples(guests, seed, new_phrases=True)
    visits = [await barista.execute(example.inputs) for example in examples]
    forgetful = [await barista.execute({**example.inputs, "use_memory": False}) for example in examples]
    scores = [Service().score(v, e.expected, e.inputs).score for v, e in zip(visits, examples, strict=True)]
    drinks = [example.inputs["goal"] for example in examples]
    return Report(
        sum(score for score in scores if score is not None) / guests,
        sum(map(served, visits, drinks)) / guests,
        sum(map(served, forgetful, drinks)) / guests,
        visits[0],
    )
