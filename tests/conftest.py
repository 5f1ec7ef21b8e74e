"""What every test shares: options for what cannot run everywhere, and no plugin of the machine's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")
# Examples are also made of the constants in all modules of ours that happen to be loaded, which depends on which tests
# ran before in this process. No setting says otherwise.
providers._get_local_constants = providers.Constants

# Only our own plugins: a stranger's package on the machine must not change what these tests see.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-postgres", action="store_true", help="a missing PostgreSQL is an error, not a skip")
    parser.addoption("--require-integration", action="store_true", help="whatever integration needs must be there")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selected = config.getoption("-m") or ""
    if "integration" not in selected:
        skip = pytest.mark.skip(reason="integration: run `make integration`")
        for item in items:
            if item.get_closest_marker("integration"):
                item.add_marker(skip)
    if "live" not in selected:
        skip = pytest.mark.skip(reason="live: needs a provider's key; run pytest -m live")
        for item in items:
            if item.get_closest_marker("live"):
                item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under --require-integration, an integration test that skips itself has failed; only docker may be missing."""
    report = yield
    if (
        report.skipped
        and item.config.getoption("--require-integration")
        and item.get_closest_marker("integration")
        and isinstance(report.longrepr, tuple)  # file, line, reason
        and not report.longrepr[2].startswith("Skipped: no docker daemon answers")
    ):
        report.outcome = "failed"
        report.longrepr = f"--require-integration, but: {report.longrepr[2].removeprefix('Skipped: ')}"
    return report


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where tests leave pictures of the pages that they have looked at: HYPERFUNC_TEST_PICTURES, if that is set."""
    folder = Path(os.environ.get("HYPERFUNC_TEST_PICTURES") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser, where there is one."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return Path(found)
    pytest.skip("no Chromium found; install the package chromium")
