"""Our own agent types, also where the package is not installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hyperfunc_agents.plugin
from hyperfunc.plugins import load_plugins, use_plugins


@pytest.fixture(autouse=True)
def _own_plugins() -> Iterator[None]:
    with use_plugins(load_plugins([("agents", hyperfunc_agents.plugin)], entry_points=False)):
        yield
