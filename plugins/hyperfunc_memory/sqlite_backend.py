"""Memories in SQLite: FTS5 finds them, BM25 scores their text. A file or ``:memory:``.

The words in the full-text index carry their scope (see :mod:`hyperfunc_memory.text`), and the join checks it once more.
The text score of an entry is the sum over the query's words of

    ln(1 + (N - n + ½) / (n + ½)) · bm25(entry, word) / mean bm25(word),

N being the entries of the scope and n those with the word. FTS5 would take N from the whole file, and so weigh
rare and common words of a small scope almost alike; and ask for each word how often the whole file has it.
Knows nothing of relevance, extraction or event loops.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperfunc_memory.backend import Match, ReadFilter, ScopeSelector, VectorSearch
from hyperfunc_memory.entries import MemoryEntry, Scope
from hyperfunc_memory.errors import MemoryInputError
from hyperfunc_memory.rows import (
    ENTRY_COLUMNS,
    ENTRY_SOURCE,
    NEWEST_FIRST,
    PENDING,
    Dialect,
    entry_from_row,
    entry_values,
    merged,
    search_texts,
)
from hyperfunc_memory.sqlite_connections import SQLiteConnections
from hyperfunc_memory.sqlite_schema import migrate
from hyperfunc_memory.sqlite_vectors import why_not
from hyperfunc_memory.text import content_hash, entity_key, scoped_words

__all__ = ["SQLiteBackend", "open_sqlite", "sqlite_path"]

_CHEAP_ENTRIES = 500
_SQL = Dialect(parameter=":{}", active="e.superseded_by IS NULL", true="1")


def sqlite_path(url: str) -> str:
    """The path in ``url``: ``":memory:"``, a path, ``sqlite:///relative`` or ``sqlite:////absolute``."""
    if "://" not in url:
        return url
    rest = url.partition("://")[2]
    return rest.removeprefix("/") or ":memory:"


def open_sqlite(url: str) -> SQLiteBackend:
    """The backend for a ``sqlite`` URL."""
    return SQLiteBackend(sqlite_path(url))


class SQLiteBackend:
    """A :class:`MemoryBackend` in one SQLite database.

    Args:
        path: a file (made if absent), or ``":memory:"``.
        first_id: ids start here.
    """

    def __init__(self, path: str | Path = ":memory:", *, first_id: int = 1) -> None:
        self._connections = SQLiteConnections(str(path), migrate)
        self._in_memory = str(path) == ":memory:"
        self._written = 0
        if first_id > 1:
            with self._connections.writing() as connection:
                connection.execute("DELETE FROM sqlite_sequence WHERE name = 'memory_entries'")
                connection.execute("INSERT INTO sqlite_sequence VALUES ('memory_entries', ?)", (first_id - 1,))

    def is_cheap(self) -> bool:
        """Whether every call ends within about a millisecond: in memory, with few entries written so far."""
        return self._in_memory and self._written <= _CHEAP_ENTRIES

    def add(self, entries: Sequence[MemoryEntry], now: float) -> list[int]:
        self._written += len(entries)
        with self._connections.writing() as connection:
            return [_add_one(connection, entry, now) for entry in entries]

    def supersede(self, entry_id: int, entry: MemoryEntry, now: float) -> int:
        with self._connections.writing() as connection:
            scope_id = _scope_id(connection, entry.scope)
            found = connection.execute(
                "SELECT 1 FROM memory_entries WHERE id = ? AND scope_id = ? AND superseded_by IS NULL",
                (entry_id, scope_id),
            ).fetchone()
            if found is None:
                raise MemoryInputError(
                    f"no active memory {entry_id} in this scope; get its id from retrieve or get_all"
                )
            return _insert(connection, scope_id, entry, now, replaced=[entry_id])

    def search(self, scope: Scope, words: Sequence[str], read: ReadFilter, limit: int) -> list[Match]:
        if not words:
            return []
        with self._connections.reading() as connection:
            scope_id = _known_scope_id(connection, scope)
            if scope_id is None:
                return []
            scores = _text_scores(connection, scope_id, words)
            found: list[Match] = []
            for ids in _batches(sorted(scores, key=lambda entry_id: (-scores[entry_id], -entry_id)), limit):
                found += _matches(connection, scope_id, ids, scores, read)
                if len(found) >= limit:
                    break
        found.sort(key=lambda match: (-match.text_score, -(match.entry.id or 0)))
        return found[:limit]

    def recent(self, scope: Scope, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        condition, values = _SQL.readable(read)
        return self._select(
            f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE} WHERE s.key = :key AND {condition}"
            f" {NEWEST_FIRST} LIMIT :limit",
            {"key": scope.key, "limit": limit, **values},
        )

    def by_entity(self, scope: Scope, key: str, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        condition, values = _SQL.readable(read)
        return self._select(
            f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE}"
            " JOIN memory_entities n ON n.entry_id = e.id AND n.scope_id = e.scope_id"
            f" WHERE s.key = :key AND n.entity = :entity AND {condition}"
            " ORDER BY e.importance DESC, e.created_at DESC, e.id DESC LIMIT :limit",
            {"key": scope.key, "entity": key, "limit": limit, **values},
        )

    def history(self, scope: Scope, entry_id: int, as_of: int | None = None) -> list[MemoryEntry]:
        # UNION, not UNION ALL: it ends even if two entries should name each other.
        return self._select(
            "WITH RECURSIVE newest(id) AS (SELECT :id UNION SELECT e.superseded_by FROM memory_entries e"
            " JOIN newest ON e.id = newest.id WHERE e.superseded_by IS NOT NULL),"
            " chain(id) AS (SELECT id FROM newest UNION SELECT e.id FROM memory_entries e"
            " JOIN chain ON e.superseded_by = chain.id)"
            f" SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE} JOIN chain ON chain.id = e.id"
            " WHERE s.key = :key AND (:as_of IS NULL OR e.id <= :as_of) ORDER BY e.id",
            {"id": entry_id, "key": scope.key, "as_of": as_of},
        )

    def export(self, selector: ScopeSelector, as_of: int | None = None, *, superseded: bool) -> list[MemoryEntry]:
        condition, values = _SQL.selected(selector, as_of, superseded=superseded)
        return self._select(
            f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE} WHERE {condition} {NEWEST_FIRST}",
            values,
        )

    def scopes(self, selector: ScopeSelector) -> list[Scope]:
        with self._connections.reading() as connection:
            rows = connection.execute("SELECT user_id, agent_id, run_id FROM memory_scopes ORDER BY key").fetchall()
        return [scope for scope in (Scope(*row) for row in rows) if selector.includes(scope)]

    def count(self, selector: ScopeSelector, as_of: int | None = None) -> int:
        condition, values = _SQL.selected(selector, as_of, superseded=False)
        with self._connections.reading() as connection:
            row = connection.execute(f"SELECT count(*) FROM {ENTRY_SOURCE} WHERE {condition}", values).fetchone()
        return int(row[0])

    def touch(self, ids: Sequence[int], now: float) -> None:
        if not ids:
            return
        with self._connections.writing(durable=False) as connection:
            connection.executemany(
                "UPDATE memory_entries SET access_count = access_count + 1, last_accessed = ? WHERE id = ?",
                [(now, entry_id) for entry_id in ids],
            )

    def prune(
        self,
        selector: ScopeSelector,
        *,
        created_before: float,
        importance_below: float,
        accessed_before: float | None,
    ) -> int:
        condition, values = _SQL.selected(selector, None, superseded=True)
        condition += " AND e.created_at < :created AND e.importance < :importance"
        condition += " AND (:accessed IS NULL OR e.last_accessed < :accessed)"
        limits = {"created": created_before, "importance": importance_below, "accessed": accessed_before}
        return self._erase(condition, {**values, **limits})

    def clear(self, selector: ScopeSelector) -> int:
        return self._erase(*_SQL.selected(selector, None, superseded=True))

    def watermark(self) -> int:
        with self._connections.reading() as connection:
            row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'memory_entries'").fetchone()
        return int(row[0]) if row else 0

    def put_vectors(self, model: str, vectors: Mapping[int, bytes]) -> None:
        with self._connections.writing() as connection:
            # An entry that was erased meanwhile has no row to select, and so gets no vector.
            connection.executemany(
                "INSERT OR REPLACE INTO memory_vectors (entry_id, model, vector)"
                " SELECT id, ?, ? FROM memory_entries WHERE id = ?",
                [(model, vector, entry_id) for entry_id, vector in vectors.items()],
            )

    def vectors(self, scope: Scope, model: str | None = None) -> list[tuple[int, str, bytes]]:
        with self._connections.reading() as connection:
            return connection.execute(
                f"SELECT v.entry_id, v.model, v.vector FROM {ENTRY_SOURCE} JOIN memory_vectors v ON v.entry_id = e.id"
                " WHERE s.key = ? AND (? IS NULL OR v.model = ?) ORDER BY v.entry_id",
                (scope.key, model, model),
            ).fetchall()

    @property
    def vector_search(self) -> VectorSearch:
        return VectorSearch("sqlite-vec") if self._connections.compare_vectors else VectorSearch("numpy", why_not())

    def has_vectors(self, scope: Scope, model: str) -> bool:
        with self._connections.reading() as connection:
            found = connection.execute(
                f"SELECT 1 FROM {ENTRY_SOURCE} JOIN memory_vectors v ON v.entry_id = e.id"
                " WHERE s.key = ? AND v.model = ? LIMIT 1",
                (scope.key, model),
            ).fetchone()
        return found is not None

    def nearest(self, scope: Scope, model: str, query: bytes, read: ReadFilter, limit: int) -> list[tuple[int, bytes]]:
        condition, values = _SQL.readable(read)
        with self._connections.reading() as connection:
            # IN, not a join: then vectors are read in the order of ids, as they lie in the file. They are compared
            # after those of other dimensions are left out, and what is sorted are ids. NULL, which would come first, is
            # the distance of a zero vector.
            return connection.execute(
                "SELECT entry_id, vector FROM memory_vectors WHERE model = :model AND entry_id IN ("
                "SELECT v.entry_id FROM memory_vectors v WHERE v.model = :model AND v.entry_id IN ("
                f"SELECT e.id FROM {ENTRY_SOURCE} WHERE s.key = :key AND {condition})"
                " AND length(v.vector) = length(:query)"
                " ORDER BY coalesce(vec_distance_cosine(v.vector, :query), 1.0), v.entry_id DESC LIMIT :limit)",
                {"key": scope.key, "model": model, "query": query, "limit": limit, **values},
            ).fetchall()

    def fetch(self, scope: Scope, ids: Sequence[int], read: ReadFilter) -> list[MemoryEntry]:
        condition, values = _SQL.readable(read)
        return self._select(
            f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE}"
            f" WHERE e.id IN (SELECT value FROM json_each(:ids)) AND s.key = :key AND {condition}",
            {"ids": json.dumps(list(ids)), "key": scope.key, **values},
        )

    def close(self) -> None:
        self._connections.close()

    def load(self, entries: Iterable[MemoryEntry]) -> None:
        """Take over exported entries as they are: ids, access counts and supersession included."""
        with self._connections.writing() as connection:
            scope_ids: dict[Scope, int] = {}
            for entry in entries:
                self._written += 1
                scope = entry.scope
                if scope not in scope_ids:
                    scope_ids[scope] = _scope_id(connection, scope)
                _write_row(connection, scope_ids[scope], entry)

    def _select(self, statement: str, values: Mapping[str, Any]) -> list[MemoryEntry]:
        with self._connections.reading() as connection:
            rows = connection.execute(statement, values).fetchall()
        return [entry_from_row(row) for row in rows]

    def _erase(self, condition: str, values: Mapping[str, Any]) -> int:
        with self._connections.writing() as connection:
            rows = connection.execute(
                f"SELECT e.id, e.superseded_by IS NULL FROM {ENTRY_SOURCE} WHERE {condition}", values
            ).fetchall()
            ids = [(row[0],) for row in rows]
            connection.executemany("DELETE FROM memory_search WHERE rowid = ?", ids)
            connection.executemany("DELETE FROM memory_entities WHERE entry_id = ?", ids)
            connection.executemany("DELETE FROM memory_entries WHERE id = ?", ids)
        return sum(row[1] for row in rows)


def _text_scores(connection: sqlite3.Connection, scope_id: int, words: Sequence[str]) -> dict[int, float]:
    """Entry id -> text score, of all entries of the scope with any of ``words``, superseded ones included."""
    (size,) = connection.execute("SELECT count(*) FROM memory_entries WHERE scope_id = ?", (scope_id,)).fetchone()
    scores: dict[int, float] = {}
    for word in scoped_words(scope_id, words):
        hits = connection.execute(
            "SELECT rowid, bm25(memory_search, 1.0, 0.5) FROM memory_search WHERE memory_search MATCH ?", (f'"{word}"',)
        ).fetchall()
        if not hits:
            continue
        frequency = math.log(1.0 + max(size - len(hits) + 0.5, 0.5) / (len(hits) + 0.5))
        weight = frequency * len(hits) / sum(score for _, score in hits)
        for entry_id, score in hits:
            scores[entry_id] = scores.get(entry_id, 0.0) + weight * score
    return scores


def _batches(ids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _matches(
    connection: sqlite3.Connection, scope_id: int, ids: Sequence[int], scores: dict[int, float], read: ReadFilter
) -> list[Match]:
    """Those of the entries ``ids`` that may be read."""
    condition, values = _SQL.readable(read)
    rows = connection.execute(
        f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE}"
        f" WHERE e.id IN (SELECT value FROM json_each(:ids)) AND e.scope_id = :scope AND {condition}",
        {"ids": json.dumps(ids), "scope": scope_id, **values},
    )
    return [Match(entry_from_row(row), scores[row[0]]) for row in rows]


def _add_one(connection: sqlite3.Connection, entry: MemoryEntry, now: float) -> int:
    scope_id = _scope_id(connection, entry.scope)
    same = connection.execute(
        "SELECT id, subject FROM memory_entries WHERE scope_id = ? AND content_hash = ? AND superseded_by IS NULL",
        (scope_id, content_hash(entry.content)),
    ).fetchone()
    if same is not None and entry.subject in (None, same[1]):
        _merge(connection, scope_id, same[0], entry)
        return int(same[0])
    replaced = [] if same is None else [int(same[0])]
    if entry.subject is not None:
        rows = connection.execute(
            "SELECT id FROM memory_entries WHERE scope_id = ? AND subject = ? AND superseded_by IS NULL",
            (scope_id, entry.subject),
        )
        replaced += [row[0] for row in rows]
    return _insert(connection, scope_id, entry, now, replaced)


def _insert(
    connection: sqlite3.Connection, scope_id: int, entry: MemoryEntry, now: float, replaced: Sequence[int]
) -> int:
    # Retired first: the unique index on active contents would refuse the new row.
    connection.executemany(
        "UPDATE memory_entries SET superseded_by = ?, superseded_at = ? WHERE id = ?",
        [(PENDING, now, old) for old in replaced],
    )
    new_id = _write_row(connection, scope_id, entry, new=True)
    connection.executemany(
        "UPDATE memory_entries SET superseded_by = ? WHERE id = ?", [(new_id, old) for old in replaced]
    )
    return new_id


def _write_row(connection: sqlite3.Connection, scope_id: int, entry: MemoryEntry, *, new: bool = False) -> int:
    cursor = connection.execute(
        "INSERT INTO memory_entries (id, scope_id, content, content_hash, memory_type, importance, created_at,"
        " last_accessed, access_count, entities, metadata, subject, superseded_by, superseded_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (None if new else entry.id, scope_id, *entry_values(entry), entry.superseded_by, entry.superseded_at),
    )
    entry_id = cursor.lastrowid
    assert entry_id is not None
    connection.execute(
        "INSERT INTO memory_search (rowid, content, entities) VALUES (?, ?, ?)",
        (entry_id, *search_texts(scope_id, entry.content, entry.entities)),
    )
    _write_entities(connection, scope_id, entry_id, entry.entities)
    return entry_id


def _merge(connection: sqlite3.Connection, scope_id: int, entry_id: int, entry: MemoryEntry) -> None:
    row = connection.execute("SELECT entities, metadata FROM memory_entries WHERE id = ?", (entry_id,)).fetchone()
    entities, metadata = merged(row[0], row[1], entry)
    connection.execute(
        "UPDATE memory_entries SET importance = max(importance, ?), last_accessed = max(last_accessed, ?),"
        " entities = ?, metadata = ? WHERE id = ?",
        (entry.importance, entry.last_accessed, json.dumps(entities), metadata, entry_id),
    )
    if entry.entities:
        connection.execute(
            "UPDATE memory_search SET entities = ? WHERE rowid = ?",
            (search_texts(scope_id, "", entities)[1], entry_id),
        )
        _write_entities(connection, scope_id, entry_id, entry.entities)


def _write_entities(connection: sqlite3.Connection, scope_id: int, entry_id: int, names: Sequence[str]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO memory_entities VALUES (?, ?, ?)",
        [(scope_id, entity_key(name), entry_id) for name in names],
    )


def _known_scope_id(connection: sqlite3.Connection, scope: Scope) -> int | None:
    row = connection.execute("SELECT id FROM memory_scopes WHERE key = ?", (scope.key,)).fetchone()
    return None if row is None else int(row[0])


def _scope_id(connection: sqlite3.Connection, scope: Scope) -> int:
    known = _known_scope_id(connection, scope)
    if known is not None:
        return known
    cursor = connection.execute(
        "INSERT INTO memory_scopes (key, user_id, agent_id, run_id) VALUES (?, ?, ?, ?)",
        (scope.key, scope.user_id, scope.agent_id, scope.run_id),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid
