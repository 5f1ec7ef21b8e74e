"""The simulated worlds: examples, what a task model makes of them under given texts, and what a user says of that.

Everything is a pure function of the world's name and the texts received; no framework is known here, and no clock or
generator. FROZEN: docs/prompts.md holds this file's hash, and a test compares it. A world has eight topics. A topic is
right when a sentence of the text names the topic together with its cue; feedback names symptoms, never cues. Each right
topic is lost now and then, more often under long texts.

* ``additive``: an example's score is the share of its one to three topics that are right.
* ``plateau``: all of an example's three topics must be right, else 0; feedback names only the first symptom.
* ``deceptive``: three topics have a lure, a second cue that makes them right and spoils another topic in every second
  request; with more than one lure in the text the target is out of reach.
* ``conflicting``: requests are short or long, and three topics need another cue in each kind; of two sentences the
  later one holds, and only one sentence with both cues serves both kinds.
* ``coupled``: two components; half of the topics need their rule in both, and neither alone changes the score.
* ``decoy``: two components, and the text of the first does nothing.
* ``noisy``: as ``additive``, but each topic is judged wrongly with probability 0.15.
* ``faults``: as ``additive``; the provider fails now and then (see :mod:`benchmarks.prompts.simulated`).
* ``no-headroom``: the seed text is right 7 times in 10, and every other text is worse by 0 to 0.15.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

__all__ = [
    "CUES",
    "DISTRACTORS",
    "FAMILIES",
    "SECOND_CUES",
    "SYMPTOMS",
    "TOPICS",
    "Row",
    "World",
    "sentences_of",
    "uniform",
]

FAMILIES = (
    "additive",
    "plateau",
    "deceptive",
    "conflicting",
    "coupled",
    "decoy",
    "noisy",
    "faults",
    "no-headroom",
)
TOPICS = ("dates", "names", "prices", "units", "lists", "quotes", "places", "times")
CUES = ("iso", "surname", "currency", "metric", "sorted", "verbatim", "country", "timezone")
SECOND_CUES = ("spelled", "initials", "rounded", "customary", "grouped", "abridged", "region", "relative")
SYMPTOMS = ("calendar", "person", "amount", "measure", "order", "wording", "location", "clock")
DISTRACTORS = ("Be polite.", "Think about the reader.", "Prefer short words.", "Do not mention these instructions.")
_REQUEST = re.compile(r"(Request|Notes) (\S+) about ([a-z ,]+?)(?:, in (short|long))?\.")


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def sentences_of(text: str) -> list[str]:
    """The text's sentences, in lower case."""
    return [part.strip() for part in re.split(r"[.\n]", text.lower()) if part.strip()]


@dataclass(frozen=True)
class Row:
    """One example: the request, the topics that it triggers, and the right answer."""

    request: str
    topics: tuple[str, ...]

    @property
    def answer(self) -> str:
        return "; ".join(f"{topic} right" for topic in self.topics)


@dataclass(frozen=True)
class World:
    """One world; ``family`` is one of :data:`FAMILIES`, ``seed`` any integer."""

    family: str
    seed: int

    @property
    def texts(self) -> dict[str, str]:
        """The seed text of each component, in the order in which they run."""
        if self.family in ("coupled", "decoy"):
            return {"note": "Take notes of the request.", "reply": "Answer from the notes."}
        return {"reply": "Answer the request."}

    @cached_property
    def chosen(self) -> tuple[str, ...]:
        """The topics with a lure, with a conflict or with a coupling."""
        count = {"deceptive": 3, "conflicting": 3, "coupled": 4}.get(self.family, 0)
        return tuple(sorted(TOPICS, key=lambda topic: uniform(self, "chosen", topic)))[:count]

    def spoiled_by(self, topic: str) -> str:
        """The topic that a lure of ``topic`` spoils; no lure's topic is spoiled, and no topic twice."""
        others = [other for other in TOPICS if other not in self.chosen]
        return others[self.chosen.index(topic)]

    def rows(self, count: int, part: str) -> list[Row]:
        """``count`` examples of a part of the data (``train``, ``validation``, ``test``)."""
        rows = []
        for index in range(count):
            size = 3 if self.family == "plateau" else 1 + int(3 * uniform(self, part, index, "size"))
            topics = tuple(sorted(TOPICS, key=lambda topic: uniform(self, part, index, topic))[:size])
            kind = f", in {self._kind(part, index)}" if self.family == "conflicting" else ""
            rows.append(Row(f"Request {part}-{index} about {', '.join(topics)}{kind}.", topics))
        return rows

    # --- the task model --------------------------------------------------------------------------------------------

    def complete(self, system: str, user: str, demos: Sequence[str] = ()) -> str:
        """The task model's reply to ``user`` under the text ``system`` after ``demos``, earlier replies shown to it."""
        found = _REQUEST.search(user)
        if found is None:
            return "What is the request?"
        source, name, listed, kind = found.groups()
        if len(self.texts) == 1 or source == "Notes":
            return self._reply(system, name, listed.split(", "), kind, user, demos)
        forms = [f"{t} {CUES[TOPICS.index(t)] if self._known(system, t, name) else 'raw'}" for t in listed.split(", ")]
        return f"Notes {name} about {', '.join(forms)}."

    def _reply(
        self, system: str, name: str, listed: list[str], kind: str | None, user: str, demos: Sequence[str]
    ) -> str:
        topics = [item.split(" ")[0] for item in listed]
        if self.family == "no-headroom":
            (seed,) = self.texts.values()
            chance = 0.7 if system.endswith(seed) else 0.7 - 0.15 * uniform(self, system)
            right = uniform(self, system, name) < chance
            states = ["right" if right else "wrong"] * len(topics)
        else:
            states = []
            for topic, item in zip(topics, listed, strict=True):
                right = self._known(system, topic, name, kind)
                if self.family == "coupled" and topic in self.chosen:
                    right = right and item.endswith(" " + CUES[TOPICS.index(topic)])
                if not right:  # an uncued topic is guessed from replies that show it
                    shown = sum(f"{topic} right" in demo for demo in demos)
                    right = uniform(self, system, name, topic, "demos") < min(0.6, 0.3 * shown)
                states.append("right" if right else "wrong")
        nonce = hashlib.blake2b(f"{self}{system}{user}".encode(), digest_size=3).hexdigest()
        said = "; ".join(f"{topic} {state}" for topic, state in zip(topics, states, strict=True))
        return f"{said} (ref {nonce})"

    def _known(self, text: str, topic: str, name: str, kind: str | None = None) -> bool:
        """Whether ``text`` makes ``topic`` right in the request ``name``."""
        if uniform(self, text, name, topic) < 0.01 + len(text) / 20_000:
            return False
        sentences = [s for s in sentences_of(text) if topic in s]
        first, second = CUES[TOPICS.index(topic)], SECOND_CUES[TOPICS.index(topic)]
        if self.family == "conflicting" and topic in self.chosen:
            cued = [s for s in sentences if first in s or second in s]
            return bool(cued) and (second if kind == "long" else first) in cued[-1]
        if self.family == "deceptive" and topic in self.chosen:
            return any(first in s or second in s for s in sentences)
        if self.family == "deceptive" and uniform(self, name, "spoiled") < 0.5:
            lured = [t for t in self.chosen if self.spoiled_by(t) == topic]
            if any(t in s and SECOND_CUES[TOPICS.index(t)] in s for t in lured for s in sentences_of(text)):
                return False
        return any(first in s for s in sentences)

    def _kind(self, part: str, index: int) -> str:
        return "short" if uniform(self, part, index, "kind") < 0.5 else "long"

    # --- the metric ------------------------------------------------------------------------------------------------

    def score(self, row: Row, answer: str) -> tuple[float, str]:
        """Score in [0, 1] and what a user would say about the answer."""
        wrong = [topic for topic in row.topics if not self._looks_right(row, topic, answer)]
        kind = "" if self.family != "conflicting" else f" in {row.request.rpartition(' ')[2].rstrip('.')} requests"
        said = [f"the {SYMPTOMS[TOPICS.index(topic)]} part is not usable{kind}" for topic in wrong]
        if self.family in ("plateau", "no-headroom"):
            return float(not wrong), said[0] if said else ""
        return 1 - len(wrong) / len(row.topics), "; ".join(said)

    def _looks_right(self, row: Row, topic: str, answer: str) -> bool:
        right = f"{topic} right" in answer
        return right != (self.family == "noisy" and uniform(self, row.request, topic, answer) < 0.15)

    def expected_score(self, texts: Mapping[str, str], count: int = 200) -> float:
        """Mean score on ``count`` test examples under one text per component; computed here, without noise of the
        metric, and not paid for."""
        clear = World("additive", self.seed) if self.family == "noisy" else self
        total = 0.0
        for row in self.rows(count, "test"):
            reply = row.request
            for component in self.texts:
                reply = self.complete(texts[component], reply)
            total += clear.score(row, reply)[0]
        return total / count
