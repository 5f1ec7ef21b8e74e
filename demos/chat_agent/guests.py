"""The simulated guests: each has a goal (the drink), a persona and a seed, and reacts to what the barista says."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from demos.chat_agent.phrases import DRINKS, PHRASES, SMALL_TALK, intent_of
from hyperfunc import Example
from hyperfunc.evaluation import ScoreResult
from hyperfunc_agents import ConversationResult
from hyperfunc_memory import Memory, MemoryEntry, MemoryType

__all__ = ["Guest", "Service", "guest_examples", "remember_regulars", "served"]

_PATIENCE = {"chatty": 1, "terse": 1, "impatient": 0}  # wrong drinks before a guest leaves
MOST_TURNS = 7


class Guest:
    """A simulated user: greets, tells the drink (a new guest), asks something, asks for a drink, says thanks.

    A guest who is offered another drink complains and asks again, and leaves when that happens too often.

    Args:
        new_phrases: speak in the phrasings that no training guest uses.
    """

    def __init__(self, *, new_phrases: bool = False) -> None:
        self.new_phrases = new_phrases

    def __call__(
        self, history: Sequence[Mapping[str, str]], *, goal: str, persona: str, seed: int, turn: int
    ) -> str | None:
        """The next message; ``None`` when this guest leaves."""
        regular, manner = persona.startswith("regular"), persona.split()[-1]
        plan = _plan(regular, seed)
        stage, wrong = 0, 0
        for reply in history[1::2]:
            if plan[stage] == "order" and goal not in reply["content"]:
                wrong += 1
                if wrong > _PATIENCE[manner]:
                    return None
            else:
                stage += 1
            if stage == len(plan):
                return None
        intent = "complaint" if plan[stage] == "order" and wrong else plan[stage]
        choose = random.Random(f"{seed} {turn}")
        phrase = choose.choice(PHRASES[intent][self.new_phrases]).format(drink=goal)
        return choose.choice(SMALL_TALK[manner]) + phrase if turn else phrase


def _plan(regular: bool, seed: int) -> list[str]:
    """The intents of one visit, in order."""
    choose = random.Random(seed)
    middle = ["hours"] if regular else ["hours", "taste"]
    choose.shuffle(middle)
    return ["greeting", *middle, "order", "thanks"]


class Service:
    """Scores a visit: the mean over its turns; turns that were never reached count as wrong.

    A turn is worth 1 if the barista understood what the guest wanted, and an order 0.25 if the drink was another one.
    """

    def score(
        self, output: ConversationResult, expected: Mapping[str, int], inputs: Mapping[str, str] | None = None
    ) -> ScoreResult:
        """``expected`` is ``{"turns": …}``, the turns of a visit without a mistake; ``inputs`` name the drink."""
        drink = (inputs or {})["goal"]
        total, remarks = 0.0, []
        for number, (said, reply) in enumerate(zip(output.history[::2], output.history[1::2], strict=True)):
            wanted = intent_of(said.content)
            worth = float((reply.metadata or {}).get("intent") == wanted)
            if worth and wanted == "order" and drink not in reply.content:
                worth = 0.25
            if worth < 1.0:
                remarks.append(f"Turn {number + 1}: {reply.content!r} does not answer {said.content!r} ({drink})")
            total += worth
        turns = max(output.turns, expected["turns"])
        return ScoreResult(total / turns, "\n".join(remarks), {"served": served(output, drink)})


def served(output: ConversationResult, drink: str) -> bool:
    """Whether the guest was offered the drink that they like."""
    return any(reply.endswith(f"our {drink}.") for reply in output.replies)


def guest_examples(count: int, seed: int, *, new_phrases: bool = False) -> list[Example]:
    """``count`` visits. Every other guest is a regular, with a taste that :func:`remember_regulars` knows."""
    choose = random.Random(seed)
    guest = Guest(new_phrases=new_phrases)
    examples = []
    for number in range(count):
        drink = choose.choice(DRINKS)
        regular = number % 2 == 1
        persona = f"{'regular' if regular else 'new'} guest, {choose.choice([*SMALL_TALK])}"
        inputs = {
            "user": guest,
            "goal": drink,
            "persona": persona,
            "seed": choose.randrange(2**31),
            "max_turns": MOST_TURNS,
            "user_id": f"regular who likes {drink}" if regular else f"guest {number}",
        }
        examples.append(Example(inputs, {"turns": 4 if regular else 5}))
    return examples


def remember_regulars(memory: Memory) -> None:
    """What earlier visits have left in the memory."""
    memory.add_many(
        [
            MemoryEntry(
                content=f"User's favourite drink is {drink}",
                memory_type=MemoryType.PREFERENCE,
                subject="favourite drink",
                user_id=f"regular who likes {drink}",
            )
            for drink in DRINKS
        ]
    )
