"""A compound system: a language model reads a ticket, a small linear model says how urgent it is.

The prompt (which units, what counts as anger) and the weights are both wrong at first, and neither is any good without
the other: they are learned together.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperfunc import Example, HyperSystem, LoRAWeight, ScoreResult, hyperfunction
from hyperfunc_prompts import InputField, OutputField, Predict, Signature

__all__ = ["Closeness", "Triage", "tickets"]


class ReadTicket(Signature):
    """Read the ticket and say what it says."""

    ticket: str = InputField("as the customer wrote it")
    waiting: float = OutputField("how long the customer has waited")
    amount: float = OutputField("what the order is worth")
    anger: float = OutputField("how angry the customer sounds")


read_ticket = Predict(ReadTicket, "reader", adapter="json")


@hyperfunction(hp_type=LoRAWeight.create(1, 4, 1), optimize_hparams=True)
async def urgency(features: Tensor, hp: LoRAWeight) -> Tensor:
    """``[4]`` features to one number."""
    return (hp.weight @ features).squeeze(-1)


class Triage(HyperSystem):
    """How urgent a ticket is: 0 can wait, 1 cannot."""

    async def run(self, ticket: str) -> Tensor:
        said = await read_ticket(ticket=ticket)
        features = torch.tensor([said.waiting / 30, said.amount / 100, said.anger, 1.0])
        return await urgency(features)


class Closeness:
    """1 at the right urgency, less by the distance; says what a reviewer wrote where it is off."""

    def score(self, output: Any, expected: Mapping[str, Any], inputs: Any = None) -> ScoreResult:
        distance = abs(float(output) - expected["urgency"])
        return ScoreResult(1.0 - min(1.0, distance), expected["note"] if distance > 0.05 else "")


_UNITS = {"days": 1.0, "weeks": 7.0}
_EUROS = {"EUR": 1.0, "USD": 0.9}
_TEMPERS = {"Please have a look.": 0.0, "WHERE IS IT? THIS IS A DISGRACE!": 1.0}


def tickets(count: int, seed: int = 0) -> list[Example]:
    """Tickets whose urgency follows from the waiting time in days, the amount in euros and the tone."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        unit, currency, temper = (draw.choice(list(table)) for table in (_UNITS, _EUROS, _TEMPERS))
        length, amount = draw.randint(1, 4 if unit == "weeks" else 28), draw.randint(5, 95)
        days, euros, anger = length * _UNITS[unit], amount * _EUROS[currency], _TEMPERS[temper]
        text = f"Order {1000 + number}, {amount} {currency}: I have been waiting for {length} {unit}. {temper}"
        notes = []
        if unit == "weeks":
            notes.append(f"{length} weeks are {days:g} days; waiting is meant in days")
        if currency == "USD":
            notes.append(f"{amount} USD are {euros:g} EUR; amounts are meant in euros, at 0.9 a dollar")
        if anger:
            notes.append("shouting is anger 1, a calm tone 0")
        expected = {"urgency": 0.4 * days / 30 + 0.2 * euros / 100 + 0.4 * anger, "note": "; ".join(notes)}
        made.append(Example({"ticket": text}, expected, id=f"ticket-{seed}-{number}"))
    return made
