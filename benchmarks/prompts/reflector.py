"""The simulated reflecting model: from a request's text alone to a new text. FROZEN, like the worlds.

It looks for two things in what it is sent, whoever sends it: the text to improve (from the first sentence of a seed
text on) and the symptoms that feedback names. It knows nothing of how requests are laid out beyond that, and nothing of
scores, rejected texts or frameworks.

* A symptom named n times gives a missing rule away with probability 1 - 0.6ⁿ; at most three changes at a time, those
  with the most evidence first.
* An old rule is lost with probability 0.1; one reply in five gains a sentence that does nothing.
* ``deceptive``: for a topic with a lure the lure is written seven times in ten. A symptom named n times whose rule
  stands in the text already makes the model replace the lure behind it with probability 1 - 0.8ⁿ.
* ``conflicting``: where both kinds of request complain, the sentence for both is written every second time, else the
  one for the more frequent kind. Where a sentence for the other kind stands already, it is made one for both four times
  in ten, and else replaced.
* ``coupled``, ``decoy``: rules are written for the component whose text was sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.prompts.worlds import CUES, DISTRACTORS, SECOND_CUES, SYMPTOMS, TOPICS, World, uniform

__all__ = ["current_text", "reflect"]

_END = re.compile(r"^(```|</|\[\[ ##|#+ |\{|\"|--)")


def current_text(world: World, body: str) -> str:
    """The text to improve: lines from the first seed sentence in ``body`` to the first line that is a delimiter."""
    places = {seed: body.find(seed) for seed in world.texts.values() if seed in body}
    if not places:
        return next(iter(world.texts.values()))
    start = min(places.values())
    lines = []
    for line in body[start:].split("\n"):
        if _END.match(line):
            break
        if line.strip():
            lines.append(line.strip())
    return "\n".join(lines)


@dataclass(frozen=True)
class _Change:
    """A line to write, in place of those of the old text that it replaces."""

    evidence: int
    line: str
    replaces: tuple[str, ...] = ()


def reflect(world: World, body: str) -> str:
    """The new text."""
    first, *old = current_text(world, body).split("\n")
    kept = [line for line in old if uniform(world, body, line, "lost") >= 0.1]
    changes = []
    for topic, symptom in zip(TOPICS, SYMPTOMS, strict=True):
        change = _change(world, body, topic, symptom, kept)
        if change is not None:
            changes.append(change)
    for change in sorted(changes, key=lambda change: -change.evidence)[:3]:
        kept = [line for line in kept if line not in change.replaces]
        kept.append(change.line)
    if uniform(world, body, "distract") < 0.2:
        kept.append(DISTRACTORS[int(len(DISTRACTORS) * uniform(world, body, "which"))])
    return "\n".join([first, *dict.fromkeys(kept)])


def _change(world: World, body: str, topic: str, symptom: str, kept: list[str]) -> _Change | None:
    count = body.count(f"the {symptom} part")
    if count == 0:
        return None
    chance, draw = 1 - 0.6**count, uniform(world, body, symptom)
    first, second = CUES[TOPICS.index(topic)], SECOND_CUES[TOPICS.index(topic)]
    chosen = topic in world.chosen
    about = [line for line in kept if topic in line.lower()]
    if world.family == "conflicting" and chosen:
        return _for_kinds(world, body, topic, symptom, about)
    if any(first in line or second in line for line in about):
        lured = [t for t in world.chosen if world.family == "deceptive" and world.spoiled_by(t) == topic]
        for other in lured:
            cue = SECOND_CUES[TOPICS.index(other)]
            lures = tuple(line for line in kept if other in line.lower() and cue in line)
            if lures and draw < 1 - 0.8**count:
                return _Change(count, _rule(other, CUES[TOPICS.index(other)]), lures)
        return None
    if draw >= chance:
        return None
    if world.family == "deceptive" and chosen and uniform(world, body, symptom, "lure") < 0.7:
        return _Change(count, _rule(topic, second))
    return _Change(count, _rule(topic, first))


def _for_kinds(world: World, body: str, topic: str, symptom: str, about: list[str]) -> _Change | None:
    first, second = CUES[TOPICS.index(topic)], SECOND_CUES[TOPICS.index(topic)]
    counts = {k: body.count(f"the {symptom} part is not usable in {k} requests") for k in ("short", "long")}
    draw, style = uniform(world, body, symptom), uniform(world, body, symptom, "style")
    both = f"For {topic}, use {first} form in short requests and {second} form in long ones."
    if not about:
        total = sum(counts.values())
        if draw >= 1 - 0.6**total:
            return None
        if min(counts.values()) > 0 and style < 0.5:
            return _Change(total, both)
        return _Change(total, _rule(topic, second if counts["long"] > counts["short"] else first))
    if any(first in line and second in line for line in about):
        return None
    missing, cue = ("long", second) if any(first in line for line in about) else ("short", first)
    if counts[missing] == 0 or draw >= 1 - 0.6 ** counts[missing]:
        return None
    return _Change(counts[missing], both if style < 0.4 else _rule(topic, cue), tuple(about))


def _rule(topic: str, cue: str) -> str:
    return f"For {topic}, use {cue} form."
