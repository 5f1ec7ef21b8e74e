"""Reading what models reply: JSON in fences and prose, numbers in words' clothing, rankings. Knows no judge.

Nothing is guessed: a value outside its range or a ranking with a gap is an error that says so, not a nearby value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from hyperfunc_judges.completion import UnreadableReplyError

__all__ = ["json_object", "number_in", "ranking_in", "strings_in", "text_in"]

_FRACTION = re.compile(r"^\s*(-?\d+(?:\.\d+)?)\s*(?:/\s*(\d+(?:\.\d+)?))?\s*$")
_LABELLED = re.compile(r"^\W*(score|feedback)\W*:\W*?", re.IGNORECASE | re.MULTILINE)


def json_object(text: str) -> dict[str, Any]:
    """The last JSON object that stands in ``text`` for itself: in a fence, after some thinking, before a farewell.

    Where there is none, lines ``SCORE: …`` and ``FEEDBACK: …`` are read.

    Raises:
        UnreadableReplyError: neither is there.
    """
    decoder = json.JSONDecoder()
    found: dict[str, Any] | None = None
    position = text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
                # Cut off: what stands inside is a part of the answer, and no answer.
                raise UnreadableReplyError(f"expected a JSON object, got one that breaks off: {_end(text)}") from error
            end = position + 1
        except RecursionError as error:
            raise UnreadableReplyError("expected a JSON object, got one nested too deeply") from error
        else:
            if isinstance(value, dict) and value:
                found = value
        position = text.find("{", end)
    if found is None:
        found = _labelled(text)
    if found is None:
        raise UnreadableReplyError(f"expected a JSON object, got {_shorten(text)}")
    return {str(key).strip().lower(): value for key, value in found.items()}


def number_in(reply: dict[str, Any], key: str, low: float, high: float) -> float:
    """The number under ``key``; ``"4"``, ``"4/5"`` (with 5 the highest) and ``4.0`` all are 4.

    Raises:
        UnreadableReplyError: missing, no number, or not within ``low`` to ``high``.
    """
    if key not in reply:
        raise UnreadableReplyError(f"expected the key {key!r}, got {sorted(reply)}")
    value = reply[key]
    if isinstance(value, str) and (match := _FRACTION.match(value)) and (match[2] is None or float(match[2]) == high):
        value = float(match[1])
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UnreadableReplyError(f"expected {key!r} to be a number, got {value!r}")
    if not low <= value <= high:
        raise UnreadableReplyError(f"expected {key!r} between {low:g} and {high:g}, got {value:g}")
    return float(value)


def text_in(reply: dict[str, Any], key: str) -> str:
    """The text under ``key``; a list of texts becomes lines; empty where there is none."""
    value = reply.get(key)
    if isinstance(value, list):
        return "\n".join(str(item) for item in value)
    return "" if value is None else str(value).strip()


def strings_in(reply: dict[str, Any], key: str) -> list[str]:
    """The texts under ``key``: a list, one text, or nothing."""
    value = reply.get(key)
    items = value if isinstance(value, list) else [value]
    return [str(item).strip() for item in items if item is not None and str(item).strip()]


def ranking_in(reply: dict[str, Any], key: str, count: int) -> list[float]:
    """Ranks (1 is best) of ``count`` items from best to worst; tied items share the mean of their ranks.

    The reply lists item numbers, best first, from 1 or (when a 0 is among them) from 0; a nested list is a tie:
    ``[2, [1, 3]]``.

    Raises:
        UnreadableReplyError: an item is missing, listed twice or unknown.
    """
    listed = reply.get(key)
    if not isinstance(listed, list):
        raise UnreadableReplyError(f"expected {key!r} to be a list of item numbers, got {listed!r}")
    groups = [group if isinstance(group, list) else [group] for group in listed]
    numbers = [[_item(key, item) for item in group] for group in groups]
    flat = [item for group in numbers for item in group]
    first = 0 if 0 in flat else 1
    if sorted(flat) != list(range(first, first + count)):
        raise UnreadableReplyError(f"expected {key!r} to list each of the items 1 to {count} once, got {listed}")
    ranks = [0.0] * count
    placed = 0
    for group in numbers:
        for item in group:
            ranks[item - first] = placed + (len(group) + 1) / 2
        placed += len(group)
    return ranks


def _item(key: str, item: Any) -> int:
    if isinstance(item, str) and (match := re.fullmatch(r"\D*(\d+)\D*", item)):
        return int(match[1])
    if isinstance(item, bool) or not isinstance(item, int):
        raise UnreadableReplyError(f"expected {key!r} to list item numbers, got {item!r}")
    return item


def _labelled(text: str) -> dict[str, Any] | None:
    marks = list(_LABELLED.finditer(text))
    if not marks:
        return None
    ends: Sequence[int] = [mark.start() for mark in marks[1:]] + [len(text)]
    parts = {
        mark[1].lower(): text[mark.end() : end].strip().strip("*").strip()
        for mark, end in zip(marks, ends, strict=True)
    }
    return parts if "score" in parts else None


def _end(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else "…" + text[-limit + 1 :])


def _shorten(text: str, limit: int = 120) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
