"""Checks of memory entries, made once so that every backend is handed the same clean values.

The types themselves are core's (:mod:`hyperfunc.memory_types`) and are handed on. Knows nothing of databases.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from hyperfunc.memory_types import (
    MAX_SCOPE_CHARACTERS,
    MemoryEntry,
    MemoryInputError,
    MemoryType,
    Scope,
    without_surrogates,
)

__all__ = ["MAX_CONTENT_CHARACTERS", "MAX_SCOPE_CHARACTERS", "MemoryEntry", "MemoryType", "Scope", "checked_entry"]

MAX_CONTENT_CHARACTERS = 4_000_000
_MAX_ENTITIES = 64
_MAX_LABEL_CHARACTERS = 512


def checked_entry(entry: object) -> MemoryEntry:
    """A clean copy of ``entry``, fit for every backend. ``entry`` itself is left alone.

    Raises:
        MemoryInputError: it says which field is wrong, what was expected and what came.
    """
    if not isinstance(entry, MemoryEntry):
        raise MemoryInputError(f"expected a MemoryEntry, got {type(entry).__name__}")
    content = _checked_text("content", entry.content, MAX_CONTENT_CHARACTERS)
    if not content.strip():
        raise MemoryInputError("content is empty; a memory needs text")
    importance = _checked_number("importance", entry.importance)
    if not 0.0 <= importance <= 1.0:
        raise MemoryInputError(f"importance must lie between 0 and 1, got {importance}")
    if not isinstance(entry.access_count, int) or not 0 <= entry.access_count < 2**53:
        raise MemoryInputError(f"access_count must be a whole number from 0, got {entry.access_count!r}")
    _ = entry.scope
    subject = None if entry.subject is None else _checked_text("subject", entry.subject, _MAX_LABEL_CHARACTERS).strip()
    return replace(
        entry,
        content=content,
        memory_type=_checked_type(entry.memory_type),
        entities=_checked_entities(entry.entities),
        importance=importance,
        created_at=_checked_number("created_at", entry.created_at),
        last_accessed=_checked_number("last_accessed", entry.last_accessed),
        metadata=_checked_metadata(entry.metadata),
        subject=subject.casefold()[:_MAX_LABEL_CHARACTERS] if subject else None,
        superseded_by=None,
        superseded_at=None,
    )


def _checked_text(name: str, value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise MemoryInputError(f"{name} must be text, got {type(value).__name__}")
    if len(value) > longest:
        raise MemoryInputError(f"{name} has {len(value)} characters; at most {longest} are kept")
    return without_surrogates(value.replace("\0", ""))


def _checked_type(value: object) -> MemoryType:
    if not isinstance(value, MemoryType):
        known = ", ".join(kind.name for kind in MemoryType)
        raise MemoryInputError(f"memory_type must be one of MemoryType.{{{known}}}, got {value!r}")
    return value


def _checked_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise MemoryInputError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def _checked_entities(entities: object) -> list[str]:
    if not isinstance(entities, (list, tuple)):
        raise MemoryInputError(f"entities must be a list of names, got {type(entities).__name__}")
    names = (_checked_text("an entity", name, _MAX_LABEL_CHARACTERS).strip() for name in entities)
    unique = list(dict.fromkeys(name for name in names if name))
    if len(unique) > _MAX_ENTITIES:
        raise MemoryInputError(f"an entry names at most {_MAX_ENTITIES} entities, got {len(unique)}")
    return unique


def _checked_metadata(metadata: object) -> dict[str, Any]:
    if not isinstance(metadata, dict):
        raise MemoryInputError(f"metadata must be a dict, got {type(metadata).__name__}")
    try:
        text = json.dumps(metadata, allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise MemoryInputError(f"metadata must hold JSON values only: {error}") from error
    # Escaped by ensure_ascii: NUL and lone surrogates are six characters here, and a backslash is doubled.
    if "\\u0000" in text or "\\ud" in text:
        return dict(_clean_json(metadata))
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _clean_json(value: Any) -> Any:
    if isinstance(value, str):
        return without_surrogates(value.replace("\0", ""))
    if isinstance(value, dict):
        return {_clean_json(str(key)): _clean_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean_json(item) for item in value]
    return value
