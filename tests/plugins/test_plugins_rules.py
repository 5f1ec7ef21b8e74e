"""Rules about the source itself: no hook without contract and words, no plugin in core, nothing heavy when loading."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from hyperfunc import builtin, hookspecs, testing
from hyperfunc.plugins import load_plugins
from hyperfunc.testing import CONTRACTS

ROOT = Path(__file__).parents[2]
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("hyperfunc_"))
PLUGIN_FILES = sorted(
    Path(found.origin)
    for point in importlib.metadata.entry_points(group="hyperfunc")
    if point.value.startswith("hyperfunc_") and point.dist is not None and point.dist.name == "hyperfunc"
    if (found := importlib.util.find_spec(point.value)) is not None and found.origin
)


@functools.cache
def subclassed() -> frozenset[str]:
    """Names of contracts that some test of ours subclasses."""
    found: set[str] = set()
    for file in ROOT.glob("tests/**/test_*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                found |= {base.id for base in node.bases if isinstance(base, ast.Name)}
    return frozenset(found)


def marked(file: Path) -> set[str]:
    """Hooks that a source file implements."""
    functions = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.FunctionDef)]
    return {f.name for f in functions if f.name.startswith("hyperfunc_")}


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_says_when_it_fires_and_what_its_arguments_are(hook: str) -> None:
    function = getattr(hookspecs, hook)
    words = inspect.getdoc(function) or ""
    assert words.startswith("Fires ")
    for argument in inspect.signature(function).parameters:
        assert argument == "register" or f"{argument}" in words, f"{hook} does not explain {argument}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_contract_that_our_own_tests_use(hook: str) -> None:
    assert hook in CONTRACTS, f"{hook} has no contract in hyperfunc.testing"
    assert CONTRACTS[hook].__name__ in subclassed(), f"no test subclasses {CONTRACTS[hook].__name__}"


def test_every_hook_is_implemented_by_us_or_by_a_fake_under_contract() -> None:
    files = [Path(builtin.__file__), *PLUGIN_FILES, Path(testing.__file__).with_name("fakes.py")]
    implemented = set().union(*map(marked, files))
    # What no built-in brings yet is kept honest by a contract and its negative control alone.
    assert implemented | set(CONTRACTS) >= set(HOOKS)
    assert implemented <= set(HOOKS)


def test_contracts_are_for_hooks_that_exist() -> None:
    assert set(CONTRACTS) == set(HOOKS)


@pytest.mark.parametrize("file", PLUGIN_FILES, ids=lambda file: file.parent.name)
def test_our_plugins_register_without_fault(file: Path) -> None:
    name = file.parent.name
    plugin = importlib.import_module(f"{name}.plugin")
    plugins = load_plugins([(name, plugin)], entry_points=False, strict=True)
    for kind in plugins.kinds():
        plugins.registry(kind)
    assert plugins.provides(name), f"{name} registers nothing"


def test_core_imports_no_plugin() -> None:
    packages = {folder.parent.name for folder in ROOT.glob("plugins/*/__init__.py")}
    packages |= {folder.parent.name for folder in ROOT.glob("exporters/*/__init__.py")}
    offenders = []
    for file in sorted((ROOT / "hyperfunc").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            offenders += [f"{file.relative_to(ROOT)}: {m}" for m in modules if m.partition(".")[0] in packages]
    # hyperfunc/__init__.py may hand plugins' names on, for type checkers too; it is the only such place.
    assert [line for line in offenders if not line.startswith("hyperfunc/__init__.py: ")] == []


HEAVY = ("torch", "numpy", "litellm", "transformers", "pandas", "fastapi", "psycopg", "gymnasium")


def heavy_after(code: str) -> list[str]:
    program = f"import sys; sys.path[:] = {sys.path!r}\n{code}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = ast.literal_eval(done.stdout.splitlines()[-1])
    return loaded


def test_help_imports_nothing_heavy() -> None:
    code = """
import runpy
sys.argv = ["hyperfunc", "--help"]
try:
    runpy.run_module("hyperfunc", run_name="__main__")
except SystemExit as end:
    assert end.code in (0, None), end.code
"""
    assert heavy_after(code) == []


def test_loading_our_plugins_imports_nothing_heavy() -> None:
    imports = "\n".join(f"import {file.parent.name}.plugin" for file in PLUGIN_FILES)
    assert heavy_after(imports) == []


def test_the_pytest_plugin_imports_nothing_heavy() -> None:
    assert heavy_after("import hyperfunc.testing.pytest_plugin") == []


def test_everything_that_testing_names_is_there() -> None:
    assert testing.__all__ == sorted(testing.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    for name in testing.__all__:
        assert getattr(testing, name) is not None
