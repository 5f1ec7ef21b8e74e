"""The third-party package's own tests pass in the checkout, and the pytest plugin's fixtures are there for others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "demos" / "third_party_plugin"

TESTS = """
from hyperfunc import hookimpl
from hyperfunc.plugins import current_plugins
import pytest, urllib.request

class Mine:
    @hookimpl
    def hyperfunc_register_scorers(self, register):
        register("mine", "json:JSONDecoder")

def test_a_manager_of_its_own(hyperfunc_plugins):
    hyperfunc_plugins.add(Mine(), "mine")
    assert current_plugins() is hyperfunc_plugins
    assert current_plugins().provides("mine") == {"scorers": ["mine"]}
    assert "mine" not in [i for i in hyperfunc_plugins.infos if i not in ("builtin", "mine")]

def test_it_is_gone(hyperfunc_plugins):
    assert list(hyperfunc_plugins.infos) == ["builtin"]

def test_strict(hyperfunc_plugins):
    class Broken:
        @hookimpl
        def hyperfunc_register_scorers(self, register):
            raise RuntimeError("boom")
    hyperfunc_plugins.add(Broken(), "broken")
    with pytest.raises(Exception, match="boom"):
        hyperfunc_plugins.registry("scorers")

def test_installed(installed_hyperfunc_plugins):
    assert "builtin" in installed_hyperfunc_plugins.infos

def test_a_provider(hyperfunc_llm_server):
    assert hyperfunc_llm_server.base_url.startswith("http://127.0.0.1:")
    assert hyperfunc_llm_server.counters()
"""


def run_pytest(folder: Path, *options: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # what is installed beside must not decide
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_package_s_own_tests_pass() -> None:
    assert "67 passed, 1 skipped" in run_pytest(DEMO)


@pytest.mark.slow
def test_fixtures_of_the_pytest_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    assert "5 passed" in run_pytest(tmp_path, "-p", "hyperfunc.testing.pytest_plugin")
