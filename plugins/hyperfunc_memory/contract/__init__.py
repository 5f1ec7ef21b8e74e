"""What :class:`Memory` promises on every backend, as tests. Override one fixture::

    class TestMyBackend(MemoryContract):
        @pytest.fixture
        def memory_url(self) -> str:  # of an empty store
            return "mine://…"

        memory_backends = {"mine": open_mine}  # unless a plugin registers it

A store that two :class:`Memory` objects with the same URL share has more to keep: :class:`SharedMemoryContract`. What a
backend promises by itself is tested by :class:`hyperfunc.testing.MemoryBackendContract`.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    *(f"hyperfunc_memory.contract.{module}" for module in ("finding", "fixtures", "keeping", "storing"))
)

from hyperfunc_memory.contract.finding import FindingContract  # noqa: E402  (after the line above)
from hyperfunc_memory.contract.fixtures import TestClock  # noqa: E402
from hyperfunc_memory.contract.keeping import KeepingContract, SharingContract  # noqa: E402
from hyperfunc_memory.contract.storing import StoringContract  # noqa: E402

__all__ = ["MemoryContract", "SharedMemoryContract", "TestClock"]


class MemoryContract(StoringContract, FindingContract, KeepingContract):
    """Tests of one backend, through :class:`hyperfunc_memory.Memory`."""


class SharedMemoryContract(MemoryContract, SharingContract):
    """Tests of a backend whose stores several memories can open at once."""
