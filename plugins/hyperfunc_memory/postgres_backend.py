"""Memories in PostgreSQL: a GIN index over tsvector finds them; matches are scored within their scope.

The words in the index carry their scope (see :mod:`hyperfunc_memory.text`), and ``scope_id`` is checked once more. The
text score of an entry is the sum over the query's words of

    ln(1 + (N - n + ½) / (n + ½)) · ts_rank(entry, word),

N being the entries of the scope and n those with the word: the inverse document frequency of BM25, which ts_rank lacks.
Knows nothing of relevance, extraction or event loops.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hyperfunc.errors import MissingDependencyError
from hyperfunc_memory.backend import Match, ReadFilter, ScopeSelector, VectorSearch
from hyperfunc_memory.entries import MemoryEntry, Scope
from hyperfunc_memory.errors import MemoryInputError, MemoryStoreError
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
from hyperfunc_memory.text import content_hash, entity_key, scoped_words

try:
    import psycopg
    from psycopg import Connection
    from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout
except ImportError as _error:
    raise MissingDependencyError("psycopg", "memory") from _error

from hyperfunc_memory.postgres_schema import migrate
from hyperfunc_memory.postgres_vectors import PostgresVectors

__all__ = ["PostgresBackend"]

# Not IS NULL: that would draw the planner to the partial indexes, whose condition it is, off better ones.
_SQL = Dialect(parameter="%({})s", active="coalesce(e.superseded_by, -1) = -1", true="true")
_WRITERS_LOCK = 0x68660002
_MAX_CONNECTIONS = 8
_CONNECT_SECONDS = 15


class PostgresBackend:
    """A :class:`MemoryBackend` in one schema of a PostgreSQL database (version 12 or later).

    Args:
        url: ``postgresql://user:password@host/database``, libpq's parameters after ``?`` (``options=-csearch_path%3Dx``
            chooses the schema).

    Raises:
        MemoryStoreError: the server cannot be reached, or refuses.
    """

    def __init__(self, url: str) -> None:
        try:
            # One plain connection first: a pool would try again and again in the background, and hide the reason.
            with psycopg.connect(url, connect_timeout=_CONNECT_SECONDS) as connection:
                migrate(connection)
                self._vectors = PostgresVectors(connection, _SQL)
            self._url = url
            self._open_pool()
        except (psycopg.Error, PoolTimeout) as error:
            raise MemoryStoreError(f"cannot open the PostgreSQL memory: {error}") from error

    def add(self, entries: Sequence[MemoryEntry], now: float) -> list[int]:
        with self._writing([entry.scope for entry in entries]) as (connection, scope_ids):
            return [_add_one(connection, scope_ids[entry.scope], entry, now) for entry in entries]

    def supersede(self, entry_id: int, entry: MemoryEntry, now: float) -> int:
        with self._writing([entry.scope]) as (connection, scope_ids):
            scope_id = scope_ids[entry.scope]
            found = connection.execute(
                "SELECT 1 FROM memory_entries WHERE id = %s AND scope_id = %s AND superseded_by IS NULL",
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
        with self._transaction() as connection:
            row = connection.execute("SELECT id FROM memory_scopes WHERE key = %s", (scope.key,)).fetchone()
            if row is None:
                return []
            lexed = connection.execute(
                "SELECT plainto_tsquery('english', word)::text FROM unnest(%s::text[]) AS word",
                (scoped_words(row[0], words),),
            ).fetchall()
            statement, values = _search(row[0], [query for (query,) in lexed], read)
            rows = connection.execute(statement, {**values, "limit": limit}).fetchall()
        return [Match(entry_from_row(found), found[-1]) for found in rows]

    def recent(self, scope: Scope, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        condition, values = _SQL.readable(read)
        return self._select(
            f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE} WHERE s.key = %(key)s AND {condition}"
            f" {NEWEST_FIRST} LIMIT %(limit)s",
            {"key": scope.key, "limit": limit, **values},
        )

    def by_entity(self, scope: Scope, key: str, read: ReadFilter, limit: int) -> list[MemoryEntry]:
        condition, values = _SQL.readable(read)
        return self._select(
            f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE}"
            " JOIN memory_entities n ON n.entry_id = e.id AND n.scope_id = e.scope_id"
            f" WHERE s.key = %(key)s AND n.entity = %(entity)s AND {condition}"
            " ORDER BY e.importance DESC, e.created_at DESC, e.id DESC LIMIT %(limit)s",
            {"key": scope.key, "entity": key, "limit": limit, **values},
        )

    def history(self, scope: Scope, entry_id: int, as_of: int | None = None) -> list[MemoryEntry]:
        # UNION, not UNION ALL: it ends even if two entries should name each other.
        return self._select(
            "WITH RECURSIVE newest(id) AS (SELECT %(id)s::bigint UNION SELECT e.superseded_by FROM memory_entries e"
            " JOIN newest ON e.id = newest.id WHERE e.superseded_by IS NOT NULL),"
            " chain(id) AS (SELECT id FROM newest UNION SELECT e.id FROM memory_entries e"
            " JOIN chain ON e.superseded_by = chain.id)"
            f" SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE} JOIN chain ON chain.id = e.id"
            " WHERE s.key = %(key)s AND (%(as_of)s::bigint IS NULL OR e.id <= %(as_of)s::bigint) ORDER BY e.id",
            {"id": entry_id, "key": scope.key, "as_of": as_of},
        )

    def export(self, selector: ScopeSelector, as_of: int | None = None, *, superseded: bool) -> list[MemoryEntry]:
        condition, values = _SQL.selected(selector, as_of, superseded=superseded)
        return self._select(
            f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE} WHERE {condition} {NEWEST_FIRST}",
            values,
        )

    def scopes(self, selector: ScopeSelector) -> list[Scope]:
        with self._transaction() as connection:
            rows = connection.execute("SELECT user_id, agent_id, run_id FROM memory_scopes").fetchall()
        found = (Scope(*row) for row in rows)
        return sorted((scope for scope in found if selector.includes(scope)), key=lambda scope: scope.key)

    def count(self, selector: ScopeSelector, as_of: int | None = None) -> int:
        condition, values = _SQL.selected(selector, as_of, superseded=False)
        with self._transaction() as connection:
            row = connection.execute(f"SELECT count(*) FROM {ENTRY_SOURCE} WHERE {condition}", values).fetchone()
        return int(row[0]) if row else 0

    def touch(self, ids: Sequence[int], now: float) -> None:
        if not ids:
            return
        with self._transaction() as connection:
            connection.execute("SET LOCAL synchronous_commit = off")
            # Locked in the order of ids, as everywhere here: two transactions never wait for each other.
            connection.execute(
                "WITH locked AS (SELECT id FROM memory_entries WHERE id = ANY(%s) ORDER BY id FOR UPDATE)"
                " UPDATE memory_entries e SET access_count = access_count + 1, last_accessed = %s"
                " FROM locked WHERE e.id = locked.id",
                (list(ids), now),
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
        condition += " AND e.created_at < %(created)s AND e.importance < %(importance)s"
        if accessed_before is not None:
            condition += " AND e.last_accessed < %(accessed)s"
        limits = {"created": created_before, "importance": importance_below, "accessed": accessed_before}
        return self._erase(condition, {**values, **limits})

    def clear(self, selector: ScopeSelector) -> int:
        return self._erase(*_SQL.selected(selector, None, superseded=True))

    def watermark(self) -> int:
        with self._transaction() as connection:
            # Alone among writers for a moment: every id up to the largest is committed or given up for good.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITERS_LOCK,))
            row = connection.execute("SELECT coalesce(max(id), 0) FROM memory_entries").fetchone()
        return int(row[0]) if row else 0

    def put_vectors(self, model: str, vectors: Mapping[int, bytes]) -> None:
        with self._transaction() as connection:
            self._vectors.put(connection, model, vectors)

    def vectors(self, scope: Scope, model: str | None = None) -> list[tuple[int, str, bytes]]:
        with self._transaction() as connection:
            return connection.execute(
                f"SELECT v.entry_id, v.model, v.vector FROM {ENTRY_SOURCE} JOIN memory_vectors v ON v.entry_id = e.id"
                " WHERE s.key = %(key)s AND (%(model)s::text IS NULL OR v.model = %(model)s::text) ORDER BY v.entry_id",
                {"key": scope.key, "model": model},
                binary=True,
            ).fetchall()

    @property
    def vector_search(self) -> VectorSearch:
        return self._vectors.search

    def has_vectors(self, scope: Scope, model: str) -> bool:
        with self._transaction() as connection:
            row = connection.execute(
                f"SELECT EXISTS (SELECT FROM {ENTRY_SOURCE} JOIN memory_vectors v ON v.entry_id = e.id"
                " WHERE s.key = %s AND v.model = %s)",
                (scope.key, model),
            ).fetchone()
        return row is not None and bool(row[0])

    def nearest(self, scope: Scope, model: str, query: bytes, read: ReadFilter, limit: int) -> list[tuple[int, bytes]]:
        with self._transaction() as connection:
            return self._vectors.nearest(connection, scope, model, query, read, limit)

    def fetch(self, scope: Scope, ids: Sequence[int], read: ReadFilter) -> list[MemoryEntry]:
        condition, values = _SQL.readable(read)
        return self._select(
            f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE} WHERE e.id = ANY(%(ids)s) AND s.key = %(key)s AND {condition}",
            {"ids": list(ids), "key": scope.key, **values},
        )

    def close(self) -> None:
        self._pool.close()

    def _select(self, statement: str, values: Mapping[str, Any]) -> list[MemoryEntry]:
        with self._transaction() as connection:
            rows = connection.execute(statement, values).fetchall()
        return [entry_from_row(row) for row in rows]

    def _erase(self, condition: str, values: Mapping[str, Any]) -> int:
        with self._transaction() as connection:
            rows = connection.execute(
                f"SELECT e.id, e.superseded_by IS NULL FROM {ENTRY_SOURCE} WHERE {condition}"
                " ORDER BY e.id FOR UPDATE OF e",
                values,
            ).fetchall()
            connection.execute("DELETE FROM memory_entries WHERE id = ANY(%s)", ([row[0] for row in rows],))
        return sum(row[1] for row in rows)

    def _open_pool(self) -> None:
        self._process = os.getpid()
        self._pool = ConnectionPool(self._url, min_size=1, max_size=_MAX_CONNECTIONS, open=False, timeout=60.0)
        self._pool.open(wait=True, timeout=_CONNECT_SECONDS)

    @contextmanager
    def _transaction(self) -> Iterator[Connection[Any]]:
        try:
            if self._process != os.getpid():  # a forked child must not talk on its parent's connections
                self._abandoned = self._pool
                self._open_pool()
            with self._pool.connection() as connection:
                yield connection
        except PoolClosed as error:
            raise MemoryStoreError("this memory is closed; make a new one") from error
        except (psycopg.Error, PoolTimeout) as error:
            raise MemoryStoreError(f"the PostgreSQL memory failed: {error}") from error

    @contextmanager
    def _writing(self, scopes: Sequence[Scope]) -> Iterator[tuple[Connection[Any], dict[Scope, int]]]:
        """A transaction that alone writes to ``scopes``, and their ids. Scopes are locked in key order."""
        with self._transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (_WRITERS_LOCK,))
            ids: dict[Scope, int] = {}
            for scope in sorted(set(scopes), key=lambda scope: scope.key):
                connection.execute(
                    "INSERT INTO memory_scopes (key, user_id, agent_id, run_id) VALUES (%s, %s, %s, %s)"
                    " ON CONFLICT (key) DO NOTHING",
                    (scope.key, scope.user_id, scope.agent_id, scope.run_id),
                )
                row = connection.execute(
                    "SELECT id FROM memory_scopes WHERE key = %s FOR UPDATE", (scope.key,)
                ).fetchone()
                assert row is not None
                ids[scope] = row[0]
            yield connection, ids


def _add_one(connection: Connection[Any], scope_id: int, entry: MemoryEntry, now: float) -> int:
    same = connection.execute(
        "SELECT id, subject FROM memory_entries WHERE scope_id = %s AND content_hash = %s AND superseded_by IS NULL",
        (scope_id, content_hash(entry.content)),
    ).fetchone()
    if same is not None and entry.subject in (None, same[1]):
        _merge(connection, scope_id, same[0], entry)
        return int(same[0])
    replaced = [] if same is None else [int(same[0])]
    if entry.subject is not None:
        rows = connection.execute(
            "SELECT id FROM memory_entries WHERE scope_id = %s AND subject = %s AND superseded_by IS NULL",
            (scope_id, entry.subject),
        )
        replaced += [row[0] for row in rows]
    return _insert(connection, scope_id, entry, now, replaced)


def _insert(connection: Connection[Any], scope_id: int, entry: MemoryEntry, now: float, replaced: Sequence[int]) -> int:
    # Retired first: the unique index on active contents would refuse the new row.
    for old in sorted(replaced):
        connection.execute(
            "UPDATE memory_entries SET superseded_by = %s, superseded_at = %s WHERE id = %s", (PENDING, now, old)
        )
    row = connection.execute(
        "INSERT INTO memory_entries (scope_id, content, content_hash, memory_type, importance, created_at,"
        " last_accessed, access_count, entities, metadata, subject, search) VALUES"
        f" (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {_SEARCH_VECTOR}) RETURNING id",
        (scope_id, *entry_values(entry), *search_texts(scope_id, entry.content, entry.entities)),
    ).fetchone()
    assert row is not None
    new_id = int(row[0])
    if replaced:
        connection.execute(
            "UPDATE memory_entries SET superseded_by = %s WHERE id = ANY(%s)", (new_id, sorted(replaced))
        )
    _write_entities(connection, scope_id, new_id, entry.entities)
    return new_id


def _merge(connection: Connection[Any], scope_id: int, entry_id: int, entry: MemoryEntry) -> None:
    row = connection.execute(
        "SELECT entities, metadata, content FROM memory_entries WHERE id = %s FOR UPDATE", (entry_id,)
    ).fetchone()
    assert row is not None
    entities, metadata = merged(row[0], row[1], entry)
    connection.execute(
        "UPDATE memory_entries SET importance = greatest(importance, %s), last_accessed = greatest(last_accessed, %s),"
        f" entities = %s, metadata = %s, search = {_SEARCH_VECTOR} WHERE id = %s",
        (
            *(entry.importance, entry.last_accessed, json.dumps(entities)),
            metadata,
            *search_texts(scope_id, row[2], entities),
            entry_id,
        ),
    )
    _write_entities(connection, scope_id, entry_id, entry.entities)


def _search(scope_id: int, queries: Sequence[str], read: ReadFilter) -> tuple[str, dict[str, Any]]:
    """The statement that finds and scores entries that match any of the tsqueries; all but its ``limit``.

    The queries are lexed beforehand: a prepared statement would lex each once more for every row.
    """
    condition, values = _SQL.readable(read)
    numbers = range(len(queries))
    any_query = " || ".join(f"%(query_{i})s::tsquery" for i in numbers)
    ranks = ", ".join(f"ts_rank(e.search, %(query_{i})s::tsquery, 1) AS r{i}" for i in numbers)
    hits = ", ".join(f"count(*) FILTER (WHERE r{i} > 0) AS n{i}" for i in numbers)
    weights = ", ".join(f"ln((1 + greatest(size.n - n{i} + 0.5, 0.5) / (n{i} + 0.5))::float8) AS w{i}" for i in numbers)
    score = " + ".join(f"r{i} * w{i}" for i in numbers)
    # MATERIALIZED: before the first ANALYZE the planner expects one row, and would count anew for each that it finds.
    # The scope is in the words already; checked as a condition of its own it would draw the planner off the GIN index.
    statement = f"""
        WITH matches AS MATERIALIZED (
            SELECT e.id, e.scope_id, {ranks} FROM memory_entries e WHERE e.search @@ ({any_query}) AND {condition}),
        size AS MATERIALIZED (
            SELECT count(*) AS n FROM memory_entries WHERE scope_id = %(scope_id)s AND superseded_by IS NULL),
        hits AS MATERIALIZED (SELECT {hits} FROM matches),
        weights AS MATERIALIZED (SELECT {weights} FROM hits, size),
        best AS MATERIALIZED (
            SELECT id, {score} AS score FROM matches, weights WHERE scope_id = %(scope_id)s
            ORDER BY score DESC, id DESC LIMIT %(limit)s)
        SELECT {ENTRY_COLUMNS}, best.score FROM best JOIN memory_entries e ON e.id = best.id
        JOIN memory_scopes s ON s.id = e.scope_id ORDER BY best.score DESC, e.id DESC"""
    lexed = {f"query_{i}": query for i, query in enumerate(queries)}
    return statement, {**values, **lexed, "scope_id": scope_id}


_SEARCH_VECTOR = "setweight(to_tsvector('english', %s), 'A') || setweight(to_tsvector('english', %s), 'B')"


def _write_entities(connection: Connection[Any], scope_id: int, entry_id: int, names: Sequence[str]) -> None:
    for key in sorted({entity_key(name) for name in names}):
        connection.execute(
            "INSERT INTO memory_entities VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", (scope_id, key, entry_id)
        )
