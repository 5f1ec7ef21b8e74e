"""Who may import whom (docs/design.md), read from the source; and that what modules offer is there.

Imports at module level count. Those under ``if TYPE_CHECKING`` make no cycle at run time, but obey the layers.
"""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hyperfunc

PACKAGE = Path(hyperfunc.__file__).parent
OPTIONAL = {"hyperfunc.testing"}  # test helpers, which may need packages that users do not have

FORBIDDEN = {  # room -> what it may not import
    "hyperfunc.parameters": (
        "hyperfunc.population",
        "hyperfunc.evolution",
        "hyperfunc.evaluation",
        "hyperfunc.function",
    ),
    "hyperfunc.population": (
        "hyperfunc.evolution",
        "hyperfunc.evaluation",
        "hyperfunc.optimization",
        "hyperfunc.system",
    ),
    "hyperfunc.evolution": ("hyperfunc.system", "hyperfunc.optimization", "hyperfunc.training", "hyperfunc.evaluation"),
    "hyperfunc.evaluation": ("hyperfunc.population", "hyperfunc.evolution", "hyperfunc.optimization"),
    "hyperfunc.binding": ("hyperfunc.function", "hyperfunc.system", "hyperfunc.population", "hyperfunc.plugins"),
    "hyperfunc.calling": ("hyperfunc.function", "hyperfunc.system", "hyperfunc.population", "hyperfunc.plugins"),
    "hyperfunc.attempt": ("hyperfunc.function", "hyperfunc.system", "hyperfunc.population", "hyperfunc.plugins"),
    "hyperfunc.tape": ("hyperfunc.function", "hyperfunc.system", "hyperfunc.population", "hyperfunc.binding"),
    "hyperfunc.optimization": ("hyperfunc.system", "hyperfunc.training", "hyperfunc.registry"),
    "hyperfunc.hookspecs": ("hyperfunc",),  # the file that plugin authors read needs nothing else
    "hyperfunc.errors": ("hyperfunc",),
}


def is_inside(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@functools.cache
def sources() -> dict[str, Path]:
    """Module name -> file, of the whole package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("hyperfunc", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _statements(body: list[ast.stmt], checking: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """The statements that run when a module is imported, and whether only a type checker sees them."""
    for statement in body:
        yield statement, checking
        if isinstance(statement, ast.If):
            guarded = checking or "TYPE_CHECKING" in ast.unparse(statement.test)
            yield from _statements(statement.body, guarded)
            yield from _statements(statement.orelse, checking)
        elif isinstance(statement, (ast.Try, ast.With, ast.ClassDef)):
            yield from _statements(statement.body, checking)
            for handler in getattr(statement, "handlers", ()):
                yield from _statements(handler.body, checking)
            yield from _statements(getattr(statement, "orelse", []), checking)
            yield from _statements(getattr(statement, "finalbody", []), checking)


def _targets(statement: ast.stmt) -> Iterator[str]:
    """The modules that an import statement names."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        assert statement.level == 0, "imports are absolute here"
        for alias in statement.names:
            inner = f"{statement.module}.{alias.name}"
            yield inner if inner in sources() else str(statement.module)


@functools.cache
def imports(module: str) -> dict[str, bool]:
    """What a module imports at its top level -> whether for type checkers only."""
    found: dict[str, bool] = {}
    for statement, checking in _statements(ast.parse(sources()[module].read_text("utf-8")).body):
        for target in _targets(statement):
            found[target] = found.get(target, True) and checking
    return found


def test_the_reader_of_imports_sees_through_blocks() -> None:
    tree = ast.parse(
        "import a\nif TYPE_CHECKING:\n    import b\ntry:\n    import c\nexcept ImportError:\n    import d\n"
        "def f():\n    import e\n"
    )
    found = {target: checking for s, checking in _statements(tree.body) for target in _targets(s)}
    assert found == {"a": False, "b": True, "c": False, "d": False}
    assert {"hyperfunc.errors", "hyperfunc.system", "hyperfunc.evolution.eggroll"} <= set(sources())


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_downwards_only(room: str) -> None:
    modules = [m for m in sources() if is_inside(m, room)]
    assert modules, f"there is no {room}"
    wrong = [
        f"{module} imports {target}"
        for module in modules
        for target in imports(module)
        if any(is_inside(target, forbidden) for forbidden in FORBIDDEN[room])
    ]
    assert wrong == []


def test_core_never_imports_a_plugin() -> None:
    roots = [PACKAGE.parent / "plugins", PACKAGE.parent / "exporters"]
    known = {p.name for root in roots if root.is_dir() for p in root.iterdir() if (p / "__init__.py").is_file()}
    wrong = [
        f"{module} imports {target}"
        for module in sources()
        if module != "hyperfunc"  # its table hands on the well-known names, for type checkers too
        if not is_inside(module, "hyperfunc.testing")  # contract tests of plugins' interfaces, never imported by core
        for target in imports(module)
        if target.partition(".")[0] in known or target.startswith("hyperfunc_")
    ]
    assert wrong == []


def test_core_never_imports_its_test_helpers() -> None:
    wrong = [
        m
        for m in sources()
        for t in imports(m)
        if is_inside(t, "hyperfunc.testing") and not is_inside(m, "hyperfunc.testing")
    ]
    assert wrong == []


def test_the_package_face_imports_nothing_of_its_own() -> None:
    assert [t for t, checking in imports("hyperfunc").items() if not checking and t.startswith("hyperfunc")] == []


def test_there_are_no_cycles() -> None:
    graph = {
        module: {t for t, checking in imports(module).items() if not checking and t in sources() and t != module}
        for module in sources()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(reversed(error.args[1])))


def public_modules() -> list[str]:
    names = [m.name for m in pkgutil.walk_packages(hyperfunc.__path__, "hyperfunc.")]
    return [n for n in names if not any(part.startswith("_") for part in n.split(".")[1:])]


@pytest.mark.parametrize("name", ["hyperfunc", *public_modules()])
def test_what_a_module_offers_is_sorted_and_there(name: str) -> None:
    if any(is_inside(name, room) for room in OPTIONAL):
        tree = ast.parse(sources()[name].read_text("utf-8"))
        assigned = [s for s in tree.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == "__all__"]
        if assigned:
            offered = ast.literal_eval(assigned[0].value)
            assert offered == _sorted(offered)
        return
    module = importlib.import_module(name)
    source = sources()[name].read_text("utf-8").strip()
    offered = getattr(module, "__all__", None)
    if offered is None:
        assert source.count("\n") < 20, f"{name} has no __all__"
        return
    assert list(offered) == _sorted(offered)
    assert [n for n in offered if not hasattr(module, n)] == []


def _sorted(names: list[str]) -> list[str]:
    """Constants, then classes, then the rest, each in alphabetical order; or plainly in alphabetical order."""
    plain = sorted(names)
    if list(names) == plain:
        return plain

    def kind(name: str) -> int:
        return 0 if name.isupper() else 1 if name.lstrip("_")[:1].isupper() else 2

    return sorted(names, key=lambda name: (kind(name), name))


def test_the_face_says_the_same_to_type_checkers() -> None:
    said = {}
    for statement, checking in _statements(ast.parse(sources()["hyperfunc"].read_text("utf-8")).body):
        if checking and isinstance(statement, ast.ImportFrom):
            said.update({alias.asname or alias.name: statement.module for alias in statement.names})
    table = {**hyperfunc._CORE, **hyperfunc._PLUGINS}
    assert said == table
    assert list(hyperfunc._CORE) == sorted(hyperfunc._CORE)


@pytest.mark.parametrize("name", sorted(hyperfunc.__all__))
def test_every_public_name_resolves(name: str) -> None:
    if name in hyperfunc._PLUGINS:
        pytest.importorskip(hyperfunc._PLUGINS[name].partition(".")[0])
    assert getattr(hyperfunc, name) is not None
    assert name in dir(hyperfunc)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        hyperfunc.Nonsense  # noqa: B018
