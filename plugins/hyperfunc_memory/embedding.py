"""Finding memories by meaning: an embedder turns texts into vectors, and the nearest ones of a scope are found.

The search is exact. A database that compares vectors itself (sqlite-vec, pgvector) names the nearest ones; without such
an extension all vectors of the scope are read, for one product. Scores are computed here in both cases, so that
they do not depend on it. Knows nothing of relevance, and of no particular model or database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperfunc.errors import ConfigurationError
from hyperfunc_memory.backend import Match, MemoryBackend, NearestBackend, ReadFilter, VectorBackend, VectorSearch
from hyperfunc_memory.entries import MemoryEntry, Scope
from hyperfunc_memory.errors import EmbeddingError, VectorSearchUnavailableError

__all__ = ["SEARCHES", "Embedder", "Meaning", "embedded", "nearest", "tolerance"]

SEARCHES = ("auto", "extension", "numpy")

_MAX_QUERY_CHARACTERS = 4_096
_MORE = 16  # than asked for: the database rounds otherwise than we do, and may rank near ties otherwise
_IN_HERE = VectorSearch("numpy", "the backend leaves it to this process")

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
    # Row by row: a matrix product may round a row otherwise among others, and scores would depend on who else is there.
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite no embedder made; it is not found
        similarities = np.einsum("ij,j->i", matrix, query)
        near = np.flatnonzero(np.isfinite(similarities) & (similarities >= min_similarity))
    return {fitting[i][0]: float(similarities[i]) for i in near}


def tolerance(dimension: int) -> float:
    """How far two float32 computations of one cosine similarity can be apart, whatever the order they add in.

    A sum of n products is off by at most n·u·Σ|aᵢbᵢ| ≤ n·u, u = 2⁻²⁴ (Higham, Accuracy and Stability of Numerical
    Algorithms, 2002, §3.1), here and there; dividing by the two lengths, as the databases do, adds as much again.
    """
    return (3 * dimension + 16) * 2.0**-24


class Meaning:
    """An embedder with what is needed to use it on a backend.

    Args:
        embed: the embedder.
        model: the name that its vectors are kept under.
        min_similarity: cosine similarity from which on an entry counts as found.
        search: ``"auto"``, ``"extension"`` or ``"numpy"``; see :class:`Memory`.
    """

    def __init__(self, embed: Embedder, model: str, min_similarity: float, search: str = "auto") -> None:
        if search not in SEARCHES:
            raise ConfigurationError(f"vector_search: expected one of {', '.join(map(repr, SEARCHES))}, got {search!r}")
        self._embed = embed
        self._model = model
        self._min_similarity = min_similarity
        self._search = search

    def arguments(self) -> dict[str, Any]:
        """The arguments of :class:`Memory` that make it again."""
        return {
            "embed": self._embed,
            "embedding_model": self._model,
            "min_similarity": self._min_similarity,
            "vector_search": self._search,
        }

    def check(self, backend: MemoryBackend) -> None:
        """
        Raises:
            ConfigurationError: an extension was asked for, and ``backend`` knows of none.
            VectorSearchUnavailableError: it does, but the extension cannot be used here.
        """
        found = self.search_on(backend)
        if self._search == "extension" and found.name == "numpy":
            if isinstance(backend, NearestBackend):
                raise VectorSearchUnavailableError(found.reason)
            raise ConfigurationError(f"vector_search='extension': {found.reason}")

    def search_on(self, backend: MemoryBackend) -> VectorSearch:
        """What compares vectors on ``backend``."""
        if self._search == "numpy":
            return VectorSearch("numpy", "vector_search='numpy' was asked for")
        return backend.vector_search if isinstance(backend, NearestBackend) else _IN_HERE

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
        if isinstance(backend, NearestBackend) and self.search_on(backend).name != "numpy":
            if not backend.has_vectors(scope, self._model):
                return []
            vector = self._of_query(query)
            stored = self._shortlist(backend, scope, vector, read, limit)
        else:
            stored = [(entry_id, vector) for entry_id, _, vector in backend.vectors(scope, self._model)]
            if not stored:
                return []
            vector = self._of_query(query)
        # Without an extension these are all that are near enough: history, and what the filter leaves out, too.
        near = nearest(vector, stored, self._min_similarity)
        found = [Match(entry, near[entry.id or 0]) for entry in backend.fetch(scope, list(near), read)]
        return sorted(found, key=lambda match: (-match.text_score, -(match.entry.id or 0)))[:limit]

    def _shortlist(
        self, backend: NearestBackend, scope: Scope, query: NDArray[np.float32], read: ReadFilter, limit: int
    ) -> list[tuple[int, bytes]]:
        """Vectors that surely hold the ``limit`` nearest, by the scores that are computed here."""
        apart = 2.0 * tolerance(len(query))
        asked = limit + _MORE
        while True:
            stored = backend.nearest(scope, self._model, query.tobytes(), read, asked)
            if len(stored) != asked:  # all that there are
                return stored
            scores = sorted(nearest(query, stored, -np.inf).values(), reverse=True)
            # Those left out are no nearer than the farthest of these, but for rounding.
            if scores and scores[-1] + apart < max(scores[min(limit, len(scores)) - 1], self._min_similarity):
                return stored
            asked *= 4

    def _of_query(self, query: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = embedded(self._embed, [query[:_MAX_QUERY_CHARACTERS]])[0]
        return vector
