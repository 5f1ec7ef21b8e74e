"""What a memory backend must do: the protocol and the values that cross it, as core defines them.

A backend stores and finds; it knows nothing of relevance, extraction or event loops. Methods are synchronous and may be
called from any thread at once. Errors are :class:`MemoryStoreError`.
"""

from __future__ import annotations

from hyperfunc.memory_types import BackendFactory, Match, MemoryBackend, ReadFilter, ScopeSelector

__all__ = ["BackendFactory", "Match", "MemoryBackend", "ReadFilter", "ScopeSelector"]
