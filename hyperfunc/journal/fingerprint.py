"""What a program and a dataset consist of, as hashes of named parts, so that a difference can be named.

A program's parts are the functions and classes that it is made of, found by following names from its components into
the user's own code (not into installed packages), and the constants that they use. Formatting and comments do not
count, docstrings do, for they may be prompts. Knows nothing of journals.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperfunc.errors import EvaluationError, JournalError
from hyperfunc.evaluation.content import content_digest
from hyperfunc.evaluation.example import Example
from hyperfunc.journal.sources import ProgramWalk

__all__ = ["Fingerprint", "Part", "fingerprint_data", "fingerprint_program", "fingerprint_system"]

_CHUNK = 1000
_MOST_DIFF_LINES = 16
_MOST_NAMES = 8
_NOT_THE_PROGRAM = ("system_optimizer", "prompt_optimizer", "settings", "memory", "_registry")


@dataclass(frozen=True, slots=True)
class Part:
    """One named part: its hash, and its text where a reader would want to see what changed."""

    hash: str
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Hashes of named parts; ``kind`` is how a message calls one of them."""

    parts: Mapping[str, Part]
    kind: str = "part"

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of all parts; independent of their order."""
        lines = "\n".join(f"{name}\t{part.hash}" for name, part in sorted(self.parts.items()))
        return _hash(lines)

    def diff(self, now: Fingerprint) -> list[str]:
        """What differs in ``now``, in words; empty if nothing does."""
        removed = sorted(self.parts.keys() - now.parts.keys())
        added = sorted(now.parts.keys() - self.parts.keys())
        changed = sorted(n for n in self.parts.keys() & now.parts.keys() if self.parts[n].hash != now.parts[n].hash)
        silent = [n for n in changed if self.parts[n].text is None or now.parts[n].text is None]
        lines = [_changed_text(name, self.parts[name], now.parts[name]) for name in changed if name not in silent]
        for names, verb in ((silent, "changed"), (added, "added"), (removed, "removed")):
            if names:
                lines.append(f"{self.kind} {verb}: {_listed(names)}")
        return lines

    def texts(self) -> dict[str, str]:
        """The text of each part that has one; :meth:`from_texts` reads it back."""
        return {name: part.text for name, part in sorted(self.parts.items()) if part.text is not None}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], kind: str = "part") -> Fingerprint:
        """Parts that are told apart by their texts."""
        return cls({name: Part(_hash(text), text) for name, text in texts.items()}, kind)

    def to_json(self) -> str:
        """JSON that :meth:`from_json` reads back."""
        parts = {name: [part.hash, part.text] for name, part in sorted(self.parts.items())}
        return json.dumps({"kind": self.kind, "parts": parts})

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """What :meth:`to_json` wrote."""
        data = json.loads(text)
        return cls({name: Part(*part) for name, part in data["parts"].items()}, data["kind"])


def fingerprint_program(*components: Any, leave_out: Iterable[str] = ()) -> Fingerprint:
    """The parts of a program.

    Args:
        components: a system, hyperfunctions, functions, classes or any objects; their attributes count as well.
        leave_out: attributes of the components that do not count (what is compared elsewhere, as optimizers are).

    Returns:
        One part per function, class and constant, by qualified name.
    """
    walk = ProgramWalk(leave_out=frozenset(leave_out))
    for component in components:
        walk.visit(component, type(component).__qualname__)
    return Fingerprint.from_texts(dict(walk.texts()))


def fingerprint_system(system: Any) -> Fingerprint:
    """The parts of a system's program: without its optimizers and settings, which are compared as configuration, and
    without its memory, which is state."""
    return fingerprint_program(system, leave_out=_NOT_THE_PROGRAM)


def fingerprint_data(**splits: Sequence[Any] | None) -> Fingerprint:
    """The examples of each split, by position; splits that are ``None`` are left out.

    Up to 1,000 examples each has a part of its own; larger splits are told apart in chunks of 1,000.

    Raises:
        JournalError: an example's content cannot be hashed and it has no id.
    """
    parts: dict[str, Part] = {}
    for split, examples in splits.items():
        if examples is None:
            continue
        hashes = [_example_hash(split, index, example) for index, example in enumerate(examples)]
        if len(hashes) <= _CHUNK:
            parts.update({f"{split}[{index}]": Part(value[:16]) for index, value in enumerate(hashes)})
            continue
        for start in range(0, len(hashes), _CHUNK):
            chunk = hashes[start : start + _CHUNK]
            parts[f"{split}[{start}:{start + len(chunk)}]"] = Part(hashlib.sha256("".join(chunk).encode()).hexdigest())
    return Fingerprint(parts, "examples")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _example_hash(split: str, index: int, example: Any) -> str:
    try:
        if isinstance(example, Example):
            return content_digest(example.inputs, example.expected, example.weight, list(example.tags))
        return content_digest(example)
    except EvaluationError as error:
        if isinstance(example, Example) and example.given_id is not None:
            return content_digest("id", example.given_id)
        raise JournalError(f"example {index} of {split!r} cannot be told from another: {error}") from error


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _changed_text(name: str, then: Part, now: Part) -> str:
    before, after = (then.text or "").splitlines(), (now.text or "").splitlines()
    if len(before) == len(after) == 1:
        return f"{name} changed: was {before[0]}, is {after[0]}"
    lines = [
        line
        for line in difflib.unified_diff(before, after, lineterm="", n=1)
        if not line.startswith(("---", "+++", "@@"))
    ]
    if len(lines) > _MOST_DIFF_LINES:
        lines = [*lines[:_MOST_DIFF_LINES], f"… {len(lines) - _MOST_DIFF_LINES} more lines"]
    return "\n".join([f"{name} changed:", *(f"      {line}" for line in lines)])
