"""The contract of memory backends, on every built-in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperfunc.testing.memory_contract import MemoryBackendContract, SharedMemoryContract


class TestSQLiteFile(SharedMemoryContract):
    @pytest.fixture
    def memory_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/memory.db"


class TestSQLiteInMemory(MemoryBackendContract):
    @pytest.fixture
    def memory_url(self) -> str:
        return ":memory:"


class TestPostgres(SharedMemoryContract):
    @pytest.fixture
    def memory_url(self, postgres_store: str) -> str:
        return postgres_store
