"""Fixtures for projects that use hyperfunc; pytest loads this wherever hyperfunc is installed (group ``pytest11``).

Imports pytest and nothing of hyperfunc that is heavy: a test run that uses no fixture of these pays nothing.

* ``hyperfunc_plugins``: a strict plugin manager with the built-ins alone, in use during the test;
* ``installed_hyperfunc_plugins``: the same with everything that is installed;
* ``hyperfunc_llm_server``: a scripted model provider on loopback, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hyperfunc.plugins import Plugins
    from hyperfunc.testing.llm_server import ServerProcess

pytest.register_assert_rewrite("hyperfunc.testing.contracts")

__all__ = ["hyperfunc_llm_server", "hyperfunc_plugins", "installed_hyperfunc_plugins"]


@pytest.fixture
def hyperfunc_plugins() -> Iterator[Plugins]:
    """A new manager with the built-ins, in use until the test ends; whatever a plugin does wrong is raised.

    Add yours with ``hyperfunc_plugins.add(plugin, "name")``; nothing of it is left after the test.
    """
    from hyperfunc.plugins import load_plugins, use_plugins

    with use_plugins(load_plugins(entry_points=False, strict=True)) as plugins:
        yield plugins


@pytest.fixture
def installed_hyperfunc_plugins() -> Iterator[Plugins]:
    """A new manager with everything that is installed, in use until the test ends; a broken plugin is raised."""
    from hyperfunc.plugins import load_plugins, use_plugins

    with use_plugins(load_plugins(strict=True)) as plugins:
        yield plugins


@pytest.fixture
def hyperfunc_llm_server() -> Iterator[ServerProcess]:
    """A deterministic, OpenAI-compatible provider: its address is ``.base_url``, ``.play(script)`` scripts it."""
    from hyperfunc.testing.llm_server import ServerProcess

    with ServerProcess() as server:
        yield server
