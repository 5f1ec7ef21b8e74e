"""The help desk: two prompts, one after the other, and the tickets. Knows nothing of how it is trained."""

from __future__ import annotations

import random
from typing import Literal

from demos.prompt_tuning.model import KINDS
from hyperfunc import Example, HyperSystem
from hyperfunc_prompts import InputField, Oracle, OutputField, Predict, Prediction, Signature

__all__ = ["HelpDesk", "oracles", "tickets"]


class Extract(Signature):
    """Say what the ticket is about."""

    ticket: str = InputField("as the customer wrote it")
    kind: Literal["broken", "lost", "unpaid", "rude", "other"] = OutputField()


class Decide(Signature):
    """Say what is to be done."""

    kind: str = InputField("what the ticket is about")
    action: Literal["replace", "trace", "remind", "escalate", "answer"] = OutputField()


extract = Predict(Extract, "extract", name="extract")
decide = Predict(Decide, "decide", name="decide")


class HelpDesk(HyperSystem):
    """A ticket in, what is to be done out."""

    async def run(self, ticket: str) -> str:
        kind = (await extract(ticket=ticket)).kind
        return str((await decide(kind=kind)).action)


def tickets(count: int, seed: int) -> list[Example]:
    """Tickets with what the house wants done."""
    generator = random.Random(f"tickets/{seed}")
    made = []
    for number in range(count):
        kind = generator.choice([*KINDS, "other"])
        text = f"Ticket {seed}-{number}: {'a question' if kind == 'other' else f'it is {kind}'}, please help."
        made.append(Example({"ticket": text}, KINDS.get(kind, "answer")))
    return made


def oracles() -> dict[str, Oracle]:
    """The right outputs of both components, for tickets whose answer is known."""

    def right_kind(example: Example, inputs: object) -> Prediction:
        return Prediction({"kind": next((kind for kind in KINDS if kind in example.inputs["ticket"]), "other")})

    def right_action(example: Example, inputs: object) -> Prediction:
        return Prediction({"action": example.expected})

    return {"extract": right_kind, "decide": right_action}
