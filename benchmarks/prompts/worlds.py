"""The simulated worlds: what a task model does under a system text, and what a reflecting model makes of feedback.

Everything is a pure function of the world's name and the texts received; no framework is known here. A world has rules,
each with a topic, a cue of two words that must stand in one sentence of the system text, and a symptom. Feedback names
symptoms, never cues.

* ``additive``: an example's score is the share of its topics that are right.
* ``plateau``: all of an example's three topics must be right, else 0; feedback names only the first symptom.
* ``no-headroom``: the seed text is right 7 times in 10, and every other text is worse by 0 to 0.15.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

__all__ = ["FAMILIES", "SEED_TEXT", "Row", "World"]

FAMILIES = ("additive", "no-headroom", "plateau")
SEED_TEXT = "Answer the request."
_TOPICS = ("dates", "names", "prices", "units", "lists", "quotes", "places", "times")
_CUES = ("iso", "surname", "currency", "metric", "sorted", "verbatim", "country", "timezone")
_SYMPTOMS = ("calendar", "person", "amount", "measure", "order", "wording", "location", "clock")
_DISTRACTORS = ("Be polite.", "Think about the reader.", "Prefer short words.", "Do not mention these instructions.")


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


@dataclass(frozen=True)
class Row:
    """One example: the request, and the topics that it triggers."""

    request: str
    topics: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """One world; ``family`` is one of :data:`FAMILIES`, ``seed`` any integer."""

    family: str
    seed: int

    def rows(self, count: int, part: str) -> list[Row]:
        """``count`` examples of a part of the data (``train``, ``validation``, ``test``)."""
        rows = []
        for index in range(count):
            size = 3 if self.family == "plateau" else 1 + int(3 * uniform(self, part, index, "size"))
            topics = tuple(sorted(_TOPICS, key=lambda topic: uniform(self, part, index, topic))[:size])
            rows.append(Row(f"Request {part}-{index} about {', '.join(topics)}", topics))
        return rows

    def answer(self, system_text: str, request: str) -> str:
        """The task model: topic by topic, ``right`` or ``wrong``."""
        topics = request.partition(" about ")[2].split(", ")
        if self.family == "no-headroom":
            chance = 0.7 if system_text == SEED_TEXT else 0.7 - 0.15 * uniform(self, system_text)
            right = uniform(self, system_text, request) < chance
            return "; ".join(f"{topic} {'right' if right else 'wrong'}" for topic in topics)
        sentences = re.split(r"[.\n]", system_text.lower())
        slip = 0.01 + len(system_text) / 20_000
        parts = []
        for topic in topics:
            cue = _CUES[_TOPICS.index(topic)]
            known = any(topic in sentence and cue in sentence for sentence in sentences)
            slipped = uniform(self, system_text, request, topic) < slip
            parts.append(f"{topic} {'right' if known and not slipped else 'wrong'}")
        return "; ".join(parts)

    def score(self, row: Row, answer: str) -> tuple[float, str]:
        """Score in [0, 1] and what a user would say about the answer."""
        wrong = [topic for topic in row.topics if f"{topic} right" not in answer]
        symptoms = [_SYMPTOMS[_TOPICS.index(topic)] for topic in wrong]
        if self.family == "additive":
            return 1 - len(wrong) / len(row.topics), "; ".join(f"the {s} part is not usable" for s in symptoms)
        return float(not wrong), f"the {symptoms[0]} part is not usable" if symptoms else ""

    def expected_score(self, system_text: str, count: int = 200) -> float:
        """Mean score on ``count`` test examples, computed here and not paid for."""
        rows = self.rows(count, "test")
        return sum(self.score(row, self.answer(system_text, row.request))[0] for row in rows) / count

    def reflect(self, body: str) -> str:
        """The reflecting model: a new text, made from nothing but the request's ``body``.

        A symptom named n times gives its rule away with probability 1 - 0.6ⁿ, at most three rules at a time; one old
        sentence in ten is lost, one reply in five gains a distractor.
        """
        current = self._current_text(body)
        sentences = [s.strip() for s in current.split("\n") if s.strip()]
        kept = [sentences[0], *(s for s in sentences[1:] if uniform(self, body, s, "lost") >= 0.1)]
        found = []
        for topic, cue, symptom in zip(_TOPICS, _CUES, _SYMPTOMS, strict=True):
            count = body.count(f"the {symptom} part")
            if count and uniform(self, body, symptom) < 1 - 0.6**count:
                found.append((-count, f"For {topic}, use {cue} form."))
        new = [sentence for _, sentence in sorted(found)[:3] if sentence not in kept]
        if uniform(self, body, "distract") < 0.2:
            new.append(_DISTRACTORS[int(len(_DISTRACTORS) * uniform(self, body, "which"))])
        text = "\n".join([*kept, *new])
        return f"<new_text>\n{text}\n</new_text>" if "<new_text>" in body else f"```\n{text}\n```"

    @staticmethod
    def _current_text(body: str) -> str:
        tagged = re.search(r"<current_text>\n(.*?)\n</current_text>", body, re.DOTALL)
        fenced = re.search(r"```\w*\n(.*?)\n```", body, re.DOTALL)
        found = tagged or fenced
        return found.group(1) if found else SEED_TEXT
