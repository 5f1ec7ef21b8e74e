"""What searches for near vectors promise, by numpy and by the database: hostile vectors, crowds, death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from hyperfunc.errors import ConfigurationError, MissingDependencyError
from hyperfunc_memory import Match, Memory, MemoryEntry, Scope
from hyperfunc_memory.backend import ReadFilter
from hyperfunc_memory.embedding import Meaning, embedded
from hyperfunc_memory.sqlite_vectors import offered_to_new_connections

_SEARCHES = ("numpy", "extension")


def spread(texts: list[str]) -> np.ndarray:
    """A direction of its own for every text, the same in every process."""
    return np.stack([np.random.default_rng(zlib.crc32(text.encode())).normal(size=24) for text in texts])


@pytest.fixture
def extended_url(store_url: str) -> str:
    """A store whose extension compares vectors; without one the test is skipped."""
    if not store_url.startswith("postgres"):
        pytest.importorskip("sqlite_vec")
        return store_url
    with psycopg.connect(store_url, autocommit=True) as connection:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        except psycopg.Error as error:
            pytest.skip(f"this server has no pgvector: {error}")
    return store_url


def neighbours(memory: Memory, search: str, query: str = "sought", limit: int = 9, embed: Any = spread) -> list[Match]:
    return Meaning(embed, "default", -1.0, search).neighbours(memory.backend, query, Scope("u"), ReadFilter(), limit)


def test_a_crowd_of_near_equals_has_one_order(extended_url: str) -> None:
    """Differences in the last digits of float32, where every way of adding comes to a ranking of its own."""
    generator = np.random.default_rng(0)
    middle = generator.normal(size=384)

    def crowded(texts: list[str]) -> np.ndarray:
        return middle + 1e-6 * generator.normal(size=(len(texts), 384))

    with Memory(extended_url, embed=crowded, vector_search="extension") as memory:
        memory.add_many([MemoryEntry(content=f"text {i}", user_id="u") for i in range(400)])
        query = generator.normal(size=(1, 384))
        found = [neighbours(memory, search, embed=lambda _: query, limit=7) for search in _SEARCHES]
        assert found[0] == found[1]
        assert len(found[0]) == 7


def test_equals_come_newest_first(extended_url: str) -> None:
    with Memory(extended_url, embed=lambda texts: [[3.0, 4.0]] * len(texts), vector_search="extension") as memory:
        memory.add_many([MemoryEntry(content=f"text {i}", user_id="u") for i in range(120)])
        for search in _SEARCHES:
            found = neighbours(memory, search, limit=5, embed=lambda _: [[3.0, 4.0]])
            assert [match.entry.content for match in found] == [f"text {i}" for i in range(119, 114, -1)]


@pytest.mark.parametrize("search", _SEARCHES)
def test_vectors_that_no_embedder_made_are_passed_over(extended_url: str, search: str) -> None:
    (short,), (long,) = embedded(lambda _: np.ones((1, 7)), [""]), embedded(lambda _: np.ones((1, 17_000)), [""])
    broken = [np.full(24, value, np.float32).tobytes() for value in (np.nan, np.inf, -np.inf)]
    spoilt = [*broken, b"", b"abc", short.tobytes(), long.tobytes()]
    with Memory(extended_url, embed=spread, vector_search=search) as memory:
        ids = memory.add_many([MemoryEntry(content=f"text {i}", user_id="u") for i in range(10)])
        backend: Any = memory.backend
        backend.put_vectors("default", dict(zip(ids, spoilt, strict=False)))
        backend.put_vectors("default", {10**9: short.tobytes()})  # no such entry
        assert {match.entry.id for match in neighbours(memory, search, limit=2)} < set(ids[7:])
        assert {match.entry.id for match in neighbours(memory, search, limit=50)} == set(ids[7:])
        assert [vector for entry_id, _, vector in backend.vectors(Scope("u")) if entry_id in ids[:7]] == spoilt


@pytest.mark.parametrize("search", _SEARCHES)
def test_a_failing_embedder_is_not_asked_for_nothing(extended_url: str, search: str) -> None:
    def failing(texts: list[str]) -> Any:
        raise TimeoutError("the model is away")

    with (
        Memory(extended_url, embed=failing, vector_search=search) as away,
        Memory(extended_url, embed=spread, vector_search=search) as memory,
    ):
        assert away.retrieve("x", "u") == []  # nothing to compare with
        memory.add(MemoryEntry(content="text", user_id="u"))
        for use in (lambda: away.retrieve("x", "u"), lambda: away.add(MemoryEntry(content="more", user_id="u"))):
            with pytest.raises(TimeoutError):
                use()
        assert memory.count() == 1


def test_eight_threads_write_and_search(extended_url: str) -> None:
    with Memory(extended_url, embed=spread, vector_search="extension") as memory:

        def work(worker: int) -> None:
            for i in range(6):
                content = f"text {worker} {i}"
                memory.add(MemoryEntry(content=content, user_id="u"))
                assert neighbours(memory, "extension", content, 1)[0].entry.content == content

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert len(neighbours(memory, "extension", limit=99)) == 48


_WRITER = """
import itertools, sys, zlib
import numpy as np
from hyperfunc_memory import Memory, MemoryEntry
def spread(texts):
    return np.stack([np.random.default_rng(zlib.crc32(text.encode())).normal(size=24) for text in texts])
memory = Memory(sys.argv[1], embed=spread, vector_search="extension")
for number in itertools.count():
    memory.add(MemoryEntry(content=f"text {number}", user_id="u"))
    print(number, flush=True)
"""


def test_kill_9_loses_no_acknowledged_vector(extended_url: str) -> None:
    command = [sys.executable, "-c", _WRITER, extended_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        lines += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert writer.returncode == -signal.SIGKILL
    assert len(lines) >= 20
    with Memory(extended_url, embed=spread, vector_search="extension") as memory:
        for line in lines:
            content = f"text {int(line)}"
            assert neighbours(memory, "extension", content, 1)[0].entry.content == content


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_forked_while_a_connection_is_opened_opens_its_own() -> None:
    pytest.importorskip("sqlite_vec")
    opening, done = threading.Event(), threading.Event()

    def open_for_long() -> None:
        with offered_to_new_connections():
            opening.set()
            done.wait(30)

    thread = threading.Thread(target=open_for_long)
    thread.start()
    try:
        assert opening.wait(30)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            with offered_to_new_connections():
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        thread.join()


def test_an_extension_that_cannot_be_had_is_a_missing_dependency(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from hyperfunc_memory import sqlite_vectors

    monkeypatch.setitem(sys.modules, "sqlite_vec", None)
    sqlite_vectors._extension.cache_clear()
    try:
        with pytest.raises(MissingDependencyError, match=r"hyperfunc\[vectors\]"):
            Memory(str(tmp_path / "memory.db"), embed=spread, vector_search="extension")
    finally:
        monkeypatch.undo()
        sqlite_vectors._extension.cache_clear()


def test_a_search_for_vectors_needs_an_embedder() -> None:
    with pytest.raises(ConfigurationError, match="without embed="):
        Memory(vector_search="extension")
