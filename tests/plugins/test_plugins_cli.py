"""``hyperfunc plugins``: the list, the doctor, new packages from the template, and folders of single files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hyperfunc import hookimpl
from hyperfunc.cli import build_app
from hyperfunc.cli.new_plugin import write_plugin
from hyperfunc.errors import ConfigurationError, PluginError
from hyperfunc.hookspecs import Register
from hyperfunc.plugins import Plugins, load_plugins, use_plugins


class Mine:
    @hookimpl
    def hyperfunc_register_scorers(self, register: Register) -> None:
        register("mine", "json:JSONDecoder")

    @hookimpl
    def hyperfunc_register_cli_commands(self, register: Register) -> None:
        register("greet", greet, summary="Greet somebody.")


class Broken:
    @hookimpl
    def hyperfunc_register_strategies(self, register: Register) -> None:
        register("gone", "hyperfunc_no_such:Thing")

    @hookimpl
    def hyperfunc_register_exporters(self, register: Register) -> None:
        raise RuntimeError("boom")


def greet(name: str) -> None:
    """Greet somebody by name."""
    print(f"hello {name}")


@pytest.fixture
def plugins() -> Iterator[Plugins]:
    """A good and a broken plugin, as if they were installed."""
    made = load_plugins(entry_points=False, strict=False)
    made.add(Mine(), "mine", "hyperfunc-mine", "1.2")
    made.add(Broken(), "broken", "hyperfunc-broken", "0.1")
    with use_plugins(made):
        yield made


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(build_app(), arguments)


def test_the_list_names_what_each_provides(plugins: Plugins) -> None:
    rows = json.loads(invoke("plugins", "--json").stdout)
    assert [row["name"] for row in rows] == ["broken", "mine"]
    broken, mine = rows
    assert mine == {
        "name": "mine",
        "package": "hyperfunc-mine",
        "version": "1.2",
        "state": "loaded",
        "reason": "",
        "hooks": ["hyperfunc_register_cli_commands", "hyperfunc_register_scorers"],
        "imports_torch": False,
        "provides": {"cli_commands": ["greet"], "scorers": ["mine"]},
    }
    assert broken["state"] == "failed"
    assert broken["reason"] == "in hyperfunc_register_exporters: RuntimeError: boom"
    assert broken["provides"] == {"strategies": ["gone"]}


def test_all_also_shows_the_built_in(plugins: Plugins) -> None:
    rows = json.loads(invoke("plugins", "--all", "--json").stdout)
    assert [row["name"] for row in rows] == ["broken", "builtin", "mine"]
    assert "eggroll" in rows[1]["provides"]["strategies"]


def test_the_table_says_the_same(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    output = invoke("plugins").stdout
    assert "hyperfunc-mine" in output
    assert "scorers: mine" in output
    assert "failed: in hyperfunc_register_exporters: RuntimeError: boom" in output


@pytest.mark.parametrize("hook", ["scorers", "register_scorers", "hyperfunc_register_scorers"])
def test_a_hook_narrows_the_list(plugins: Plugins, hook: str) -> None:
    rows = json.loads(invoke("plugins", "--all", "--json", "--hook", hook).stdout)
    assert [row["name"] for row in rows] == ["builtin", "mine"]
    assert json.loads(invoke("plugins", "--json", "--hook", "run_ended").stdout) == []


def test_an_unknown_hook_is_an_error(plugins: Plugins) -> None:
    result = invoke("plugins", "--hook", "scorer")
    assert isinstance(result.exception, PluginError)
    assert "did you mean 'scorers'" in str(result.exception)


def test_nothing_installed_says_so() -> None:
    with use_plugins(load_plugins(entry_points=False)):
        assert invoke("plugins").stdout == "no plugins; --all shows the built-in ones\n"


def test_the_doctor_finds_what_is_wrong_and_says_what_to_do(plugins: Plugins) -> None:
    result = invoke("plugins", "doctor")
    assert result.exit_code == 1
    assert "strategy 'gone' of broken (hyperfunc-broken 0.1) cannot be imported" in result.stdout
    problems = [line for line in result.stdout.splitlines() if line.startswith("problem: ")]
    remedy = "(update it, pip uninstall hyperfunc-broken, or set HYPERFUNC_DISABLE_PLUGINS=broken)"
    assert [line.endswith(remedy) for line in problems] == [True, True]
    assert result.stdout.endswith("3 plugins, 2 problems\n")


def test_the_doctor_names_a_refused_plugin_once(tmp_path: Path) -> None:
    (tmp_path / "shout.py").write_text(
        "from hyperfunc import hookimpl\n@hookimpl\ndef hyperfunc_register_scorerz(register): ...\n", "utf-8"
    )
    with use_plugins(load_plugins(entry_points=False, directory=tmp_path)):
        result = invoke("plugins", "doctor")
    assert result.exit_code == 1
    assert result.stdout.count("plugin shout") == 1
    assert "did you mean 'hyperfunc_register_scorers'" in result.stdout


def test_the_doctor_is_content_with_what_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERFUNC_DISABLE_PLUGINS", "absent")
    with use_plugins(load_plugins([("mine", Mine())], entry_points=False)):
        result = invoke("plugins", "doctor", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["problems"] == []
    assert report["notes"] == ["HYPERFUNC_DISABLE_PLUGINS names 'absent', which is not installed"]


def test_a_plugin_s_command_runs_and_is_listed(plugins: Plugins) -> None:
    assert "Greet somebody." in invoke("--help").stdout
    assert invoke("greet", "Ada").stdout == "hello Ada\n"


def test_a_command_that_is_none_breaks_only_itself() -> None:
    class Wrong:
        @hookimpl
        def hyperfunc_register_cli_commands(self, register: Register) -> None:
            register("wrong", 3)
            register("missing", "hyperfunc_no_such:app")

    with use_plugins(load_plugins([("wrong", Wrong())], entry_points=False)):
        assert invoke("--help").exit_code == 0
        assert invoke("plugins", "--json").exit_code == 0
        for name in ("wrong", "missing"):
            assert isinstance(invoke(name).exception, PluginError)


def test_a_folder_of_plugins(tmp_path: Path) -> None:
    (tmp_path / "wave.py").write_text(
        "from hyperfunc import hookimpl\n"
        "@hookimpl\ndef hyperfunc_register_cli_commands(register):\n"
        "    register('wave', lambda: print('~'), summary='Wave.')\n"
    )
    assert invoke("--plugins-dir", str(tmp_path), "wave").stdout == "~\n"
    assert "Wave." in invoke("--plugins-dir", str(tmp_path), "--help").stdout
    rows = json.loads(invoke("--plugins-dir", str(tmp_path), "plugins", "--json").stdout)
    assert [row["package"] for row in rows if row["name"] == "wave"] == [str(tmp_path / "wave.py")]
    assert invoke("wave").exit_code == 2  # gone again
    wrong = invoke("--plugins-dir", str(tmp_path / "absent"), "plugins")
    assert isinstance(wrong.exception, ConfigurationError)


def test_our_own_errors_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hyperfunc", "--plugins-dir", str(tmp_path / "absent"), "plugins"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("hyperfunc: plugins directory: expected a folder")
    assert len(done.stderr.splitlines()) == 1


# New plugins


@pytest.mark.slow
def test_a_new_plugin_works_and_its_own_tests_pass(tmp_path: Path) -> None:
    result = invoke("plugins", "new", "word-count", "--directory", str(tmp_path))
    assert result.exit_code == 0, result.output
    folder = tmp_path / "hyperfunc-word-count"
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == [
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "src/hyperfunc_word_count/__init__.py",
        "src/hyperfunc_word_count/plugin.py",
        "src/hyperfunc_word_count/scorer.py",
        "tests/test_plugin.py",
    ]
    assert "$" not in "".join(file.read_text() for file in folder.rglob("*") if file.is_file())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # its tests need pytest alone
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed, 1 skipped" in done.stdout


@pytest.mark.parametrize("given", ["hyperfunc-tea", "hyperfunc_tea", "tea", "Tea"])
def test_prefixes_and_case_do_not_matter(tmp_path: Path, given: str) -> None:
    assert write_plugin(given, tmp_path) == tmp_path / "hyperfunc-tea"
    assert (tmp_path / "hyperfunc-tea" / "src" / "hyperfunc_tea" / "plugin.py").is_file()


@pytest.mark.parametrize("bad", ["", "hyperfunc-", "1st", "a/b", "..", "a b", "ünder", "class", "a--b", "-a"])
def test_bad_names_write_nothing(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ConfigurationError, match="plugin name"):
        write_plugin(bad, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_or_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plugin("tea", tmp_path)
    with pytest.raises(ConfigurationError, match="exists already"):
        write_plugin("tea", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"):
        write_plugin("cake", tmp_path / "file")
    monkeypatch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_plugin("scone", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "hyperfunc-tea"]
