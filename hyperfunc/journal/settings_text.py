"""Values and settings of a run in one line each, for people. Knows neither terminals nor pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

__all__ = ["SOURCE_KINDS", "plain", "setting_text", "short_hash"]

_HASH = re.compile(r"[0-9a-f]{64}")
_SHOWN_OF_HASH = 12  # characters: enough to tell two apart
SOURCE_KINDS = ("class ", "function ", "module ", "component ")
"""How the names of those parts of a fingerprint begin that are program text."""


def plain(value: Any) -> str:
    """A value for a reader: numbers short, nothing for ``None``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) if all(isinstance(item, str) for item in value) else str(list(value))
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.5g}"
    return str(value)


def setting_text(value: Any) -> str:
    """A configuration value in one line: what an optimizer or a metric is, by name, and how it is set."""
    if not isinstance(value, Mapping):
        return short_hash(plain(value))
    named = [text.rpartition(".")[2] for part, text in value.items() if part.startswith("object ")]
    named += [part.partition(" ")[2] for part in value if part.startswith(SOURCE_KINDS)]
    settings = [
        f"{part.rpartition('.')[2] if part.startswith('constant ') else part}={short_hash(text)}"
        for part, text in value.items()
        if not part.startswith(("object ", *SOURCE_KINDS)) and " default " not in part
    ]
    names = [name if count == 1 else f"{count} x {name}" for name, count in Counter(named).items()]
    return "; ".join([", ".join(names), ", ".join(settings)]).strip("; ")


def short_hash(text: str) -> str:
    """The beginning of a hash; any other text as it is."""
    return text[:_SHOWN_OF_HASH] if _HASH.fullmatch(text) else text
