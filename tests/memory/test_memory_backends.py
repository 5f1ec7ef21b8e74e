"""The contract of memory backends, on every built-in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperfunc_memory.contract import MemoryContract, SharedMemoryContract


class TestSQLiteFile(SharedMemoryContract):
    @pytest.fixture
    def memory_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/memory.db"


class TestSQLiteInMemory(MemoryContract):
    @pytest.fixture
    def memory_url(self) -> str:
        return ":memory:"


class TestPostgres(SharedMemoryContract):
    @pytest.fixture
    def memory_url(self, postgres_store: str) -> str:
        return postgres_store
