"""Copy-on-write over any backend: a private view of a memory as it was at one moment.

Making one costs one number. Reading goes to the base backend, *as of* that number; the first write to a scope copies
that scope into a private SQLite database, and from then on this view of the scope lives there. Nothing is ever written
to the base, so any number of candidates, each with its own snapshot, never see each other's memories.

What the base's owner erases (``clear``, ``prune``) is gone for scopes not yet copied: erasing means erasing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hyperfunc_memory.backend import (
    Match,
    MemoryBackend,
    NearestBackend,
    ReadFilter,
    ScopeSelector,
    VectorBackend,
    VectorSearch,
)
from hyperfunc_memory.entries import MemoryEntry, Scope
from hyperfunc_memory.errors import MemoryStoreError
from hyperfunc_memory.sqlite_backend import SQLiteBackend

__all__ = ["SnapshotBackend"]


class SnapshotBackend:
    """A :class:`MemoryBackend` that reads ``base`` as it is now and writes to itself.

    Args:
        base: not closed by this object, and to be kept open as long as it.
    """

    def __init__(self, base: MemoryBackend) -> None:
        self._base = base
        self._as_of = base.watermark()
        self._lock = threading.RLock()
        self._private: SQLiteBackend | None = None
        self._copied: set[Scope] = set()
        self._touched: dict[int, tuple[int, float]] = {}
        self._closed = False

    def is_cheap(self) -> bool:
        """Whether every call ends at once: both the base and what was copied of it are in memory, and small."""
        private = self._private
        return _is_cheap(self._base) and (private is None or private.is_cheap())

    def add(self, entries: Sequence[MemoryEntry], now: float) -> list[int]:
        with self._lock:
            return self._private_for([entry.scope for entry in entries]).add(entries, now)

    def supersede(self, entry_id: int, entry: MemoryEntry, now: float) -> int:
        with self._lock:
            return self._private_for([entry.scope]).supersede(entry_id, entry, now)

    def search(self, scope: Scope, words: Sequence[str], read: ReadFilter, limit: int) -> list[Match]:
        private = self._private_if_copied(scope)
        if private is not None:
            return private.search(scope, words, read, limit)
        found = self._base.search(scope, words, self._frozen(read), limit)
        return [replace(match, entry=self._as_seen(match.entry)) for match in found]

    def recent(self, scope: Scope, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        private = self._private_if_copied(scope)
        if private is not None:
            return private.recent(scope, read, limit)
        return self._all_as_seen(self._base.recent(scope, self._frozen(read), limit))

    def by_entity(self, scope: Scope, key: str, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        private = self._private_if_copied(scope)
        if private is not None:
            return private.by_entity(scope, key, read, limit)
        return self._all_as_seen(self._base.by_entity(scope, key, self._frozen(read), limit))

    def history(self, scope: Scope, entry_id: int, as_of: int | None = None) -> list[MemoryEntry]:
        private = self._private_if_copied(scope)
        if private is not None:
            return private.history(scope, entry_id, as_of)
        return self._all_as_seen(self._base.history(scope, entry_id, self._bounded(as_of)))

    def export(self, selector: ScopeSelector, as_of: int | None = None, *, superseded: bool) -> list[MemoryEntry]:
        with self._lock:
            own = self._private.export(selector, as_of, superseded=superseded) if self._private else []
            based = self._base.export(selector, self._bounded(as_of), superseded=superseded)
            kept = self._all_as_seen([entry for entry in based if entry.scope not in self._copied])
        return sorted([*own, *kept], key=lambda entry: (entry.created_at, entry.id or 0), reverse=True)

    def scopes(self, selector: ScopeSelector) -> list[Scope]:
        with self._lock:
            own = self._private.scopes(selector) if self._private else []
            return sorted({*own, *self._base.scopes(selector)}, key=lambda scope: scope.key)

    def count(self, selector: ScopeSelector, as_of: int | None = None) -> int:
        with self._lock:
            bound = self._bounded(as_of)
            total = self._base.count(selector, bound)
            for scope in self._copied:
                if selector.includes(scope):
                    total -= self._base.count(ScopeSelector.only(scope), bound)
            return total + (self._private.count(selector, as_of) if self._private else 0)

    def touch(self, ids: Sequence[int], now: float) -> None:
        with self._lock:
            if self._private is not None:
                self._private.touch(ids, now)  # ids are the same in both places
            for entry_id in ids:
                if entry_id <= self._as_of:
                    count, _ = self._touched.get(entry_id, (0, now))
                    self._touched[entry_id] = (count + 1, now)

    def prune(
        self,
        selector: ScopeSelector,
        *,
        created_before: float,
        importance_below: float,
        accessed_before: float | None,
    ) -> int:
        with self._lock:
            return self._private_for(self.scopes(selector)).prune(
                selector,
                created_before=created_before,
                importance_below=importance_below,
                accessed_before=accessed_before,
            )

    def clear(self, selector: ScopeSelector) -> int:
        with self._lock:
            return self._private_for(self.scopes(selector)).clear(selector)

    def watermark(self) -> int:
        with self._lock:
            return max(self._as_of, self._private.watermark()) if self._private else self._as_of

    def put_vectors(self, model: str, vectors: Mapping[int, bytes]) -> None:
        with self._lock:
            if self._private is not None:  # what has just been added is there
                self._private.put_vectors(model, vectors)

    def vectors(self, scope: Scope, model: str | None = None) -> list[tuple[int, str, bytes]]:
        private = self._private_if_copied(scope)
        source: object = private if private is not None else self._base
        return source.vectors(scope, model) if isinstance(source, VectorBackend) else []

    @property
    def vector_search(self) -> VectorSearch:
        if not isinstance(self._base, NearestBackend):
            return VectorSearch("numpy", "the backend leaves it to this process")
        found = self._base.vector_search
        # What was written since lives in SQLite.
        return found if found.name == "numpy" or self._private is None else self._private.vector_search

    def has_vectors(self, scope: Scope, model: str) -> bool:
        return self._comparing(scope).has_vectors(scope, model)

    def nearest(self, scope: Scope, model: str, query: bytes, read: ReadFilter, limit: int) -> list[tuple[int, bytes]]:
        comparing = self._comparing(scope)
        frozen = read if comparing is self._private else self._frozen(read)
        return comparing.nearest(scope, model, query, frozen, limit)

    def _comparing(self, scope: Scope) -> NearestBackend:
        private = self._private_if_copied(scope)
        if private is not None:
            return private
        assert isinstance(self._base, NearestBackend)
        return self._base

    def fetch(self, scope: Scope, ids: Sequence[int], read: ReadFilter) -> list[MemoryEntry]:
        private = self._private_if_copied(scope)
        if private is not None:
            return private.fetch(scope, ids, read)
        if not isinstance(self._base, VectorBackend):
            return []
        return self._all_as_seen(self._base.fetch(scope, ids, self._frozen(read)))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._private is not None:
                self._private.close()

    def _private_if_copied(self, scope: Scope) -> SQLiteBackend | None:
        with self._lock:
            if self._closed:
                raise MemoryStoreError("this snapshot is closed; make a new one")
            return self._private if scope in self._copied else None

    def _private_for(self, scopes: Sequence[Scope]) -> SQLiteBackend:
        if self._closed:
            raise MemoryStoreError("this snapshot is closed; make a new one")
        if self._private is None:
            self._private = SQLiteBackend(":memory:", first_id=self._as_of + 1)
        for scope in set(scopes) - self._copied:
            entries = self._base.export(ScopeSelector.only(scope), self._as_of, superseded=True)
            self._private.load(self._all_as_seen(entries))
            if isinstance(self._base, VectorBackend):
                for entry_id, model, vector in self._base.vectors(scope):
                    self._private.put_vectors(model, {entry_id: vector})
            self._copied.add(scope)
        return self._private

    def _bounded(self, as_of: int | None) -> int:
        return self._as_of if as_of is None else min(as_of, self._as_of)

    def _frozen(self, read: ReadFilter) -> ReadFilter:
        return replace(read, as_of=self._bounded(read.as_of))

    def _all_as_seen(self, entries: Sequence[MemoryEntry]) -> list[MemoryEntry]:
        return [self._as_seen(entry) for entry in entries]

    def _as_seen(self, entry: MemoryEntry) -> MemoryEntry:
        """``entry`` without what happened to it in the base since, and with the accesses counted here."""
        if entry.superseded_by is not None and entry.superseded_by > self._as_of:
            entry = replace(entry, superseded_by=None, superseded_at=None)
        if entry.id in self._touched:
            count, accessed = self._touched[entry.id]
            return replace(entry, access_count=entry.access_count + count, last_accessed=accessed)
        return entry


def _is_cheap(backend: MemoryBackend) -> bool:
    return isinstance(backend, (SQLiteBackend, SnapshotBackend)) and backend.is_cheap()
