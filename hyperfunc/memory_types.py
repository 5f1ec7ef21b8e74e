"""What passes between agents and the stores of their memories: entries, scopes, errors, and the backend's protocol.

These are here, and not in the plugin ``hyperfunc_memory``, so that a backend can be written and tested without it.
Knows nothing of databases, relevance or extraction.

HyperfuncError
└── MemoryStoreError          the store cannot be opened, read or written
    └── MemoryInputError          an entry, a scope or an argument is malformed (also a ConfigurationError)
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from hyperfunc.errors import ConfigurationError, HyperfuncError

__all__ = [
    "MAX_SCOPE_CHARACTERS",
    "BackendFactory",
    "Match",
    "MemoryBackend",
    "MemoryEntry",
    "MemoryInputError",
    "MemoryStoreError",
    "MemoryType",
    "ReadFilter",
    "Scope",
    "ScopeSelector",
    "without_surrogates",
]

MAX_SCOPE_CHARACTERS = 512


class MemoryStoreError(HyperfuncError):
    """The store cannot be opened, read or written; it holds what it held before the call."""


class MemoryInputError(MemoryStoreError, ConfigurationError):
    """An entry, a scope or an argument is malformed; nothing was written."""


def without_surrogates(text: str) -> str:
    """``text`` with every lone surrogate replaced by ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


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
            if "\0" in value or value != without_surrogates(value):
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
        entities: names that it mentions, looked up by ``Memory.get_by_entity`` without regard to case.
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


@dataclass(frozen=True, slots=True)
class ReadFilter:
    """Which entries of a scope are read.

    Attributes:
        memory_types: only these; ``None`` means all.
        min_importance: only entries at least this important, 0 to 1.
        as_of: a :meth:`MemoryBackend.watermark`: the scope as it was then. ``None`` means now.
    """

    memory_types: tuple[MemoryType, ...] | None = None
    min_importance: float = 0.0
    as_of: int | None = None


@dataclass(frozen=True, slots=True)
class ScopeSelector:
    """A set of scopes, for housekeeping (count, export, prune, clear).

    Attributes:
        exact: the one scope with these three parts. If not, ``None`` means any value.
    """

    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        Scope(self.user_id, self.agent_id, self.run_id)

    @classmethod
    def only(cls, scope: Scope) -> ScopeSelector:
        """The set that holds ``scope`` alone."""
        return cls(scope.user_id, scope.agent_id, scope.run_id, exact=True)

    def includes(self, scope: Scope) -> bool:
        """Whether ``scope`` is one of them."""
        if self.exact:
            return scope == Scope(self.user_id, self.agent_id, self.run_id)
        pairs = ((self.user_id, scope.user_id), (self.agent_id, scope.agent_id), (self.run_id, scope.run_id))
        return all(wanted is None or wanted == actual for wanted, actual in pairs)


@dataclass(frozen=True, slots=True)
class Match:
    """An entry found by its text.

    Attributes:
        text_score: how well the text matches; above 0, higher is better, comparable within one search only.
    """

    entry: MemoryEntry
    text_score: float


@runtime_checkable
class MemoryBackend(Protocol):
    """Where memories are kept. Test one with :class:`hyperfunc.testing.MemoryBackendContract`."""

    def add(self, entries: Sequence[MemoryEntry], now: float) -> list[int]:
        """Store checked entries in one transaction, durable on return; one id per entry, in order.

        An active entry of the same scope with the same content hash is kept (its id is returned, importance becomes the
        larger one, entities and metadata are merged). An entry with a ``subject`` supersedes the active ones of its
        scope with that subject, and an equal content without it.
        """
        ...

    def supersede(self, entry_id: int, entry: MemoryEntry, now: float) -> int:
        """Put ``entry`` in the place of the active entry ``entry_id`` of the same scope; the id of the new one.

        Raises:
            MemoryInputError: no such active entry in that scope.
        """
        ...

    def search(self, scope: Scope, words: Sequence[str], read: ReadFilter, limit: int) -> list[Match]:
        """The ``limit`` active entries of ``scope`` that match any of ``words`` best, best first.

        Args:
            words: at most 24, lower case, each 1 to 48 letters and digits: no operator of a query language is in them,
                but a word may be spelled like one (``"or"``, ``"near"``).
        """
        ...

    def recent(self, scope: Scope, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        """The ``limit`` active entries of ``scope`` last created, newest first."""
        ...

    def by_entity(self, scope: Scope, key: str, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        """Active entries of ``scope`` that name the entity ``key``, most important first.

        Args:
            key: casefolded, with single spaces, without NUL and lone surrogates; otherwise any text whatever.
        """
        ...

    def history(self, scope: Scope, entry_id: int, as_of: int | None = None) -> list[MemoryEntry]:
        """All versions of an entry of ``scope``, oldest first: what it superseded, itself, what superseded it."""
        ...

    def export(self, selector: ScopeSelector, as_of: int | None = None, *, superseded: bool) -> list[MemoryEntry]:
        """All entries of the selected scopes, newest first; history too if ``superseded``."""
        ...

    def scopes(self, selector: ScopeSelector) -> list[Scope]:
        """The selected scopes that were ever written to, sorted by key."""
        ...

    def count(self, selector: ScopeSelector, as_of: int | None = None) -> int:
        """How many active entries the selected scopes hold."""
        ...

    def touch(self, ids: Sequence[int], now: float) -> None:
        """Count one access of each entry, at ``now``. Need not survive a power cut."""
        ...

    def prune(
        self,
        selector: ScopeSelector,
        *,
        created_before: float,
        importance_below: float,
        accessed_before: float | None,
    ) -> int:
        """Erase entries, history too, for which all given conditions hold; how many active ones went."""
        ...

    def clear(self, selector: ScopeSelector) -> int:
        """Erase every entry of the selected scopes, history too; how many active ones went."""
        ...

    def watermark(self) -> int:
        """A point in the order of writes: no later write has an id at or below it."""
        ...

    def close(self) -> None:
        """Free every connection. Calling it again does nothing."""
        ...


BackendFactory = Callable[[str], MemoryBackend]
"""Opens the backend for a URL of its scheme."""
