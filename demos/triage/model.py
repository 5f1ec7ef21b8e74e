"""The stand-in for a language model: it reads tickets as literally as its prompt lets it, and rewrites prompts.

It runs on loopback behind the OpenAI protocol, so that the demo needs no key. With ``--reader`` and ``--writer`` real
models take its place; nothing in the program knows the difference.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

__all__ = ["answer"]

_TICKET = re.compile(r"Order \d+, (\d+) (EUR|USD): I have been waiting for (\d+) (days|weeks)\. (.*)")
_RULES = {  # a word of the reviewer's notes -> the rule that it teaches
    "days": "State the waiting time in days.",
    "euros": "State amounts in euros; a dollar is 0.9 euros.",
    "shouting": "Anger is 1 where the customer is shouting and 0 where the tone is calm.",
}


def answer(model: str, messages: list[dict[str, Any]]) -> str:
    """The reply of ``reader`` or ``writer``."""
    text = "\n".join(str(message["content"]) for message in messages)
    return _write(text) if "writer" in model else _read(text)


def _read(text: str) -> str:
    found = _TICKET.search(text)
    if found is None:
        return "{}"
    amount, currency, length, unit, tone = found.groups()
    waiting, worth, anger = float(length), float(amount), 0.5
    if _RULES["days"] in text and unit == "weeks":
        waiting *= 7
    if _RULES["euros"] in text and currency == "USD":
        worth *= 0.9
    if _RULES["shouting"] in text:
        anger = float(tone.isupper())
    return json.dumps({"waiting": waiting, "amount": worth, "anger": anger})


def _write(text: str) -> str:
    """Adds the rule for what the notes complain about most and the prompt does not say yet."""
    shown = re.search(r"<current_text>\n(.*?)\n</current_text>", text, re.DOTALL)
    current = shown.group(1) if shown is not None else ""
    notes = "\n".join(re.findall(r"<feedback[^>]*>\n(.*?)\n</feedback>", text, re.DOTALL))
    counts = Counter({word: notes.count(word) for word, rule in _RULES.items() if rule not in current})
    lesson = [_RULES[word] for word, count in counts.most_common(1) if count]
    return f"<new_text>{' '.join([current, *lesson])}</new_text>"
