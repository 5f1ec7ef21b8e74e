"""The loader: what is found, what is refused, and what a broken plugin cannot do."""

from __future__ import annotations

import importlib.metadata
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hyperfunc import hookimpl
from hyperfunc.errors import ConfigurationError, DuplicateNameError, MissingDependencyError, PluginError
from hyperfunc.hookspecs import Register
from hyperfunc.plugins import Plugins, current_plugins, load_plugins, use_plugins


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOAD", "DISABLE", "STRICT", "TRACE"):
        monkeypatch.delenv(f"HYPERFUNC_{name}_PLUGINS", raising=False)


def module(source: str, name: str = "plugin") -> ModuleType:
    made = ModuleType(name)
    exec(textwrap.dedent(source), vars(made))
    return made


def scorers(**things: Any) -> object:
    class Plugin:
        @hookimpl
        def hyperfunc_register_scorers(self, register: Register) -> None:
            for name, thing in things.items():
                register(name, thing)

    return Plugin()


class Distribution:
    """As much of an installed distribution as an entry point knows."""

    def __init__(self, name: str, version: str) -> None:
        self.name, self.version = name, version


class EntryPoint:
    def __init__(self, name: str, plugin: object, package: str = "", version: str = "1.0") -> None:
        self.name = name
        self.dist = Distribution(package, version) if package else None
        self._plugin = plugin

    def load(self) -> object:
        if isinstance(self._plugin, BaseException):
            raise self._plugin
        return self._plugin


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """What is "installed": entry points that the test lists."""
    points: list[EntryPoint] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        return points if group == "hyperfunc" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return points


# Malformed plugins


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("@hookimpl\ndef hyperfunc_register_scorrers(register): pass", "did you mean 'hyperfunc_register_scorers'"),
        ("@hookimpl\ndef unheard_of(register): pass", "unknown hook 'unheard_of'; known: hyperfunc_after_call"),
        ("@hookimpl\ndef hyperfunc_register_scorers(registry): pass", "registry"),
        ("@hookimpl\ndef hyperfunc_run_ended(run, reason): pass", "reason"),
        ("@hookimpl\nasync def hyperfunc_run_ended(run): pass", "is async"),
        ("@hookimpl(wrapper=True)\ndef hyperfunc_run_ended(run):\n    yield", "is a wrapper"),
        ("def hyperfunc_register_scorers(register): pass", "not marked with @hyperfunc.hookimpl"),
        ("x = 1", "nothing in it is marked"),
    ],
)
def test_a_malformed_plugin_is_refused_and_leaves_nothing(source: str, message: str) -> None:
    good = "\n@hookimpl\ndef hyperfunc_register_engines(register):\n    register('left-over', object())\n"
    plugins = load_plugins(entry_points=False)
    broken = module("from hyperfunc import hookimpl\n" + (good if "@hookimpl" in source else "") + source)
    with pytest.raises(PluginError, match=r"plugin mine") as caught:
        plugins.add(broken, "mine")
    assert message in str(caught.value)
    assert plugins.registry("engines").names() == []
    assert "mine" not in plugins.infos
    plugins.add(scorers(fine=object()), "mine")  # the name is free, and no misspelled hook is remembered
    assert plugins.provides("mine") == {"scorers": ["fine"]}


def test_a_plugin_names_only_the_arguments_that_it_wants() -> None:
    seen: list[Any] = []

    class Plugin:
        @hookimpl
        def hyperfunc_run_ended(self, finish_reason: str) -> None:
            seen.append(finish_reason)

        @hookimpl
        def hyperfunc_register_scorers(self) -> None:
            seen.append("asked")

    plugins = load_plugins([("mine", Plugin())], entry_points=False)
    plugins.emit("run_ended", run="r", finish_reason="target", summary={})
    plugins.registry("scorers")
    assert seen == ["target", "asked"]


def test_one_object_and_one_name_are_one_plugin() -> None:
    plugin = scorers(a=object())
    plugins = load_plugins([("mine", plugin)], entry_points=False)
    with pytest.raises(PluginError, match="already registered as 'mine'"):
        plugins.add(plugin, "other")
    with pytest.raises(PluginError, match="plugin name 'mine': mine has it, and mine \\(theirs 2\\.0\\) asks for it"):
        plugins.add(scorers(b=object()), "mine", "theirs", "2.0")
    assert plugins.provides("mine") == {"scorers": ["a"]}


# Names


def test_a_duplicate_of_two_plugins_belongs_to_neither_whatever_the_order(capsys: pytest.CaptureFixture[str]) -> None:
    pair = [("one", scorers(same=1, first=2)), ("two", scorers(same=3, second=4))]
    for order in (pair, pair[::-1]):
        plugins = load_plugins(entry_points=False)
        for name, plugin in order:
            plugins.add(plugin, name, f"hyperfunc-{name}", "1.0")
        registry = plugins.registry("scorers")
        with pytest.raises(DuplicateNameError) as caught:
            registry.get("same")
        assert "one (hyperfunc-one 1.0)" in str(caught.value)
        assert "two (hyperfunc-two 1.0)" in str(caught.value)
        assert (registry.get("first"), registry.get("second")) == (2, 4)
        assert "same" not in registry.names()
        assert registry.disputed() == ["same"]
        assert plugins.infos[order[1][0]].state == "failed"
        assert capsys.readouterr().err.count("is registered by") == 1


def test_a_built_in_keeps_its_name() -> None:
    plugins = load_plugins([("mine", scorers(**{"exact-match": object(), "mine": 1}))], entry_points=False)
    assert plugins.get("scorers", "exact-match").__name__ == "ExactMatch"
    assert plugins.get("scorers", "mine") == 1
    assert "'builtin (hyperfunc)' and again by 'mine'" in plugins.infos["mine"].reason


@pytest.mark.parametrize(
    ("name", "thing", "message"),
    [
        ("", object(), "non-empty string"),
        (3, object(), "non-empty string"),
        ("x", None, "expected an object, or an import string"),
        ("x", "no.colon", "import string 'package.module:attribute'"),
        ("x", "a:b:c", "import string"),
    ],
)
def test_malformed_registrations_take_the_whole_hook_back(name: Any, thing: Any, message: str) -> None:
    class Plugin:
        @hookimpl
        def hyperfunc_register_scorers(self, register: Register) -> None:
            register("before", object())
            register(name, thing)

        @hookimpl
        def hyperfunc_register_engines(self, register: Register) -> None:
            register("engine", object())

    plugins = load_plugins([("mine", Plugin())], entry_points=False)
    assert "before" not in plugins.registry("scorers")
    assert message in plugins.infos["mine"].reason
    assert plugins.infos["mine"].reason.startswith("in hyperfunc_register_scorers:")
    assert plugins.provides("mine") == {"engines": ["engine"]}


def test_unknown_names_are_answered_with_close_ones() -> None:
    plugins = load_plugins(entry_points=False)
    with pytest.raises(PluginError, match="no scorer named 'exact-mach'; did you mean 'exact-match'"):
        plugins.get("scorers", "exact-mach")
    with pytest.raises(PluginError, match="no strategy named 'snez'; did you mean 'snes'"):
        plugins.get("strategies", "snez")
    with pytest.raises(PluginError, match="no extension point named 'scorer'; did you mean 'scorers'"):
        plugins.registry("scorer")
    with pytest.raises(PluginError, match="no event named 'run_begun'"):
        plugins.emit("run_begun")


def test_things_that_cannot_be_imported_name_their_owner() -> None:
    things = {"gone": "hyperfunc_no_such:Thing", "lacks": "json:Nothing", "nested": "json.decoder:JSONDecoder.decode"}
    plugins = load_plugins([("mine", scorers(**things))], entry_points=False)
    for name in ("gone", "lacks"):
        with pytest.raises(PluginError, match=f"scorer '{name}' of mine cannot be imported"):
            plugins.get("scorers", name)
    assert plugins.get("scorers", "nested").__name__ == "decode"


# Isolation


BROKEN = [
    ImportError("No module named 'heavy'"),
    RuntimeError("boom"),
    SystemExit(3),
    SyntaxError("bad"),
    MissingDependencyError("torchvision", "vision"),
]


def test_broken_plugins_are_listed_and_the_others_work(
    installed: list[EntryPoint], capsys: pytest.CaptureFixture[str]
) -> None:
    installed += [EntryPoint(f"broken{i}", error, f"hyperfunc-b{i}") for i, error in enumerate(BROKEN)]
    installed += [EntryPoint("empty", ModuleType("empty"), "hyperfunc-empty")]
    installed += [EntryPoint("z", scorers(z=1), "hyperfunc-z", "2.0")]
    plugins = load_plugins()
    assert plugins.get("scorers", "z") == 1
    assert plugins.get("scorers", "exact-match")
    states = {name: info.state for name, info in plugins.infos.items() if name != "builtin"}
    assert states == {**{f"broken{i}": "failed" for i in range(5)}, "empty": "failed", "z": "loaded"}
    assert "No module named 'heavy'" in plugins.infos["broken0"].reason
    assert "hyperfunc[vision]" in plugins.infos["broken4"].reason
    assert plugins.infos["z"].label == "z (hyperfunc-z 2.0)"
    errors = capsys.readouterr().err
    assert errors.count("is ignored where it failed") == 6


def test_an_interrupt_passes(installed: list[EntryPoint]) -> None:
    installed.append(EntryPoint("slow", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        load_plugins()


def test_two_packages_with_one_plugin_name_are_both_listed(installed: list[EntryPoint]) -> None:
    installed += [EntryPoint("same", scorers(a=1), "hyperfunc-one"), EntryPoint("same", scorers(b=2), "hyperfunc-two")]
    plugins = load_plugins()
    assert plugins.infos["same"].package == "hyperfunc-one"
    assert plugins.infos["same@hyperfunc-two"].state == "failed"
    assert "hyperfunc-one" in plugins.infos["same@hyperfunc-two"].reason
    assert plugins.get("scorers", "a") == 1


def test_which_are_loaded(installed: list[EntryPoint], monkeypatch: pytest.MonkeyPatch) -> None:
    installed += [EntryPoint(name, scorers(**{name: 1})) for name in ("a", "b", "c")]

    def loaded() -> list[str]:
        return [name for name, info in load_plugins().infos.items() if info.state == "loaded" and name != "builtin"]

    assert loaded() == ["a", "b", "c"]
    monkeypatch.setenv("HYPERFUNC_DISABLE_PLUGINS", "b, builtin")
    assert loaded() == ["a", "c"]
    monkeypatch.setenv("HYPERFUNC_LOAD_PLUGINS", " c , b")
    assert loaded() == ["c"]
    monkeypatch.setenv("HYPERFUNC_LOAD_PLUGINS", "")
    assert loaded() == []
    infos = load_plugins().infos
    assert infos["a"].reason == "by HYPERFUNC_LOAD_PLUGINS"
    assert infos["b"].reason == "by HYPERFUNC_DISABLE_PLUGINS"
    assert load_plugins().get("scorers", "exact-match")


def test_strict_raises_what_would_be_reported(installed: list[EntryPoint], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERFUNC_STRICT_PLUGINS", "1")
    installed.append(EntryPoint("broken", RuntimeError("boom"), "hyperfunc-b"))
    with pytest.raises(PluginError, match=r"plugin broken \(hyperfunc-b 1.0\): RuntimeError: boom"):
        load_plugins()
    installed.clear()
    plugins = load_plugins([("one", scorers(same=1)), ("two", scorers(same=2))])
    with pytest.raises(DuplicateNameError):
        plugins.registry("scorers")


def test_trace_prints_every_call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERFUNC_TRACE_PLUGINS", "1")
    plugins = load_plugins([("mine", Events()), ("bad", Events(fail={"run_started"}))], entry_points=False)
    plugins.registry("scorers")
    start(plugins)
    lines = capsys.readouterr().err
    assert "hyperfunc_register_scorers of builtin returned after" in lines
    assert "hyperfunc_run_started of mine returned after" in lines
    assert "hyperfunc_run_started of bad raised after" in lines


# Single files


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "shout.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom hyperfunc import hookimpl\n"
        "@dataclass\nclass Shout:\n    loud: bool = True\n"
        "@hookimpl\ndef hyperfunc_register_scorers(register):\n    register('shout', Shout)\n"
    )
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "_helper.py").write_text("raise RuntimeError")
    (tmp_path / "json.py").write_text("from hyperfunc import hookimpl\n@hookimpl\ndef hyperfunc_run_ended(run): pass\n")
    plugins = load_plugins(entry_points=False, directory=tmp_path)
    assert plugins.get("scorers", "shout")().loud
    assert {n: i.state for n, i in plugins.infos.items()} == {
        "builtin": "loaded",
        "broken": "failed",
        "json": "loaded",
        "shout": "loaded",
    }
    assert plugins.infos["broken"].package == str(tmp_path / "broken.py")
    import json

    assert json.loads("1") == 1
    with pytest.raises(ConfigurationError, match="plugins directory"):
        load_plugins(entry_points=False, directory=tmp_path / "absent")


# Events


class Events:
    def __init__(self, fail: set[str] | None = None) -> None:
        self.fail = fail or set()
        self.seen: list[tuple[str, Any]] = []

    def _take(self, event: str, value: Any) -> None:
        self.seen.append((event, value))
        if event in self.fail:
            raise ValueError(f"cannot handle {event}")

    @hookimpl
    def hyperfunc_run_started(self, run: str, configuration: Mapping[str, Any]) -> None:
        self._take("run_started", run)

    @hookimpl
    def hyperfunc_generation_finished(self, run: str, generation: int) -> None:
        self._take("generation_finished", (run, generation))

    @hookimpl
    def hyperfunc_before_call(self, call_id: int) -> None:
        self._take("before_call", call_id)

    @hookimpl
    def hyperfunc_run_ended(self, run: str) -> None:
        self._take("run_ended", run)

    @hookimpl
    def hyperfunc_register_scorers(self, register: Register) -> None:
        register(f"scorer-{id(self)}", object())


def start(plugins: Plugins, run: str = "r") -> None:
    plugins.emit("run_started", run=run, configuration={})


def test_an_event_hook_that_raises_is_off_for_the_rest_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = Events({"generation_finished", "before_call"}), Events()
    plugins = load_plugins([("bad", bad), ("good", good)], entry_points=False)
    for run in ("one", "two"):
        start(plugins, run)
        for generation in range(3):
            plugins.emit("before_call", component="c", call_id=generation)
            plugins.emit("generation_finished", run=run, generation=generation, record={})
        plugins.emit("run_ended", run=run, finish_reason="completed", summary={})
    expected: list[tuple[str, Any]] = []
    for run in ("one", "two"):
        expected += [("run_started", run), ("before_call", 0), ("generation_finished", (run, 0)), ("run_ended", run)]
    assert bad.seen == expected
    assert len(good.seen) == 16
    assert plugins.infos["bad"].state == "failed"
    assert f"scorer-{id(bad)}" in plugins.registry("scorers")  # only the hook is off, not what the plugin brings
    assert capsys.readouterr().err.count("is ignored where it failed") == 4


def test_strict_events_raise() -> None:
    plugins = load_plugins([("bad", Events({"run_started"}))], entry_points=False, strict=True)
    with pytest.raises(PluginError, match="plugin bad: in hyperfunc_run_started: ValueError: cannot handle"):
        start(plugins)


def test_tryfirst_decides_the_order_of_events() -> None:
    order: list[str] = []

    def listener(name: str, **options: bool) -> object:
        class Plugin:
            @hookimpl(**options)
            def hyperfunc_run_started(self, run: str) -> None:
                order.append(name)

        return Plugin()

    extra = [
        ("last", listener("last", trylast=True)),
        ("first", listener("first", tryfirst=True)),
        ("b", listener("b")),
    ]
    start(load_plugins(extra, entry_points=False))
    assert order == ["first", "b", "last"]


# The manager in use


def test_a_manager_is_used_in_its_block_alone() -> None:
    outside = current_plugins()
    with use_plugins(load_plugins([("mine", scorers(mine=1))], entry_points=False)) as plugins:
        assert current_plugins() is plugins
        assert current_plugins().get("scorers", "mine") == 1
    assert current_plugins() is outside
