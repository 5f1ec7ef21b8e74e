"""Memory that stays: facts, preferences, events and entities of users, found again by their text.

Start with :class:`Memory`. Backends are SQLite (FTS5) and PostgreSQL (tsvector); others come through the hook
``hyperfunc_register_memory_backends`` and are tested with :class:`hyperfunc.testing.MemoryBackendContract` and
:class:`hyperfunc_memory.contract.MemoryContract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperfunc.lazy import lazy_names

if TYPE_CHECKING:  # what the table below says, for type checkers and editors
    from hyperfunc_memory.backend import BackendFactory, Match, MemoryBackend, ReadFilter, ScopeSelector, VectorBackend
    from hyperfunc_memory.embedding import Embedder
    from hyperfunc_memory.entries import MemoryEntry, MemoryType, Scope
    from hyperfunc_memory.errors import (
        EmbeddingError,
        ExtractionError,
        MemoryInputError,
        MemorySchemaError,
        MemoryStoreError,
        VectorSearchUnavailableError,
    )
    from hyperfunc_memory.extraction import Extractor, RuleExtractor
    from hyperfunc_memory.llm_extraction import LLMExtractor
    from hyperfunc_memory.memory import Memory
    from hyperfunc_memory.relevance import RetrievalWeights
    from hyperfunc_memory.sqlite_backend import SQLiteBackend

__all__ = [
    "BackendFactory",
    "Embedder",
    "EmbeddingError",
    "ExtractionError",
    "Extractor",
    "LLMExtractor",
    "Match",
    "Memory",
    "MemoryBackend",
    "MemoryEntry",
    "MemoryInputError",
    "MemorySchemaError",
    "MemoryStoreError",
    "MemoryType",
    "ReadFilter",
    "RetrievalWeights",
    "RuleExtractor",
    "SQLiteBackend",
    "Scope",
    "ScopeSelector",
    "VectorBackend",
    "VectorSearchUnavailableError",
]

__getattr__ = lazy_names(
    __name__,
    {
        "hyperfunc_memory.backend": (
            "BackendFactory",
            "Match",
            "MemoryBackend",
            "ReadFilter",
            "ScopeSelector",
            "VectorBackend",
        ),
        "hyperfunc_memory.embedding": ("Embedder",),
        "hyperfunc_memory.entries": ("MemoryEntry", "MemoryType", "Scope"),
        "hyperfunc_memory.errors": (
            "EmbeddingError",
            "ExtractionError",
            "MemoryInputError",
            "MemorySchemaError",
            "MemoryStoreError",
            "VectorSearchUnavailableError",
        ),
        "hyperfunc_memory.extraction": ("Extractor", "RuleExtractor"),
        "hyperfunc_memory.llm_extraction": ("LLMExtractor",),
        "hyperfunc_memory.memory": ("Memory",),
        "hyperfunc_memory.relevance": ("RetrievalWeights",),
        "hyperfunc_memory.sqlite_backend": ("SQLiteBackend",),
    },
)
