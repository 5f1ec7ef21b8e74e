"""The names that a :class:`Memory` understands: URL schemes and extraction models. Imports a driver only when used."""

from __future__ import annotations

from collections.abc import Mapping

from hyperfunc.errors import ConfigurationError
from hyperfunc.plugins import current_plugins
from hyperfunc_memory.backend import BackendFactory, MemoryBackend
from hyperfunc_memory.extraction import Extractor, RuleExtractor
from hyperfunc_memory.llm_extraction import LLMExtractor
from hyperfunc_memory.sqlite_backend import open_sqlite

__all__ = ["extractor_for", "open_backend"]


def open_backend(url: str, extra: Mapping[str, BackendFactory] | None = None) -> MemoryBackend:
    """The backend for a URL: from ``extra``, else one that a plugin registered, else a built-in one.

    The scheme of ``":memory:"`` and of a path is ``"sqlite"``.

    Raises:
        ConfigurationError: ``url`` is no text, or no backend has its scheme.
        MissingDependencyError: the backend's driver is not installed.
        MemoryStoreError: the store cannot be opened.
    """
    if not isinstance(url, str) or not url.strip() or "\0" in url:
        raise ConfigurationError(f"db_url must be ':memory:', a file path or a URL, got {url!r}")
    scheme, separator, _ = url.partition("://")
    name = scheme.casefold() if separator else "sqlite"
    registered = current_plugins().registry("memory_backends")
    if extra is not None and name in extra:
        return extra[name](url)
    if name in registered:
        factory: BackendFactory = registered.get(name)
        return factory(url)
    # The plugin itself may be disabled, or used from a checkout that is not installed.
    if name in _BUILT_IN:
        return _BUILT_IN[name](url)
    known = ", ".join(sorted({*_BUILT_IN, *registered.names(), *(extra or ())}))
    raise ConfigurationError(f"no memory backend for the scheme {name!r}; known: {known}; is its plugin installed?")


def extractor_for(model: str) -> Extractor:
    """The rules for ``"rules"``; for every other name an extractor that asks that LLM."""
    return RuleExtractor() if model == "rules" else LLMExtractor(model=model)


def _open_postgres(url: str) -> MemoryBackend:
    from hyperfunc_memory.postgres_backend import PostgresBackend  # the driver is an extra

    return PostgresBackend(url)


_BUILT_IN: dict[str, BackendFactory] = {
    "sqlite": open_sqlite,
    "postgresql": _open_postgres,
    "postgres": _open_postgres,
}
