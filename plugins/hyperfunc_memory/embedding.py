"""Finding memories by meaning: an embedder turns texts into vectors, and the nearest ones of a scope are found.

Exact search by one matrix product over the vectors of the scope; nothing is approximated and nothing else is needed.
Knows nothing of relevance, and of no particular model or database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperfunc_memory.backend import Match, MemoryBackend, ReadFilter, VectorBackend
from hyperfunc_memory.entries import MemoryEntry, Scope
from hyperfunc_memory.errors import EmbeddingError

__all__ = ["Embedder", "Meaning", "embedded", "nearest"]

_MAX_QUERY_CHARACTERS = 4_096

Embedder = Callable[[list[str]], Any]
"""``texts -> vectors``, anything that numpy reads as an array ``[len(texts), dimension]``; called on worker threads."""


def embedded(embed: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of length 1 of ``texts``, shape ``[len(texts), dimension]``.

    Raises:
        EmbeddingError: another shape came, or a vector that is zero or not finite.
    """
    try:
        vectors = np.asarray(embed(list(texts)), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EmbeddingError(f"an embedder must return one vector of numbers per text: {error}") from error
    if vectors.ndim != 2 or vectors.shape[0] != len(texts) or vectors.shape[1] == 0:
        raise EmbeddingError(f"expected vectors of shape [{len(texts)}, dimension], got {list(vectors.shape)}")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise EmbeddingError("an embedder must return finite vectors that are not zero")
    unit: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return unit


def nearest(query: NDArray[np.float32], stored: Sequence[tuple[int, bytes]], min_similarity: float) -> dict[int, float]:
    """Entry id -> cosine similarity, of those with at least ``min_similarity``.

    Args:
        query: a vector of length 1, shape ``[dimension]``.
        stored: ids and vectors, as float32 bytes; those of another dimension (of another model) are passed over.
    """
    fitting = [(entry_id, vector) for entry_id, vector in stored if len(vector) == query.nbytes]
    if not fitting:
        return {}
    matrix = np.frombuffer(b"".join(vector for _, vector in fitting), dtype=np.float32).reshape(len(fitting), -1)
    similarities = matrix @ query
    near = np.flatnonzero(similarities >= min_similarity)
    return {fitting[i][0]: float(similarities[i]) for i in near}


class Meaning:
    """An embedder with what is needed to use it on a backend.

    Args:
        embed: the embedder.
        model: the name that its vectors are kept under.
        min_similarity: cosine similarity from which on an entry counts as found.
    """

    def __init__(self, embed: Embedder, model: str, min_similarity: float) -> None:
        self._embed = embed
        self._model = model
        self._min_similarity = min_similarity

    def arguments(self) -> dict[str, Any]:
        """The arguments of :class:`Memory` that make it again."""
        return {"embed": self._embed, "embedding_model": self._model, "min_similarity": self._min_similarity}

    def vectors(self, entries: Sequence[MemoryEntry]) -> list[bytes]:
        """One vector per entry, as float32 bytes."""
        return [vector.tobytes() for vector in embedded(self._embed, [entry.content for entry in entries])]

    def keep(self, backend: MemoryBackend, ids: Sequence[int], vectors: Sequence[bytes]) -> None:
        """Store the vectors of stored entries. A process that dies in between leaves entries found by words alone."""
        if isinstance(backend, VectorBackend):
            backend.put_vectors(self._model, dict(zip(ids, vectors, strict=True)))

    def neighbours(self, backend: MemoryBackend, query: str, scope: Scope, read: ReadFilter, limit: int) -> list[Match]:
        """The entries of ``scope`` nearest to ``query``, scored by cosine similarity, best first."""
        if not isinstance(backend, VectorBackend):
            return []
        stored = [(entry_id, vector) for entry_id, _, vector in backend.vectors(scope, self._model)]
        if not stored:
            return []
        (vector,) = embedded(self._embed, [query[:_MAX_QUERY_CHARACTERS]])
        # All that are near enough: history, and what the filter leaves out, are still among them.
        near = nearest(vector, stored, self._min_similarity)
        found = [Match(entry, near[entry.id or 0]) for entry in backend.fetch(scope, list(near), read)]
        return sorted(found, key=lambda match: -match.text_score)[:limit]
