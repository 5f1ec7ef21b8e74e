"""The errors of the memory plugin.

HyperfuncError
└── MemoryStoreError          the store cannot be opened, read or written
    ├── MemoryInputError          an entry, a scope or an argument is malformed (also a ConfigurationError)
    ├── MemorySchemaError         the database holds a newer or a foreign schema
    ├── EmbeddingError            an embedder's reply is not one vector per text
    └── ExtractionError           an extractor's reply is not a list of memories
"""

from __future__ import annotations

from hyperfunc.memory_types import MemoryInputError, MemoryStoreError

__all__ = ["EmbeddingError", "ExtractionError", "MemoryInputError", "MemorySchemaError", "MemoryStoreError"]


class MemorySchemaError(MemoryStoreError):
    """The database holds a schema that this version cannot use."""


class EmbeddingError(MemoryStoreError):
    """An embedder's reply is not one vector per text; nothing was written."""


class ExtractionError(MemoryStoreError):
    """An extractor's reply is not a list of memories; nothing was written."""
