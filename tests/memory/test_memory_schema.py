"""Opening what is already there: older versions, newer versions, strangers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from hyperfunc.errors import ConfigurationError
from hyperfunc_memory import Memory, MemoryEntry, MemorySchemaError, MemoryStoreError, MemoryType, postgres_schema
from hyperfunc_memory import sqlite_schema as schema
from hyperfunc_memory.text import content_hash, scoped_words

_SCHEMA_0_3 = """
CREATE TABLE memories (id INTEGER NOT NULL PRIMARY KEY, content TEXT NOT NULL, memory_type VARCHAR(20) NOT NULL,
    entities TEXT NOT NULL, importance REAL NOT NULL, created_at REAL NOT NULL, last_accessed REAL NOT NULL,
    access_count INTEGER NOT NULL, metadata TEXT NOT NULL, user_id VARCHAR(255));
CREATE VIRTUAL TABLE memories_fts USING fts5(content, entities, content='memories', content_rowid='id');
CREATE TRIGGER memories_ai AFTER INSERT ON memories BEGIN
    INSERT INTO memories_fts(rowid, content, entities) VALUES (new.id, new.content, new.entities); END;
"""


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def tables(path: Path) -> set[str]:
    with database(path) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_memories_of_0_3_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    rows = [
        (3, "User likes tea", "preference", '["Tea"]', 0.8, 10.0, 20.0, 4, '{"a": 1}', "u"),
        (5, "User likes  TEA", "fact", "[]", 0.5, 11.0, 20.0, 0, "{}", "u"),
        (7, "Nobody's fact", "fact", "[]", 1.5, 12.0, 20.0, 0, "{}", None),
    ]
    with database(path) as connection:
        connection.executescript(_SCHEMA_0_3)
        connection.executemany(f"INSERT INTO memories VALUES ({','.join('?' * 10)})", rows)
    for _ in range(2):  # the second time there is nothing left to do
        with Memory(str(path)) as memory:
            (entry,) = memory.retrieve("tea", "u")
            assert (entry.id, entry.memory_type, entry.metadata) == (3, MemoryType.PREFERENCE, {"a": 1})
            assert memory.get_by_entity("tea", "u")[0].content == "User likes tea"
            assert [(e.id, e.importance) for e in memory.get_recent()] == [(7, 1.0)]
            assert memory.count() == 2
    assert not {"memories", "memories_fts"} & tables(path)
    with Memory(str(path)) as memory:
        assert memory.add(MemoryEntry(content="new")) > 7


def test_a_bad_row_of_0_3_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with database(path) as connection:
        connection.executescript(_SCHEMA_0_3)
        row = (1, "x", "fact", "[]", 0.5, 1.0, 1.0, 0, "{}", "u" * 600)
        connection.execute(f"INSERT INTO memories VALUES ({','.join('?' * 10)})", row)
    with pytest.raises(MemorySchemaError, match="unusable user"):
        Memory(str(path))
    assert "memories" in tables(path)
    assert "memory_entries" not in tables(path)


def test_sqlite_version_1_becomes_version_2(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with database(path) as connection:
        schema._STEPS[0](connection)
        connection.execute("INSERT INTO memory_meta VALUES ('schema_version', '1')")
        connection.execute("INSERT INTO memory_scopes VALUES (1, ?, NULL, NULL, NULL)", (MemoryEntry().scope.key,))
        values = (1, 1, "old tea", content_hash("old tea"), "fact", 0.5, 1.0, 1.0, 0, "[]", "{}")
        connection.execute(f"INSERT INTO memory_entries VALUES ({','.join('?' * 11)})", values)
        connection.execute(
            "INSERT INTO memory_search (rowid, content) VALUES (1, ?)", (" ".join(scoped_words(1, ["tea"])),)
        )
    with Memory(str(path)) as memory:
        assert [e.content for e in memory.retrieve("tea")] == ["old tea"]
        memory.supersede(1, MemoryEntry(content="new tea", subject="tea"))
        assert [e.content for e in memory.history(1)] == ["old tea", "new tea"]
    with database(path) as connection:
        assert schema.stored_version(connection) == schema.SCHEMA_VERSION


def test_postgres_version_1_becomes_version_2(postgres_store: str) -> None:
    with psycopg.connect(postgres_store) as connection:
        connection.execute(postgres_schema._STEPS[0])
        connection.execute("INSERT INTO memory_meta VALUES ('schema_version', '1')")
        connection.execute("INSERT INTO memory_scopes (key) VALUES (%s)", (MemoryEntry().scope.key,))
        connection.execute(
            "INSERT INTO memory_entries (scope_id, content, content_hash, memory_type, importance, created_at,"
            " last_accessed, access_count, entities, metadata, search)"
            " VALUES (1, 'old tea', %s, 'fact', 0.5, 1, 1, 0, '[]', '{}', to_tsvector('english', %s))",
            (content_hash("old tea"), " ".join(scoped_words(1, ["tea"]))),
        )
    with Memory(postgres_store) as memory:
        assert [e.content for e in memory.retrieve("tea")] == ["old tea"]
        memory.supersede(1, MemoryEntry(content="new tea", subject="tea"))
        assert [e.content for e in memory.history(1)] == ["old tea", "new tea"]
    with psycopg.connect(postgres_store) as connection:
        assert postgres_schema.stored_version(connection) == postgres_schema.SCHEMA_VERSION


def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path, postgres_store: str) -> None:
    path = tmp_path / "memory.db"
    newer = "UPDATE memory_meta SET value = '99' WHERE name = 'schema_version'"
    Memory(str(path)).close()
    with database(path) as connection:
        connection.execute(newer)
    Memory(postgres_store).close()
    with psycopg.connect(postgres_store) as server:
        server.execute(newer)
    for url in (str(path), postgres_store):
        with pytest.raises(MemorySchemaError, match=r"version 99.*up to 4.*upgrade"):
            Memory(url)


def test_a_strangers_tables(tmp_path: Path, postgres_store: str) -> None:
    path = tmp_path / "app.db"
    with database(path) as connection:
        connection.execute("CREATE TABLE memories (id INTEGER, note TEXT)")  # not the one of 0.3
        connection.execute("INSERT INTO memories VALUES (1, 'mine')")
    with Memory(str(path)) as memory:
        memory.add(MemoryEntry(content="x"))
    with database(path) as connection:
        assert connection.execute("SELECT note FROM memories").fetchall() == [("mine",)]
    taken = tmp_path / "taken.db"
    with database(taken) as connection:
        connection.execute("CREATE TABLE memory_entries (id INTEGER)")
    with psycopg.connect(postgres_store) as server:
        server.execute("CREATE TABLE memory_entries (id integer)")
    for url in (str(taken), postgres_store):
        with pytest.raises(MemorySchemaError, match="no hyperfunc made"):
            Memory(url)
    assert tables(taken) == {"memory_entries"}


def test_what_is_erased_leaves_no_row(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with Memory(str(path), embed=lambda texts: [[1.0]] * len(texts), clock=lambda: 100 * 86_400.0) as memory:
        for user in ("cleared", "pruned"):
            old = MemoryEntry(
                content="tea", entities=["T"], importance=0, created_at=0, last_accessed=0, user_id=user, subject="s"
            )
            memory.add_many([old, replace(old, content="coffee")])
        memory.clear("cleared")
        assert memory.prune() == 1
    with database(path) as connection:
        for table in ("memory_entries", "memory_search", "memory_entities", "memory_vectors"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_what_is_no_database(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("this is not a database, and it is longer than a header of SQLite, which has 100 bytes. " * 9)
    before = text.read_bytes()
    with pytest.raises(MemoryStoreError, match="not a database"):
        Memory(str(text))
    assert text.read_bytes() == before
    with pytest.raises(MemoryStoreError, match="folder does not exist"):
        Memory(str(tmp_path / "missing" / "memory.db"))
    with pytest.raises(MemoryStoreError):
        Memory(str(tmp_path))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", ":memory:", "SQLITE:///:memory:"])
def test_names_of_the_database_in_memory(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Memory(url) as memory:
        memory.add(MemoryEntry(content="x"))
    assert list(tmp_path.iterdir()) == []


def test_relative_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("plain", "some.db", "sqlite:///relative.db", f"sqlite:///{tmp_path}/absolute.db"):
        Memory(url).close()
    assert {p.name for p in tmp_path.iterdir()} == {"plain", "some.db", "relative.db", "absolute.db"}


@pytest.mark.parametrize("url", ["", " ", "mysql://x/y", "x\0y", None, 7])
def test_urls_that_name_no_backend(url: object) -> None:
    with pytest.raises(ConfigurationError):
        Memory(url)  # type: ignore[arg-type]


def test_an_unreachable_server_is_named() -> None:
    with pytest.raises(MemoryStoreError, match="cannot open the PostgreSQL memory"):
        Memory("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(MemoryStoreError, match="cannot open the PostgreSQL memory"):
        Memory("postgresql://localhost/x?no_such_option=1")
