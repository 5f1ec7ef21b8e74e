"""``--require-integration``: an integration test that skips itself has failed, unless it wanted docker."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_TESTS = """
import pytest

pytestmark = pytest.mark.integration


def test_missing_tool():
    pytest.skip("no viewer here")


def test_missing_module():
    pytest.importorskip("there_is_no_such_module", reason="no module here")


@pytest.fixture
def missing():
    pytest.skip("no browser here")


def test_missing_fixture(missing):
    pass


def test_docker():
    pytest.skip("no docker daemon answers: not found")


@pytest.mark.xfail(strict=True)
def test_expected():
    raise AssertionError


def test_passes():
    pass
"""


def test_a_skipped_integration_test_fails_where_it_is_required(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "test_pages.py").write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    integration: x\n    live: x\n")
    command = [sys.executable, "-m", "pytest", "-q", "-ra", "-m", "integration", "-p", "no:cacheprovider"]

    def outcome(*options: str) -> str:
        return subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        ).stdout

    assert "1 passed, 4 skipped, 1 xfailed" in outcome()
    required = outcome("--require-integration")
    assert "2 failed, 1 passed, 1 skipped, 1 xfailed, 1 error" in required
    for reason in ("no viewer here", "no module here", "no browser here"):
        assert f"--require-integration, but: {reason}" in required
    assert "no docker daemon answers: not found" in required
