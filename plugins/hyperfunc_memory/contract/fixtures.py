"""The fixtures of the contract of :class:`hyperfunc_memory.Memory`, and a clock that a test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from hyperfunc_memory import BackendFactory, Memory

__all__ = ["DAY", "NOW", "MemoryFixtures", "TestClock"]

DAY = 86_400.0
NOW = 1_800_000_000.0


class TestClock:
    """A clock that a test sets: seconds since the epoch."""

    __test__ = False

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class MemoryFixtures:
    """What every test of the contract is given."""

    memory_backends: ClassVar[Mapping[str, BackendFactory] | None] = None
    """Scheme -> factory, if the backend is neither built in nor registered by a plugin."""

    @pytest.fixture
    def memory_url(self) -> str:
        """The URL of an empty store. Override this."""
        raise NotImplementedError("override the fixture memory_url with the URL of an empty store")

    @pytest.fixture
    def clock(self) -> TestClock:
        return TestClock()

    @pytest.fixture
    def open_memory(self, memory_url: str, clock: TestClock) -> Iterator[Callable[..., Memory]]:
        """Opens the store; what it opened is closed after the test."""
        opened: list[Memory] = []

        def open_one(**changes: Any) -> Memory:
            opened.append(Memory(memory_url, **{"clock": clock, "backends": self.memory_backends, **changes}))
            return opened[-1]

        yield open_one
        for memory in opened:
            memory.close()

    @pytest.fixture
    def memory(self, open_memory: Callable[..., Memory]) -> Memory:
        return open_memory()
