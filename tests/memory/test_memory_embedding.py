"""Finding memories by meaning. The embedder is a small real one: words of one meaning share an axis."""

from __future__ import annotations

import asyncio
import pickle
import sqlite3
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from hyperfunc.errors import ConfigurationError
from hyperfunc_memory import (
    EmbeddingError,
    Memory,
    MemoryEntry,
    MemoryInputError,
    SQLiteBackend,
    sqlite_schema,
    sqlite_vectors,
)
from hyperfunc_memory.backend import ReadFilter
from hyperfunc_memory.embedding import Meaning, embedded, nearest
from hyperfunc_memory.text import content_hash

_AXES = ({"dog", "puppy", "hound"}, {"car", "automobile", "vehicle"}, {"food", "meal", "dinner"})


def embed(texts: list[str]) -> np.ndarray:
    """One axis per meaning, one for everything else."""
    rows = []
    for text in texts:
        words = text.lower().split()
        counts = [sum(word in axis for word in words) for axis in _AXES]
        rows.append([*counts, 0.1])
    return np.array(rows)


@pytest.fixture(params=["numpy", "extension"])
def memory(request: pytest.FixtureRequest, store_url: str) -> Iterator[Memory]:
    if request.param == "extension":
        install_extension(store_url)
    with Memory(store_url, embed=embed, vector_search=request.param) as opened:
        yield opened


def install_extension(store_url: str) -> None:
    """Make the database's extension usable, or skip the test."""
    if store_url.startswith("postgres"):
        install_pgvector(store_url)
    else:
        pytest.importorskip("sqlite_vec")


def install_pgvector(url: str) -> None:
    """Make pgvector usable in the database of ``url``, or skip the test."""
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        except psycopg.Error as error:
            pytest.skip(f"this server has no pgvector: {error}")


def without_pgvector(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP EXTENSION IF EXISTS vector")


def contents(entries: list[MemoryEntry]) -> list[str]:
    return [entry.content for entry in entries]


def test_meaning_finds_what_words_do_not(memory: Memory) -> None:
    memory.add_many([MemoryEntry(content=c, user_id="u") for c in ("owns a puppy", "drives an automobile")])
    memory.add(MemoryEntry(content="owns a hound", user_id="v"))
    assert contents(memory.retrieve("dog", "u")) == ["owns a puppy"]
    assert contents(memory.retrieve("vehicle", "u")) == ["drives an automobile"]
    assert memory.retrieve("quantum", "u") == []
    assert memory.retrieve("dog", "w") == memory.retrieve(" ", "u") == []
    assert contents(memory.retrieve("dog drives", "u")) == ["drives an automobile", "owns a puppy"]


def test_filters_history_and_erasure_hold_for_meaning_too(memory: Memory) -> None:
    old = memory.add(MemoryEntry(content="owns a puppy", importance=0.2))
    assert memory.retrieve("dog", min_importance=0.5) == []
    new = memory.supersede(old, MemoryEntry(content="owns a hound"))
    assert [entry.id for entry in memory.retrieve("dog")] == [new]
    assert memory.retrieve("dog")[0].access_count == 1
    memory.clear()
    assert memory.retrieve("dog") == []
    assert memory.backend.vectors(MemoryEntry().scope) == []  # type: ignore[attr-defined]


def test_snapshots_have_vectors_of_their_own(memory: Memory) -> None:
    memory.add(MemoryEntry(content="owns a puppy"))
    with memory.snapshot() as view:
        memory.add(MemoryEntry(content="met a hound"))
        assert contents(view.retrieve("dog")) == ["owns a puppy"]
        view.add(MemoryEntry(content="saw a hound"))
        assert set(contents(view.retrieve("dog"))) == {"owns a puppy", "saw a hound"}
    assert set(contents(memory.retrieve("dog"))) == {"owns a puppy", "met a hound"}


def test_vectors_of_another_model_or_dimension_are_passed_over(store_url: str) -> None:
    with Memory(store_url, embed=embed, embedding_model="small") as small:
        small.add(MemoryEntry(content="owns a puppy"))
        with Memory(store_url, embed=embed, embedding_model="other") as other:
            assert other.retrieve("dog") == []
        with Memory(store_url, embed=lambda t: np.ones((len(t), 7)), embedding_model="small") as wider:
            assert wider.retrieve("dog") == []
        assert contents(small.retrieve("dog")) == ["owns a puppy"]
    with Memory(store_url) as words_only:
        assert words_only.retrieve("dog") == []
        assert contents(words_only.retrieve("puppy")) == ["owns a puppy"]


@pytest.mark.parametrize(
    "returned",
    [None, "x", [], [[]], [1.0], [[1.0], [2.0]], [[float("nan")]], [[0.0]], [["x"]], [[float("inf")]], [[[1.0]]]],
)
def test_a_bad_embedder_is_our_error_and_stores_nothing(returned: Any) -> None:
    with Memory(embed=lambda texts: returned) as memory:
        with pytest.raises(EmbeddingError):
            memory.add(MemoryEntry(content="x"))
        assert memory.count() == 0


def test_an_embedders_own_error_passes_through_and_stores_nothing() -> None:
    def failing(texts: list[str]) -> Any:
        raise TimeoutError("the model is away")

    with Memory(embed=failing) as memory:
        with pytest.raises(TimeoutError):
            memory.add(MemoryEntry(content="x"))
        with pytest.raises(MemoryInputError):
            memory.add(MemoryEntry(content=""))  # checked before the embedder is paid
        assert memory.count() == 0


async def test_the_embedder_never_runs_on_the_loop() -> None:
    loop_thread = threading.get_ident()
    seen: list[int] = []

    def watched(texts: list[str]) -> Any:
        seen.append(threading.get_ident())
        return embed(texts)

    async with Memory(embed=watched) as memory:
        await asyncio.gather(*(memory.aadd(MemoryEntry(content=f"dog {i}")) for i in range(4)))
        assert len(await memory.aretrieve("puppy")) == 4
    assert len(seen) == 5
    assert loop_thread not in seen


def test_a_backend_without_vectors_is_refused() -> None:
    class Wordy:
        def close(self) -> None:
            pass

    with pytest.raises(ConfigurationError, match="keeps no vectors"):
        Memory("wordy://x", embed=embed, backends={"wordy": lambda url: Wordy()})  # type: ignore[dict-item, return-value]
    with Memory("fine://x", embed=embed, backends={"fine": lambda url: SQLiteBackend()}) as memory:
        assert memory.count() == 0


def test_nearest_agrees_with_a_loop() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(200, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[7]
    found = nearest(query, [(i, v.tobytes()) for i, v in enumerate(vectors)], 0.2)
    expected = {i: float(sum(a * b for a, b in zip(v, query, strict=True))) for i, v in enumerate(vectors)}
    assert found.keys() == {i for i, similarity in expected.items() if similarity >= 0.2}
    assert all(found[i] == pytest.approx(expected[i], abs=1e-5) for i in found)
    assert nearest(query, [], 0.0) == {}


# --- extensions --------------------------------------------------------------------------------------------------


def spread(texts: list[str]) -> np.ndarray:
    """A direction of its own for every text up to its exclamation marks, the same in every process."""
    seeds = [zlib.crc32(text.rstrip("!").encode()) for text in texts]
    return np.stack([np.random.default_rng(seed).normal(size=24) for seed in seeds])


def test_an_extension_finds_what_numpy_finds_in_the_same_order(store_url: str) -> None:
    install_extension(store_url)
    texts = [f"memory {n}{mark}" for n in range(150) for mark in ("", "!")]
    entries = [MemoryEntry(content=t, user_id="u", importance=n % 7 / 10) for n, t in enumerate(texts)]
    with Memory(store_url, embed=spread, vector_search="extension") as memory:
        ids = memory.add_many(entries)
        memory.add_many([MemoryEntry(content=f"memory {n}", user_id="v") for n in range(20)])
        memory.supersede(ids[9], MemoryEntry(content="another", user_id="u"))
        backend: Any = memory.backend
        scope = MemoryEntry(user_id="u").scope
        for least, limit in [(0.0, 5), (0.3, 40), (0.0, 1000)]:
            read = ReadFilter(min_importance=least)
            found = {
                name: Meaning(spread, "default", 0.1, name).neighbours(backend, "memory 3", scope, read, limit)
                for name in ("numpy", "extension")
            }
            assert found["numpy"] == found["extension"]
            assert len(found["numpy"]) > 4
        assert [match.entry.content for match in found["numpy"]][:2] == [
            "memory 3!",
            "memory 3",
        ]  # the later of equal ones
        assert {match.entry.user_id for match in found["numpy"]} == {"u"}


def test_vectors_of_several_dimensions_may_stand_side_by_side(store_url: str) -> None:
    install_extension(store_url)
    for size in (3, 24, 5):
        with Memory(store_url, embed=lambda t, n=size: spread(t)[:, :n], vector_search="extension") as memory:
            memory.add_many([MemoryEntry(content=f"{size} {n}") for n in range(5)])
            assert memory.retrieve(f"{size} 2")[0].content == f"{size} 2"


def test_what_compares_vectors_is_said(tmp_path: Path) -> None:
    pytest.importorskip("sqlite_vec")
    with Memory() as memory:
        assert memory.vector_search is None
    with Memory(embed=embed) as memory:
        assert memory.vector_search == ("sqlite-vec", "")
        with memory.snapshot() as view:
            assert view.vector_search == ("sqlite-vec", "")
    with Memory(embed=embed, vector_search="numpy") as memory:
        assert memory.vector_search is not None
        assert memory.vector_search.name == "numpy"
        with memory.snapshot() as view:
            assert view.vector_search is not None
            assert view.vector_search.name == "numpy"
    with pytest.raises(ConfigurationError, match="'auto', 'extension', 'numpy', got 'fast'"):
        Memory(embed=embed, vector_search="fast")
    with (
        Memory(str(tmp_path / "m.db"), embed=embed, vector_search="numpy") as memory,
        pickle.loads(pickle.dumps(memory)) as again,
    ):
        assert again.vector_search.name == "numpy"


def test_without_the_package_numpy_searches_and_an_extension_cannot_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "memory.db")
    with Memory(path, embed=embed) as memory:
        memory.add(MemoryEntry(content="owns a puppy"))
    monkeypatch.setitem(sys.modules, "sqlite_vec", None)
    sqlite_vectors._extension.cache_clear()
    try:
        with Memory(path, embed=embed) as memory:
            assert memory.vector_search == ("numpy", "sqlite-vec is not installed; install hyperfunc[vectors]")
            assert contents(memory.retrieve("dog")) == ["owns a puppy"]
            memory.add(MemoryEntry(content="met a hound"))
        with pytest.raises(ConfigurationError, match=r"vector_search='extension': .*install hyperfunc\[vectors\]"):
            Memory(path, embed=embed, vector_search="extension")
    finally:
        monkeypatch.undo()
        sqlite_vectors._extension.cache_clear()
    with Memory(path, embed=embed) as memory:
        assert set(contents(memory.retrieve("dog"))) == {"owns a puppy", "met a hound"}


def test_other_connections_of_the_process_are_left_alone() -> None:
    pytest.importorskip("sqlite_vec")
    with (
        Memory(embed=embed, vector_search="extension"),
        closing(sqlite3.connect(":memory:")) as other,
        pytest.raises(sqlite3.OperationalError, match="vec_version"),
    ):
        other.execute("SELECT vec_version()")


def test_connections_of_many_threads_at_once_have_the_extension(tmp_path: Path) -> None:
    pytest.importorskip("sqlite_vec")

    def search_of(number: int) -> str:
        with Memory(embed=embed) as memory:
            assert memory.vector_search is not None
            return memory.vector_search.name

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(search_of, range(64))) == {"sqlite-vec"}


def test_vectors_written_where_pgvector_was_not_there_are_found_once_it_is(postgres_store: str) -> None:
    install_pgvector(postgres_store)
    without_pgvector(postgres_store)
    try:
        with Memory(postgres_store, embed=embed) as memory:
            assert memory.vector_search is not None
            assert "CREATE EXTENSION vector" in memory.vector_search.reason
            memory.add(MemoryEntry(content="owns a puppy"))
            assert contents(memory.retrieve("dog")) == ["owns a puppy"]
            with pytest.raises(ConfigurationError, match="CREATE EXTENSION vector"):
                Memory(postgres_store, embed=embed, vector_search="extension")
            install_pgvector(postgres_store)
            with Memory(postgres_store, embed=embed, vector_search="extension") as compared:
                compared.add(MemoryEntry(content="met a hound"))
                assert set(contents(compared.retrieve("dog"))) == {"owns a puppy", "met a hound"}
            memory.add(MemoryEntry(content="saw a dog"))  # by a process that does not know of it
            with Memory(postgres_store, embed=embed, vector_search="extension") as compared:
                assert len(compared.retrieve("dog")) == 3
            with Memory(postgres_store, embed=lambda t: np.ones((len(t), 17_000)), embedding_model="long") as long:
                long.add(MemoryEntry(content="more than pgvector compares"))
                assert len(long.retrieve("anything")) == 1
    finally:
        install_pgvector(postgres_store)


def test_vectors_of_schema_3_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        for step in sqlite_schema._STEPS[:3]:
            step(connection)
        connection.execute("INSERT INTO memory_meta VALUES ('schema_version', '3')")
        connection.execute("INSERT INTO memory_scopes VALUES (1, ?, NULL, NULL, NULL)", (MemoryEntry().scope.key,))
        values = (1, 1, "owns a puppy", content_hash("owns a puppy"), "fact", 0.5, 1.0, 1.0, 0, "[]", "{}", *[None] * 3)
        connection.execute(f"INSERT INTO memory_entries VALUES ({','.join('?' * 14)})", values)
        connection.execute(
            "INSERT INTO memory_vectors VALUES (1, 'default', ?)", (embedded(embed, ["owns a puppy"]).tobytes(),)
        )
    with Memory(str(path), embed=embed) as memory:
        assert contents(memory.retrieve("dog")) == ["owns a puppy"]
