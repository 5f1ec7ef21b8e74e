"""The errors of the memory plugin.

HyperfuncError
├── MissingDependencyError
│   └── VectorSearchUnavailableError   the extension that was asked for cannot be used here
└── MemoryStoreError          the store cannot be opened, read or written
    ├── MemoryInputError          an entry, a scope or an argument is malformed (also a ConfigurationError)
    ├── MemorySchemaError         the database holds a newer or a foreign schema
    ├── EmbeddingError            an embedder's reply is not one vector per text
    └── ExtractionError           an extractor's reply is not a list of memories
"""

from __future__ import annotations

from hyperfunc.errors import ConfigurationError, MissingDependencyError
from hyperfunc.memory_types import MemoryInputError, MemoryStoreError

__all__ = [
    "EmbeddingError",
    "ExtractionError",
    "MemoryInputError",
    "MemorySchemaError",
    "MemoryStoreError",
    "VectorSearchUnavailableError",
]


class MemorySchemaError(MemoryStoreError):
    """The database holds a schema that this version cannot use."""


class EmbeddingError(MemoryStoreError):
    """An embedder's reply is not one vector per text; nothing was written."""


class ExtractionError(MemoryStoreError):
    """An extractor's reply is not a list of memories; nothing was written."""


class VectorSearchUnavailableError(MissingDependencyError):
    """``vector_search="extension"`` was asked for, and the extension cannot be used here; the message says why."""

    def __init__(self, reason: str) -> None:
        self.package, self.extra, self.reason = "sqlite-vec or pgvector", "vectors", reason
        ConfigurationError.__init__(self, f"vector_search='extension': {reason}")

    def __reduce__(self) -> tuple[type[VectorSearchUnavailableError], tuple[str]]:
        return type(self), (self.reason,)
