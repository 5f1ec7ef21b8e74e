"""An LRU cache of loaded models: loaded once however many ask, never dropped while in use.

Safe from many threads; loading blocks the caller and nobody else. Knows nothing of HTTP or of what a model is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from hyperfunc.errors import ConfigurationError
from hyperfunc_serve.errors import ServeError

__all__ = ["CacheStatistics", "Cached", "ModelCache"]


class Cached(Protocol):
    """What the cache needs of a thing it holds."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        ...

    def close(self) -> None:
        """It is dropped: free what it holds."""
        ...


T = TypeVar("T", bound=Cached)


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counters since the start, and what is held now. ``hits + misses`` is the number of requests."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    failures: int = 0
    size: int = 0
    bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of requests that found their model, 0 to 1; 0 before the first one."""
        requests = self.hits + self.misses
        return self.hits / requests if requests else 0.0


class _Entry(Generic[T]):
    def __init__(self) -> None:
        self.ready = threading.Event()
        self.value: T | None = None
        self.error: BaseException | None = None
        self.users = 0


class ModelCache(Generic[T]):
    """Holds at most ``capacity`` things and ``max_bytes`` bytes, unless more are in use.

    Args:
        load: name -> the thing. Called by one thread for each cold name; the others wait for it. What it raises goes
            to all who wait, and is not remembered.
        capacity: at least 1.
        max_bytes: ``None`` for no limit. One thing that is larger on its own is dropped when it is no longer in use.
    """

    def __init__(self, load: Callable[[str], T], capacity: int, max_bytes: int | None = None) -> None:
        if capacity < 1:
            raise ConfigurationError(f"capacity: expected at least 1, got {capacity}")
        if max_bytes is not None and max_bytes < 1:
            raise ConfigurationError(f"max_bytes: expected at least 1, got {max_bytes}")
        self._load = load
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()  # least recently used first
        self._hits = self._misses = self._evictions = self._failures = 0
        self._closed = False

    @contextmanager
    def use(self, name: str) -> Iterator[T]:
        """The thing of this name, pinned for the length of the block."""
        value = self.acquire(name)
        try:
            yield value
        finally:
            self.release(name)

    def acquire(self, name: str) -> T:
        """Pin and return the thing of this name, loading it if need be; every call is ended by one :meth:`release`.

        Raises:
            Whatever ``load`` raises; nothing is pinned then.
            ServeError: the cache was closed.
        """
        with self._lock:
            self._refuse_if_closed(name)
            entry = self._entries.get(name)
            loading = entry is None
            if entry is None:
                entry = self._entries[name] = _Entry()
                self._misses += 1
            else:
                self._entries.move_to_end(name)
                self._hits += 1
            entry.users += 1
        if loading:
            self._fill(name, entry)
        else:
            entry.ready.wait()
        if entry.error is not None:
            raise entry.error
        assert entry.value is not None
        return entry.value

    def _fill(self, name: str, entry: _Entry[T]) -> None:
        try:
            value = entry.value = self._load(name)
        except BaseException as error:
            entry.error = error
            with self._lock:
                self._failures += 1
                if self._entries.get(name) is entry:
                    del self._entries[name]
            raise
        else:
            with self._lock:
                abandoned = self._closed
            if abandoned:
                self._close([value])
                entry.error = ServeError(f"{name!r} was loaded after the cache was closed")
                raise entry.error
        finally:
            entry.ready.set()
        self._close(self._evict())

    def _refuse_if_closed(self, name: str) -> None:
        if self._closed:
            raise ServeError(f"{name!r} was asked for after the cache was closed")

    def acquire_loaded(self, name: str) -> T | None:
        """Like :meth:`acquire`, but never waits: ``None`` (and nothing counted) where it is not loaded."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None or entry.value is None:
                return None
            self._entries.move_to_end(name)
            self._hits += 1
            entry.users += 1
            return entry.value

    def release(self, name: str) -> None:
        """One user less. Raises ConfigurationError: nobody uses it."""
        with self._lock:
            if self._closed:
                return  # a stream that outlives the server
            entry = self._entries.get(name)
            if entry is None or entry.users < 1:
                raise ConfigurationError(f"{name!r} was released more often than acquired")
            entry.users -= 1
        self._close(self._evict())

    def _evict(self) -> list[T]:
        """Take out what is over the limits, least recently used first; things in use stay."""
        dropped: list[T] = []
        with self._lock:
            for name, entry in list(self._entries.items()):
                held = sum(e.value.bytes for e in self._entries.values() if e.value is not None)
                over = len(self._entries) > self._capacity or (self._max_bytes is not None and held > self._max_bytes)
                if not over:
                    break
                if entry.users == 0 and entry.value is not None:
                    del self._entries[name]
                    self._evictions += 1
                    dropped.append(entry.value)
        return dropped

    @staticmethod
    def _close(dropped: list[T]) -> None:
        for value in dropped:  # outside the lock: closing may wait for a thread
            value.close()

    def loaded(self) -> dict[str, T]:
        """What is held now, least recently used first."""
        with self._lock:
            return {name: e.value for name, e in self._entries.items() if e.value is not None}

    @property
    def statistics(self) -> CacheStatistics:
        with self._lock:
            values = [e.value for e in self._entries.values() if e.value is not None]
            return CacheStatistics(
                self._hits, self._misses, self._evictions, self._failures, len(values), sum(v.bytes for v in values)
            )

    def close(self) -> None:
        """Drop everything, in use or not. What is still loading is dropped when it comes."""
        with self._lock:
            self._closed = True
            values = [e.value for e in self._entries.values() if e.value is not None]
            self._entries.clear()
        self._close(values)
