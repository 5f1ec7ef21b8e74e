"""The memory backend ``ram://``: everything in this process, gone when it is closed.

One lock around plain lists. Good for tests and for thousands of entries; a search looks at every entry of its scope.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from hyperfunc.memory_types import (
    Match,
    MemoryEntry,
    MemoryInputError,
    MemoryStoreError,
    ReadFilter,
    Scope,
    ScopeSelector,
)

__all__ = ["RAMBackend"]

_WORD = re.compile(r"[^\W_]+")


class RAMBackend:
    """A memory backend without files.

    Args:
        url: ``ram://`` and any name. Two backends with one URL share nothing.
    """

    def __init__(self, url: str = "ram://") -> None:
        self.url = url
        self._entries: dict[int, MemoryEntry] = {}  # by id, in the order of writes
        self._last_id = 0
        self._lock = threading.RLock()
        self._closed = False

    # --- writing -------------------------------------------------------------------------------------------------

    def add(self, entries: Sequence[MemoryEntry], now: float) -> list[int]:
        """Store entries; equal content is kept once per scope, an equal subject supersedes."""
        with self._lock:
            self._check_open()
            return [self._add_one(entry, now) for entry in entries]

    def supersede(self, entry_id: int, entry: MemoryEntry, now: float) -> int:
        """Put ``entry`` in the place of an active entry of its scope."""
        with self._lock:
            self._check_open()
            old = self._entries.get(entry_id)
            if old is None or old.superseded_by is not None or old.scope != entry.scope:
                raise MemoryInputError(f"no active memory {entry_id} in this scope")
            return self._insert(entry, now, [entry_id])

    def touch(self, ids: Sequence[int], now: float) -> None:
        """Count one access of each entry."""
        with self._lock:
            self._check_open()
            for entry_id in ids:
                entry = self._entries.get(entry_id)
                if entry is not None:
                    changed = replace(entry, access_count=entry.access_count + 1, last_accessed=now)
                    self._entries[entry_id] = changed

    def prune(
        self,
        selector: ScopeSelector,
        *,
        created_before: float,
        importance_below: float,
        accessed_before: float | None,
    ) -> int:
        """Erase entries for which all conditions hold."""

        def condemned(entry: MemoryEntry) -> bool:
            unread = accessed_before is None or entry.last_accessed < accessed_before
            return entry.created_at < created_before and entry.importance < importance_below and unread

        return self._erase(selector, condemned)

    def clear(self, selector: ScopeSelector) -> int:
        """Erase every entry of the selected scopes."""
        return self._erase(selector, lambda entry: True)

    def _add_one(self, entry: MemoryEntry, now: float) -> int:
        active = [e for e in self._entries.values() if e.superseded_by is None and e.scope == entry.scope]
        same = [e for e in active if _content(e) == _content(entry)]
        if same and (entry.subject is None or same[0].subject == entry.subject):
            return self._merge(same[0], entry)
        replaced = [e for e in active if entry.subject is not None and e.subject == entry.subject]
        return self._insert(entry, now, [e.id for e in {id(e): e for e in (*same, *replaced)}.values() if e.id])

    def _merge(self, kept: MemoryEntry, entry: MemoryEntry) -> int:
        assert kept.id is not None
        known = {_key(name) for name in kept.entities}
        self._entries[kept.id] = replace(
            kept,
            importance=max(kept.importance, entry.importance),
            entities=[*kept.entities, *(name for name in entry.entities if _key(name) not in known)],
            metadata={**kept.metadata, **entry.metadata},
        )
        return kept.id

    def _insert(self, entry: MemoryEntry, now: float, replaced: Sequence[int]) -> int:
        self._last_id += 1
        self._entries[self._last_id] = replace(
            entry, id=self._last_id, entities=list(entry.entities), metadata=dict(entry.metadata)
        )
        for old in replaced:
            self._entries[old] = replace(self._entries[old], superseded_by=self._last_id, superseded_at=now)
        return self._last_id

    def _erase(self, selector: ScopeSelector, condemned: Callable[[MemoryEntry], bool]) -> int:
        with self._lock:
            self._check_open()
            gone = [e for e in self._entries.values() if selector.includes(e.scope) and condemned(e)]
            for entry in gone:
                assert entry.id is not None
                del self._entries[entry.id]
            return sum(entry.superseded_by is None for entry in gone)

    # --- reading -------------------------------------------------------------------------------------------------

    def search(self, scope: Scope, words: Sequence[str], read: ReadFilter, limit: int) -> list[Match]:
        """Entries that hold any of the words; a word counts the more, the fewer entries of the scope hold it."""
        entries = self._readable(scope, read)
        texts = {e.id: set(_WORD.findall(" ".join((e.content, *e.entities)).casefold())) for e in entries}
        holders = {word: sum(word in text for text in texts.values()) for word in words}
        scores = {e.id: sum(1 / holders[word] for word in words if word in texts[e.id]) for e in entries}
        found = [Match(entry, scores[entry.id]) for entry in entries if scores[entry.id]]
        return sorted(found, key=lambda match: (-match.text_score, -(match.entry.id or 0)))[:limit]

    def recent(self, scope: Scope, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        """The entries created last."""
        return sorted(self._readable(scope, read), key=_newest_first)[:limit]

    def by_entity(self, scope: Scope, key: str, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        """Entries that name an entity, most important first."""
        named = [e for e in self._readable(scope, read) if key in map(_key, e.entities)]
        return sorted(named, key=lambda e: (-e.importance, *_newest_first(e)))[:limit]

    def history(self, scope: Scope, entry_id: int, as_of: int | None = None) -> list[MemoryEntry]:
        """All versions of an entry, oldest first."""
        with self._lock:
            self._check_open()
            newest = self._entries.get(entry_id)
            while newest is not None and newest.superseded_by in self._entries:
                newest = self._entries[newest.superseded_by]
            if newest is None or newest.scope != scope:
                return []
            chain, waiting = [], [newest]
            while waiting:
                entry = waiting.pop()
                chain.append(entry)
                waiting += [e for e in self._entries.values() if e.superseded_by == entry.id]
        return sorted((e for e in chain if as_of is None or (e.id or 0) <= as_of), key=lambda e: e.id or 0)

    def export(self, selector: ScopeSelector, as_of: int | None = None, *, superseded: bool) -> list[MemoryEntry]:
        """All entries of the selected scopes, newest first."""
        entries = self._all(as_of, superseded)
        return sorted((e for e in entries if selector.includes(e.scope)), key=_newest_first)

    def scopes(self, selector: ScopeSelector) -> list[Scope]:
        """The selected scopes that hold something."""
        with self._lock:
            self._check_open()
            found = {e.scope for e in self._entries.values()}
        return sorted((scope for scope in found if selector.includes(scope)), key=lambda scope: scope.key)

    def count(self, selector: ScopeSelector, as_of: int | None = None) -> int:
        """How many active entries the selected scopes hold."""
        return len(self.export(selector, as_of, superseded=False))

    def watermark(self) -> int:
        """The id given last."""
        with self._lock:
            self._check_open()
            return self._last_id

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._closed = True
            self._entries.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise MemoryStoreError(f"the memory {self.url!r} is closed")

    def _all(self, as_of: int | None, superseded: bool) -> list[MemoryEntry]:
        """Entries as they were at ``as_of``: what was superseded later was active then."""
        with self._lock:
            self._check_open()
            entries = [e for e in self._entries.values() if as_of is None or (e.id or 0) <= as_of]
        if superseded:
            return entries
        return [e for e in entries if e.superseded_by is None or (as_of is not None and e.superseded_by > as_of)]

    def _readable(self, scope: Scope, read: ReadFilter) -> list[MemoryEntry]:
        kinds = read.memory_types
        return [
            e
            for e in self._all(read.as_of, superseded=False)
            if e.scope == scope and (kinds is None or e.memory_type in kinds) and e.importance >= read.min_importance
        ]


def _content(entry: MemoryEntry) -> str:
    return " ".join(entry.content.casefold().split())


def _key(name: str) -> str:
    return " ".join(name.casefold().split())


def _newest_first(entry: MemoryEntry) -> tuple[float, int]:
    return -entry.created_at, -(entry.id or 0)
