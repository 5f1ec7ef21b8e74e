"""docs/hooks.md is what hyperfunc/hookspecs.py says, and every hook says when it fires and what it is given."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hyperfunc import hookspecs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_hooks", ROOT / "docs" / "generate_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_fresh(generator: ModuleType) -> None:
    page = (ROOT / "docs" / "hooks.md").read_text("utf-8")
    assert page == generator.page(), "stale: run python docs/generate_hooks.py"


def test_every_hook_is_described(generator: ModuleType) -> None:
    assert generator.undocumented() == []


def test_the_page_has_every_hook_with_its_arguments() -> None:
    page = (ROOT / "docs" / "hooks.md").read_text("utf-8")
    on_the_page = dict(re.findall(r"^### `(\w+)\((.*)\)`$", page, re.M))
    in_the_code = {
        name: ", ".join(inspect.signature(hook).parameters)
        for name, hook in vars(hookspecs).items()
        if name.startswith("hyperfunc_")
    }
    assert on_the_page == in_the_code


def test_an_undescribed_hook_is_found(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def hyperfunc_something_happened(run: str, colour: str) -> None:
        """Fires when something happens.

        Args:
            run: the run's name.
        """

    monkeypatch.setattr(
        hookspecs, "hyperfunc_something_happened", hookspecs.hookspec(hyperfunc_something_happened), raising=False
    )
    assert generator.undocumented() == ["hyperfunc_something_happened"]


def test_check_mode_tells_a_stale_page(generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "PAGE", tmp_path / "hooks.md")
    monkeypatch.setattr(sys, "argv", ["generate_hooks.py", "--check"])
    assert generator.main() == 1
    monkeypatch.setattr(sys, "argv", ["generate_hooks.py"])
    assert generator.main() == 0
    monkeypatch.setattr(sys, "argv", ["generate_hooks.py", "--check"])
    assert generator.main() == 0


def test_the_script_runs_as_said() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate_hooks.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
