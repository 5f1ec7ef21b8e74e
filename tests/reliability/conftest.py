"""The long form of these tests runs where it is asked for."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "reliability" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="reliability: run `make reliability`")
    for item in items:
        if item.get_closest_marker("reliability"):
            item.add_marker(skip)
