"""The SQLite schema of a memory, its version, and the steps from older ones. Knows nothing of searching.

Every table has the prefix ``memory_``, so that a memory can live in a database that holds other things. The version is
a row of ``memory_meta``. Version 0 is the ``memories`` table that hyperfunc 0.3 wrote.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from hyperfunc_memory.entries import Scope
from hyperfunc_memory.errors import MemoryInputError, MemorySchemaError
from hyperfunc_memory.rows import search_texts
from hyperfunc_memory.text import content_hash, entity_key

__all__ = ["SCHEMA_VERSION", "migrate", "stored_version"]

SCHEMA_VERSION = 4

_VERSION_1 = (
    "CREATE TABLE memory_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE memory_scopes (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, user_id TEXT, agent_id TEXT, run_id TEXT)""",
    "CREATE INDEX memory_scopes_user ON memory_scopes (user_id)",
    # AUTOINCREMENT: an id is never given twice, which snapshots rely on.
    """CREATE TABLE memory_entries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        scope_id INTEGER NOT NULL REFERENCES memory_scopes (id),
        content TEXT NOT NULL,
        content_hash TEXT NOT NULL,
        memory_type TEXT NOT NULL,
        importance REAL NOT NULL,
        created_at REAL NOT NULL,
        last_accessed REAL NOT NULL,
        access_count INTEGER NOT NULL,
        entities TEXT NOT NULL,
        metadata TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX memory_entries_content ON memory_entries (scope_id, content_hash)",
    "CREATE INDEX memory_entries_recent ON memory_entries (scope_id, created_at DESC, id DESC)",
    """CREATE TABLE memory_entities (
        scope_id INTEGER NOT NULL, entity TEXT NOT NULL, entry_id INTEGER NOT NULL,
        PRIMARY KEY (scope_id, entity, entry_id)) WITHOUT ROWID""",
    "CREATE INDEX memory_entities_entry ON memory_entities (entry_id)",
    """CREATE VIRTUAL TABLE memory_search USING fts5 (
        content, entities, tokenize = 'porter unicode61 remove_diacritics 0')""",
)

# Supersession: what was one entry per content becomes one *active* entry per content.
_VERSION_2 = (
    "ALTER TABLE memory_entries ADD COLUMN subject TEXT",
    "ALTER TABLE memory_entries ADD COLUMN superseded_by INTEGER",
    "ALTER TABLE memory_entries ADD COLUMN superseded_at REAL",
    "DROP INDEX memory_entries_content",
    """CREATE UNIQUE INDEX memory_entries_content ON memory_entries (scope_id, content_hash)
        WHERE superseded_by IS NULL""",
    """CREATE INDEX memory_entries_subject ON memory_entries (scope_id, subject)
        WHERE superseded_by IS NULL AND subject IS NOT NULL""",
    "CREATE INDEX memory_entries_superseded ON memory_entries (superseded_by) WHERE superseded_by IS NOT NULL",
)

# Vectors of entries, by model: what finds memories by meaning.
_VERSION_3 = (
    """CREATE TABLE memory_vectors (
        entry_id INTEGER NOT NULL REFERENCES memory_entries (id) ON DELETE CASCADE,
        model TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (entry_id, model)) WITHOUT ROWID""",
)

# Rows in the order of writing: reading the vectors of a scope takes half of the time.
_VERSION_4 = (
    "ALTER TABLE memory_vectors RENAME TO memory_vectors_3",
    """CREATE TABLE memory_vectors (
        id INTEGER PRIMARY KEY,
        entry_id INTEGER NOT NULL REFERENCES memory_entries (id) ON DELETE CASCADE,
        model TEXT NOT NULL, vector BLOB NOT NULL, UNIQUE (entry_id, model))""",
    "INSERT INTO memory_vectors (entry_id, model, vector) SELECT * FROM memory_vectors_3",
    "DROP TABLE memory_vectors_3",
)

_COLUMNS_OF_0_3 = {
    "id",
    "content",
    "memory_type",
    "entities",
    "importance",
    "created_at",
    "last_accessed",
    "access_count",
    "metadata",
    "user_id",
}


def stored_version(connection: sqlite3.Connection) -> int:
    """The version of the schema in the database; 0 if there is none."""
    if not _has_table(connection, "memory_meta"):
        return 0
    row = connection.execute("SELECT value FROM memory_meta WHERE name = 'schema_version'").fetchone()
    return int(row[0]) if row else 0


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to :data:`SCHEMA_VERSION`, inside the caller's write transaction.

    Raises:
        MemorySchemaError: the database was written by a newer version, or its tables are not ours.
    """
    version = stored_version(connection)
    if version > SCHEMA_VERSION:
        raise MemorySchemaError(
            f"this memory has schema version {version}, and this hyperfunc knows versions up to {SCHEMA_VERSION}; "
            "upgrade hyperfunc, or open another file"
        )
    if version == 0 and _has_table(connection, "memory_entries"):
        raise MemorySchemaError("the database has a table 'memory_entries' that no hyperfunc made; open another file")
    for step in _STEPS[version:]:
        step(connection)
    connection.execute("INSERT OR REPLACE INTO memory_meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))


def _to_version_1(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_1:
        connection.execute(statement)
    if {row[1] for row in connection.execute("PRAGMA table_info (memories)")} >= _COLUMNS_OF_0_3:
        _import_0_3(connection)


def _to_version_2(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_2:
        connection.execute(statement)


def _to_version_3(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_3:
        connection.execute(statement)


def _to_version_4(connection: sqlite3.Connection) -> None:
    for statement in _VERSION_4:
        connection.execute(statement)


_STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _to_version_1,
    _to_version_2,
    _to_version_3,
    _to_version_4,
)


def _import_0_3(connection: sqlite3.Connection) -> None:
    """Take over the ``memories`` of 0.3, ids included, and drop them there: ``clear`` must erase them for good."""
    rows = connection.execute(
        "SELECT id, content, memory_type, entities, importance, created_at, last_accessed, access_count, metadata,"
        " user_id FROM memories ORDER BY id"
    ).fetchall()
    for entry_id, content, kind, entities, importance, created, accessed, count, metadata, user in rows:
        scope_id = _scope_row(connection, user)
        names = json.loads(entities)
        inserted = connection.execute(
            "INSERT OR IGNORE INTO memory_entries (id, scope_id, content, content_hash, memory_type, importance,"
            " created_at, last_accessed, access_count, entities, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(entry_id, scope_id, content, content_hash(content), kind, min(max(importance, 0.0), 1.0)),
                *(created, accessed, count, json.dumps(names), metadata),
            ),
        )
        if inserted.rowcount == 0:  # 0.3 kept duplicates
            continue
        connection.executemany(
            "INSERT OR IGNORE INTO memory_entities VALUES (?, ?, ?)",
            [(scope_id, entity_key(name), entry_id) for name in names],
        )
        connection.execute(
            "INSERT INTO memory_search (rowid, content, entities) VALUES (?, ?, ?)",
            (entry_id, *search_texts(scope_id, content, names)),
        )
    connection.execute("DROP TABLE IF EXISTS memories_fts")
    connection.execute("DROP TABLE memories")


def _scope_row(connection: sqlite3.Connection, user_id: str | None) -> int:
    try:
        key = Scope(user_id).key
    except MemoryInputError as error:
        raise MemorySchemaError(f"a memory written by hyperfunc 0.3 belongs to an unusable user: {error}") from error
    connection.execute("INSERT OR IGNORE INTO memory_scopes (key, user_id) VALUES (?, ?)", (key, user_id))
    found: int = connection.execute("SELECT id FROM memory_scopes WHERE key = ?", (key,)).fetchone()[0]
    return found


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    row = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone()
    return row is not None
