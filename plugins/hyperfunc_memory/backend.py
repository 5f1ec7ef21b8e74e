"""What a memory backend must do: the protocol and the values that cross it, as core defines them.

A backend stores and finds; it knows nothing of relevance, extraction or event loops. Methods are synchronous and may be
called from any thread at once. Errors are :class:`MemoryStoreError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from hyperfunc.memory_types import (
    BackendFactory,
    Match,
    MemoryBackend,
    MemoryEntry,
    ReadFilter,
    Scope,
    ScopeSelector,
)

__all__ = ["BackendFactory", "Match", "MemoryBackend", "ReadFilter", "ScopeSelector", "VectorBackend"]


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
