"""What a memory backend must do: the protocol and the values that cross it, as core defines them.

A backend stores and finds; it knows nothing of relevance, extraction or event loops. Methods are synchronous and may be
called from any thread at once. Errors are :class:`MemoryStoreError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from hyperfunc.memory_types import (
    BackendFactory,
    Match,
    MemoryBackend,
    MemoryEntry,
    ReadFilter,
    Scope,
    ScopeSelector,
)

__all__ = [
    "BackendFactory",
    "Match",
    "MemoryBackend",
    "NearestBackend",
    "ReadFilter",
    "ScopeSelector",
    "VectorBackend",
    "VectorSearch",
]


@runtime_checkable
class VectorBackend(Protocol):
    """What a backend needs beside :class:`MemoryBackend` so that memories can be found by meaning."""

    def put_vectors(self, model: str, vectors: Mapping[int, bytes]) -> None:
        """Keep entry id -> vector (float32 bytes) of one model, in place of older ones; durable on return."""
        ...

    def vectors(self, scope: Scope, model: str | None = None) -> list[tuple[int, str, bytes]]:
        """(entry id, model, vector) of all entries of ``scope``, history too, in the order of ids."""
        ...

    def fetch(self, scope: Scope, ids: Sequence[int], read: ReadFilter) -> list[MemoryEntry]:
        """Those of the entries ``ids`` of ``scope`` that are active and pass ``read``, in any order."""
        ...


class VectorSearch(NamedTuple):
    """What compares vectors.

    Attributes:
        name: ``"sqlite-vec"``, ``"pgvector"``, …: an extension of the database; ``"numpy"``: this process, which reads
            all vectors of a scope for it.
        reason: why no extension does, and what to do about it; ``""`` where one does.
    """

    name: str
    reason: str = ""


@runtime_checkable
class NearestBackend(Protocol):
    """A :class:`VectorBackend` whose database compares vectors itself, where it can."""

    @property
    def vector_search(self) -> VectorSearch:
        """What compares vectors here; :meth:`nearest` may be called only if it is an extension."""
        ...

    def has_vectors(self, scope: Scope, model: str) -> bool:
        """Whether ``scope`` has vectors of ``model``."""
        ...

    def nearest(self, scope: Scope, model: str, query: bytes, read: ReadFilter, limit: int) -> list[tuple[int, bytes]]:
        """Id and vector of the ``limit`` active entries of ``scope`` that pass ``read`` and have the smallest cosine
        distance to ``query`` (float32 bytes), in any order; of equal ones the latest. Exact; vectors of another
        dimension are passed over. More than ``limit`` where the database cannot compare vectors so long."""
        ...
