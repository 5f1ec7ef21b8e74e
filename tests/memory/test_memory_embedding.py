"""Finding memories by meaning. The embedder is a small real one: words of one meaning share an axis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hyperfunc.errors import ConfigurationError
from hyperfunc_memory import EmbeddingError, Memory, MemoryEntry, MemoryInputError, SQLiteBackend
from hyperfunc_memory.embedding import nearest

_AXES = ({"dog", "puppy", "hound"}, {"car", "automobile", "vehicle"}, {"food", "meal", "dinner"})


def embed(texts: list[str]) -> np.ndarray:
    """One axis per meaning, one for everything else."""
    rows = []
    for text in texts:
        words = text.lower().split()
        counts = [sum(word in axis for word in words) for axis in _AXES]
        rows.append([*counts, 0.1])
    return np.array(rows)


@pytest.fixture
def memory(store_url: str) -> Iterator[Memory]:
    with Memory(store_url, embed=embed) as opened:
        yield opened


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
