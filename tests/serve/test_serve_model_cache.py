"""The model cache: loaded once, kept while in use, bounded, and honest in its counters."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from hyperfunc.errors import ConfigurationError
from hyperfunc_serve.errors import ServeError
from hyperfunc_serve.model_cache import ModelCache, _Entry


@dataclass
class Thing:
    name: str
    bytes: int = 10
    closed: list[str] = field(default_factory=list)

    def close(self) -> None:
        self.closed.append(self.name)


class Loader:
    def __init__(self, sizes: dict[str, int] | None = None) -> None:
        self.calls: list[str] = []
        self.closed: list[str] = []
        self.sizes = sizes or {}

    def __call__(self, name: str) -> Thing:
        self.calls.append(name)
        return Thing(name, self.sizes.get(name, 10), self.closed)


class Naive(ModelCache[Thing]):
    """``get_or_load`` as it is often written: look, load, store. The control for single flight."""

    def acquire(self, name: str) -> Thing:
        with self._lock:
            entry = self._entries.get(name)
        if entry is None or entry.value is None:
            value = self._load(name)
            with self._lock:
                entry = self._entries.setdefault(name, _Entry())
                entry.value = value
        entry.users += 1
        assert entry.value is not None
        return entry.value


def ask_cold(kind: type[ModelCache[Thing]]) -> tuple[ModelCache[Thing], list[str], list[Thing]]:
    """32 threads want one name that is not loaded yet; the load ends when all have had the time to begin one."""
    started, go = threading.Barrier(33), threading.Event()
    calls: list[str] = []

    def load(name: str) -> Thing:
        calls.append(name)
        go.wait(0.2 if kind is Naive else 10)
        return Thing(name)

    cache = kind(load, 2)
    results: list[Thing] = []

    def use() -> None:
        started.wait(10)
        with cache.use("a") as thing:
            results.append(thing)

    threads = [threading.Thread(target=use) for _ in range(32)]
    for thread in threads:
        thread.start()
    started.wait(10)
    if kind is not Naive:
        go.set()
    for thread in threads:
        thread.join(10)
    return cache, calls, results


def test_a_cache_without_single_flight_would_be_noticed() -> None:
    _, calls, results = ask_cold(Naive)
    assert len(calls) > 1
    assert len(results) == 32


def test_many_threads_on_one_cold_name_load_it_once() -> None:
    cache, calls, results = ask_cold(ModelCache)
    assert calls == ["a"]
    assert len({id(r) for r in results}) == 1
    statistics = cache.statistics
    assert (statistics.hits + statistics.misses, statistics.misses, statistics.size) == (32, 1, 1)
    assert statistics.hit_rate == pytest.approx(31 / 32)


def test_the_least_recently_used_is_dropped() -> None:
    load = Loader()
    cache = ModelCache(load, 2)
    for name in ("a", "b", "a", "c"):
        with cache.use(name):
            pass
    assert load.closed == ["b"]
    assert list(cache.loaded()) == ["a", "c"]
    assert cache.statistics.evictions == 1


def test_what_is_in_use_survives() -> None:
    load = Loader()
    cache = ModelCache(load, 1)
    with cache.use("a") as first:
        with cache.use("b"):
            assert load.closed == []
        assert load.closed == ["b"]  # over capacity, and "a" is pinned
        with cache.use("a") as again:
            assert again is first
    assert load.closed == ["b"]
    with cache.use("c"):
        assert load.closed == ["b", "a"]


def test_a_byte_budget_bounds_what_is_held() -> None:
    load = Loader({"big": 70, "small": 20, "huge": 500})
    cache = ModelCache(load, 9, max_bytes=100)
    for name in ("small", "big"):
        with cache.use(name):
            pass
    assert cache.statistics.bytes == 90
    with cache.use("other"):
        pass
    assert cache.statistics.bytes == 100
    with cache.use("huge"):
        assert list(cache.loaded()) == ["huge"]
    assert cache.statistics.bytes == 0


def test_a_failed_load_is_not_remembered() -> None:
    calls = []

    def load(name: str) -> Thing:
        calls.append(name)
        if len(calls) == 1:
            raise OSError("the disk is away")
        return Thing(name)

    cache = ModelCache(load, 1)
    with pytest.raises(OSError, match="disk"):
        cache.acquire("a")
    assert cache.statistics.failures == 1
    with cache.use("a"):
        pass
    assert calls == ["a", "a"]


def test_all_who_wait_get_the_error_of_a_failed_load() -> None:
    go, waiting = threading.Event(), threading.Barrier(5)
    calls = []

    def load(name: str) -> Thing:
        calls.append(name)
        go.wait(10)
        raise OSError("broken file")

    cache = ModelCache(load, 1)
    errors = []

    def use() -> None:
        waiting.wait(10)
        try:
            cache.acquire("a")
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting.wait(10)
    while cache.statistics.hits + cache.statistics.misses < 4:
        threading.Event().wait(0.001)
    go.set()
    for thread in threads:
        thread.join(10)
    assert (len(errors), calls) == (4, ["a"])
    assert cache.statistics.size == 0


def test_misuse_is_refused() -> None:
    for options in ({"capacity": 0}, {"capacity": 1, "max_bytes": 0}):
        with pytest.raises(ConfigurationError):
            ModelCache(Loader(), **options)
    cache = ModelCache(Loader(), 1)
    with pytest.raises(ConfigurationError):
        cache.release("a")
    assert cache.acquire_loaded("a") is None
    assert cache.statistics.misses == 0
    cache.acquire("a")
    assert cache.acquire_loaded("a") is not None
    cache.close()
    assert cache.statistics.size == 0


def test_a_closed_cache_lets_late_users_go_and_takes_no_new_ones() -> None:
    started, go = threading.Event(), threading.Event()
    loaded: list[Thing] = []

    def load(name: str) -> Thing:
        if name == "slow":
            started.set()
            go.wait(10)
        loaded.append(Thing(name))
        return loaded[-1]

    cache = ModelCache(load, 2)
    errors: list[Exception] = []

    def late() -> None:
        try:
            cache.acquire("slow")
        except ServeError as error:
            errors.append(error)

    thread = threading.Thread(target=late)
    with cache.use("a"):
        thread.start()
        started.wait(10)
        cache.close()
        go.set()
        thread.join(10)
    assert len(errors) == 1
    assert [thing.closed for thing in loaded] == [["a"], ["slow"]]
    with pytest.raises(ServeError, match="closed"):
        cache.acquire("a")


def test_many_threads_over_many_names_keep_the_books() -> None:
    load = Loader()
    cache = ModelCache(load, 3)

    def use(seed: int) -> None:
        for i in range(200):
            name = "abcdef"[(seed * 7 + i * i) % 6]
            with cache.use(name) as thing:
                assert thing.name == name

    threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    statistics = cache.statistics
    assert statistics.hits + statistics.misses == 1600
    assert statistics.misses == len(load.calls)
    assert statistics.misses - statistics.evictions == statistics.size <= 3
