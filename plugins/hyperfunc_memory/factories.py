"""The names that a :class:`Memory` understands: URL schemes and extraction models. Imports a driver only when used."""

from __future__ import annotations

from hyperfunc_memory.backend import BackendFactory, MemoryBackend
from hyperfunc_memory.extraction import Extractor, RuleExtractor
from hyperfunc_memory.sqlite_backend import open_sqlite

__all__ = ["builtin_factories", "extractor_for", "open_postgres"]


def open_postgres(url: str) -> MemoryBackend:
    """The backend for a ``postgresql`` URL.

    Raises:
        MissingDependencyError: psycopg is not installed.
    """
    from hyperfunc_memory.postgres_backend import PostgresBackend

    return PostgresBackend(url)


def builtin_factories() -> dict[str, BackendFactory]:
    """Scheme -> factory of the built-in backends."""
    return {"sqlite": open_sqlite, "postgresql": open_postgres, "postgres": open_postgres}


def extractor_for(model: str) -> Extractor:
    """The rules for ``"rules"``; for every other name an extractor that asks that LLM."""
    if model == "rules":
        return RuleExtractor()
    from hyperfunc_memory.llm_extraction import LLMExtractor

    return LLMExtractor(model=model)
