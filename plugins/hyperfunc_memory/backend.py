"""What a memory backend must do: the protocol and the values that cross it.

A backend stores and finds; it knows nothing of relevance, extraction or event loops. Methods are synchronous and may be
called from any thread at once. Errors are :class:`MemoryStoreError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hyperfunc_memory.entries import MemoryEntry, MemoryType, Scope

__all__ = ["BackendFactory", "Match", "MemoryBackend", "ReadFilter", "ScopeSelector", "VectorBackend"]


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
    """Where memories are kept. Test one with :class:`hyperfunc.testing.memory_contract.MemoryBackendContract`."""

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
        """The ``limit`` active entries of ``scope`` that match any of ``words`` best, best first."""
        ...

    def recent(self, scope: Scope, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        """The ``limit`` active entries of ``scope`` last created, newest first."""
        ...

    def by_entity(self, scope: Scope, key: str, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        """Active entries of ``scope`` that name the entity ``key`` (:func:`entity_key`), most important first."""
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


@runtime_checkable
class VectorBackend(Protocol):
    """What a backend needs beside :class:`MemoryBackend` so that memories can be found by meaning."""

    def put_vectors(self, model: str, vectors: Mapping[int, bytes]) -> None:
        """Keep entry id -> vector (float32 bytes) of one model, in place of older ones; durable on return."""
        ...

    def vectors(self, scope: Scope, model: str | None = None) -> list[tuple[int, str, bytes]]:
        """(entry id, model, vector) of all entries of ``scope``, history too, in the order of ids."""
        ...

    def fetch(self, scope: Scope, ids: Sequence[int], read: ReadFilter) -> list[MemoryEntry]:
        """Those of the entries ``ids`` of ``scope`` that are active and pass ``read``, in any order."""
        ...


BackendFactory = Callable[[str], MemoryBackend]
"""Opens the backend for a URL of its scheme."""
