"""The databases that the tests of memory run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperfunc.testing.postgres import fresh_schema, postgres_url_or_skip


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A PostgreSQL server for the session."""
    with postgres_url_or_skip(request.config) as url:
        yield url


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[str]:
    """The URL of an empty schema."""
    with fresh_schema(postgres_url) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store that other processes can open too."""
    if request.param == "sqlite":
        return str(tmp_path / "memory.db")
    url: str = request.getfixturevalue("postgres_store")
    return url
