"""pgvector: vectors compared inside PostgreSQL. Whether it is there, and what is asked of it.

What is kept is the float32 bytes, which every server can. Where pgvector is installed, the same numbers also stand in a
column of type ``real[]``, which needs no extension to exist and is cast to pgvector's type when it is compared. A row
written where pgvector was not there has none yet, and gets it before its scope is searched.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from psycopg import Connection, sql
from psycopg.adapt import Dumper
from psycopg.pq import Format

from hyperfunc_memory.backend import ReadFilter, VectorSearch
from hyperfunc_memory.entries import Scope
from hyperfunc_memory.rows import ENTRY_SOURCE, Dialect

__all__ = ["PostgresVectors"]

_MOST_DIMENSIONS = 16_000  # of pgvector's type
_MISSING = VectorSearch(
    "numpy", "pgvector is not installed in this database; its administrator runs: CREATE EXTENSION vector"
)


class _Floats(bytes):
    """float32 bytes, sent as ``real[]``."""


class _FloatsDumper(Dumper):
    format = Format.BINARY
    oid = 1021  # real[]

    def dump(self, obj: _Floats) -> bytes:
        values = np.frombuffer(obj, dtype=np.float32)
        elements = np.empty(len(values), dtype=[("bytes", ">i4"), ("value", ">f4")])
        elements["bytes"], elements["value"] = 4, values
        # One dimension, no NULLs, of type real, from index 1 (array_recv in PostgreSQL's arrayfuncs.c).
        return struct.pack(">iiiii", 1, 0, 700, len(values), 1) + elements.tobytes()


class PostgresVectors:
    """Vectors of entries in one database.

    Args:
        connection: to look for pgvector with.
        dialect: how conditions are spelled.
    """

    def __init__(self, connection: Connection[Any], dialect: Dialect) -> None:
        row = connection.execute(
            "SELECT n.nspname FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace"
            " WHERE x.extname = 'vector'"
        ).fetchone()
        # Its schema need not be on the search path.
        self._schema = None if row is None else sql.Identifier(row[0]).as_string(connection)
        self._dialect = dialect

    @property
    def search(self) -> VectorSearch:
        return _MISSING if self._schema is None else VectorSearch("pgvector")

    def put(self, connection: Connection[Any], model: str, vectors: Mapping[int, bytes]) -> None:
        """Keep entry id -> vector; an entry that was erased meanwhile has no row to select, and so gets none."""
        self._prepare(connection)
        rows = [(model, vectors[entry_id], self._array(vectors[entry_id]), entry_id) for entry_id in sorted(vectors)]
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO memory_vectors (entry_id, model, vector, numbers)"
                " SELECT id, %s, %s, %s::real[] FROM memory_entries WHERE id = %s FOR KEY SHARE"
                " ON CONFLICT (entry_id, model) DO UPDATE SET vector = excluded.vector, numbers = excluded.numbers",
                rows,
            )

    def nearest(
        self, connection: Connection[Any], scope: Scope, model: str, query: bytes, read: ReadFilter, limit: int
    ) -> list[tuple[int, bytes]]:
        """See :class:`~hyperfunc_memory.backend.NearestBackend`."""
        self._prepare(connection)
        self._fill(connection, scope, model)
        condition, values = self._dialect.readable(read)
        # Comparing is part of the sort, and so comes after the condition that leaves out other dimensions.
        vector = f"{self._schema}.vector"
        ordered = (
            f" ORDER BY v.numbers::{vector} OPERATOR({self._schema}.<=>) %(query)s::real[]::{vector}, v.entry_id DESC"
            " LIMIT %(limit)s"
        )
        return connection.execute(
            "SELECT entry_id, vector FROM memory_vectors WHERE model = %(model)s AND entry_id IN ("
            f"SELECT v.entry_id FROM {ENTRY_SOURCE} JOIN memory_vectors v ON v.entry_id = e.id"
            " WHERE s.key = %(key)s AND v.model = %(model)s AND octet_length(v.vector) = %(bytes)s"
            f" AND {condition} {ordered if self._fits(query) else ''})",
            {"key": scope.key, "model": model, "bytes": len(query), "query": _Floats(query), "limit": limit, **values},
            binary=True,
        ).fetchall()

    def _fill(self, connection: Connection[Any], scope: Scope, model: str) -> None:
        """Give the vectors of the scope that were written where pgvector was not there what it compares."""
        rows = connection.execute(
            f"SELECT v.entry_id, v.vector FROM {ENTRY_SOURCE} JOIN memory_vectors v ON v.entry_id = e.id"
            " WHERE s.key = %s AND v.model = %s AND v.numbers IS NULL AND octet_length(v.vector) <= %s"
            " ORDER BY v.entry_id FOR UPDATE OF v",
            (scope.key, model, 4 * _MOST_DIMENSIONS),
            binary=True,
        ).fetchall()
        if rows:
            with connection.cursor() as cursor:
                cursor.executemany(
                    "UPDATE memory_vectors SET numbers = %s::real[] WHERE entry_id = %s AND model = %s",
                    [(_Floats(vector), entry_id, model) for entry_id, vector in rows if self._comparable(vector)],
                )

    def _array(self, vector: bytes) -> _Floats | None:
        return None if self._schema is None or not self._comparable(vector) else _Floats(vector)

    def _comparable(self, vector: bytes) -> bool:
        # pgvector refuses what no embedder makes: nothing at all, NaN and infinity.
        whole = bool(vector) and len(vector) % 4 == 0 and self._fits(vector)
        return whole and bool(np.isfinite(np.frombuffer(vector, dtype=np.float32)).all())

    @staticmethod
    def _fits(vector: bytes) -> bool:
        return len(vector) <= 4 * _MOST_DIMENSIONS

    @staticmethod
    def _prepare(connection: Connection[Any]) -> None:
        connection.adapters.register_dumper(_Floats, _FloatsDumper)
