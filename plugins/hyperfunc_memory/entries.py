"""What a memory is, and whose it is: :class:`MemoryEntry`, :class:`MemoryType`, :class:`Scope`.

Knows nothing of databases. Checks are here so that every backend is handed the same clean values.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from hyperfunc_memory.errors import MemoryInputError

__all__ = ["MAX_CONTENT_CHARACTERS", "MAX_SCOPE_CHARACTERS", "MemoryEntry", "MemoryType", "Scope", "checked_entry"]

MAX_CONTENT_CHARACTERS = 4_000_000
MAX_SCOPE_CHARACTERS = 512
_MAX_ENTITIES = 64
_MAX_LABEL_CHARACTERS = 512


class MemoryType(Enum):
    """What kind of thing is remembered."""

    FACT = "fact"
    PREFERENCE = "preference"
    CONTEXT = "context"
    EVENT = "event"
    ENTITY = "entity"


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """Whose memory it is. Two scopes are the same only if all three parts are; ``None`` is a value of its own.

    Raises:
        MemoryInputError: a part is not text, is longer than 512 characters, or holds NUL or a lone surrogate. Scopes
            are never repaired: two different ids must not become one.
    """

    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("user_id", self.user_id), ("agent_id", self.agent_id), ("run_id", self.run_id)):
            if value is None:
                continue
            if not isinstance(value, str):
                raise MemoryInputError(f"{name} must be text or None, got {type(value).__name__}")
            if len(value) > MAX_SCOPE_CHARACTERS:
                raise MemoryInputError(f"{name} has {len(value)} characters; at most {MAX_SCOPE_CHARACTERS} are kept")
            if "\0" in value or value != _without_surrogates(value):
                raise MemoryInputError(f"{name} holds NUL or a lone surrogate; use another id")

    @property
    def key(self) -> str:
        """One short text per scope: SHA-256 (hex) of the three parts as JSON."""
        parts = json.dumps([self.user_id, self.agent_id, self.run_id])
        return hashlib.sha256(parts.encode()).hexdigest()


@dataclass
class MemoryEntry:
    """One thing remembered.

    Attributes:
        id: given by the store.
        content: the text; NUL is dropped and lone surrogates are replaced when it is stored.
        memory_type: what kind of thing it is.
        entities: names that it mentions, looked up by :meth:`Memory.get_by_entity` without regard to case.
        importance: 0 (noise) to 1 (must not be forgotten).
        created_at: seconds since the epoch.
        last_accessed: seconds since the epoch.
        access_count: how often it was retrieved.
        metadata: any JSON object.
        user_id: with ``agent_id`` and ``run_id`` the scope; see :class:`Scope`.
        subject: what it is about (``"home"``, ``"favourite colour"``). In one scope, a new entry with the same subject
            supersedes the older one.
        superseded_by: id of the entry that took its place; such entries are history and are not retrieved.
        superseded_at: seconds since the epoch.
    """

    id: int | None = None
    content: str = ""
    memory_type: MemoryType = MemoryType.FACT
    entities: list[str] = field(default_factory=list)
    importance: float = 0.5
    created_at: float = field(default_factory=time.time)
    last_accessed: float = field(default_factory=time.time)
    access_count: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    subject: str | None = None
    superseded_by: int | None = None
    superseded_at: float | None = None

    @property
    def scope(self) -> Scope:
        """Whose memory it is."""
        return Scope(self.user_id, self.agent_id, self.run_id)

    def to_dict(self) -> dict[str, Any]:
        """For storage: enum as its value, ``entities`` and ``metadata`` as JSON text; without the id."""
        return {
            "content": self.content,
            "memory_type": self.memory_type.value,
            "entities": json.dumps(self.entities),
            "importance": self.importance,
            "created_at": self.created_at,
            "last_accessed": self.last_accessed,
            "access_count": self.access_count,
            "metadata": json.dumps(self.metadata),
            "user_id": self.user_id,
            "agent_id": self.agent_id,
            "run_id": self.run_id,
            "subject": self.subject,
        }


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


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def _checked_text(name: str, value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise MemoryInputError(f"{name} must be text, got {type(value).__name__}")
    if len(value) > longest:
        raise MemoryInputError(f"{name} has {len(value)} characters; at most {longest} are kept")
    return _without_surrogates(value.replace("\0", ""))


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
        return _without_surrogates(value.replace("\0", ""))
    if isinstance(value, dict):
        return {_clean_json(str(key)): _clean_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean_json(item) for item in value]
    return value
