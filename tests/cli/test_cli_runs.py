"""The commands about runs, on a journal that a real optimize with paid calls wrote."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import Result
from typer.testing import CliRunner

from hyperfunc.cli import build_app
from hyperfunc.errors import ConfigurationError, JournalError, ResumeError
from hyperfunc.journal import Journal
from hyperfunc.testing.llm_server import ServerProcess

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def program(server: ServerProcess) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLI_PROGRAM_URL", server.base_url)
        patch.syspath_prepend(str(Path(__file__).parent))
        yield importlib.import_module("cli_program")
    sys.modules.pop("cli_program")


@pytest.fixture(scope="module")
def made(program: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with two finished runs; tests that change it work on a journal of their own."""
    path = tmp_path_factory.mktemp("cli") / "journal.db"
    asyncio.run(program.train("first", path))
    asyncio.run(program.train("second", path, steps=2))
    return path


@pytest.fixture
def invoke(made: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, journal: Path = made) -> Result:
        return CliRunner().invoke(build_app(), [*arguments, "--journal", str(journal)])

    return call


def test_list_names_every_run(invoke: Invoke) -> None:
    result = invoke("runs", "list")
    assert result.exit_code == 0, result.output
    assert "first" in result.output
    assert "second" in result.output
    runs = json.loads(invoke("runs", "list", "--json").output)
    assert [(run["name"], run["status"], run["generations"]) for run in runs] == [
        ("first", "finished", 3),
        ("second", "finished", 2),
    ]
    assert runs[0]["finish_reason"] == "completed"
    assert [run["spend"]["calls"] for run in runs] == [2, 0]  # three examples, one paid before the run began


def test_show_gives_generations_and_parameters(invoke: Invoke, made: Path) -> None:
    shown = json.loads(invoke("runs", "show", "first", "--json").output)
    with Journal(made) as journal:
        generations = journal.generations("first")
    assert [g["number"] for g in shown["generations_list"]] == [0, 1, 2, 3]
    assert [g["fitness"] for g in shown["generations_list"]] == [dict(g.fitness) for g in generations]
    assert shown["parameters"]["weigh.hp"] == [2, 2]
    text = invoke("runs", "show", "first").output
    assert f"{generations[-1].fitness['best']:.5g}" in text
    assert "weigh.hp" in text


def test_compare_names_what_differs(invoke: Invoke) -> None:
    found = json.loads(invoke("runs", "compare", "first", "second", "--json").output)
    assert found["same program"] == [True, True]
    assert found["configuration steps"] == [3, 2]
    assert found["distance of weigh.hp"][1] >= 0
    assert "configuration steps" in invoke("runs", "compare", "first", "second").output


def test_export_writes_plain_files(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("runs", "export", "first", "-o", str(tmp_path / "out")).exit_code == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["name"] == "first"
    assert (tmp_path / "out/best.safetensors").exists()
    assert isinstance(invoke("runs", "export", "first", "-o", str(tmp_path / "out")).exception, JournalError)


def test_report_is_one_page(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("report", "first", "-o", str(tmp_path / "r/report.html")).exit_code == 0
    page = (tmp_path / "r/report.html").read_text()
    assert "first" in page
    assert "weigh" in page


def test_graph_shows_which_output_feeds_which_call(invoke: Invoke, tmp_path: Path) -> None:
    dot = invoke("graph", "first").output
    assert dot.startswith('digraph "first" {')
    assert '"llm_completion" -> "weigh"' in dot
    assert invoke("graph", "first", "--svg", "-o", str(tmp_path / "graph.svg")).exit_code == 0
    root = ElementTree.fromstring((tmp_path / "graph.svg").read_text())
    assert root.tag.endswith("svg")
    assert "weigh" in "".join(root.itertext())


def test_replay_answers_from_the_journal(invoke: Invoke, server: ServerProcess, made: Path, program: Any) -> None:
    before = server.counters()["requests"]
    result = invoke("replay", "first", "-n", "1", "--system", "cli_program:make_system", "--data", "cli_program:TRAIN")
    assert result.exit_code == 0, result.output
    assert server.counters()["requests"] == before
    system = program.make_system()
    with Journal(made) as journal:
        theta = journal.best_theta("first")
    asyncio.run(system.run(**program.TRAIN[1].inputs))  # registers the components; pays, as nothing keeps it from it
    system.set_theta(theta)
    expected = asyncio.run(system.run(**program.TRAIN[1].inputs))
    assert f"output: {expected!r}" in result.output
    assert "2 calls" in result.output
    initial = invoke(
        "replay", "first", "-n", "1", "--system", "cli_program:make_system", "--data", "cli_program:TRAIN", "--initial"
    )
    assert initial.exit_code == 0, initial.output
    assert f"output: {expected!r}" not in initial.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"-n": "3"}, "0 to 2"),
        ({"--system": "cli_program:nothing"}, "nothing"),
        ({"--system": "no_such_module:x"}, "no_such_module"),
        ({"--system": "cli_program"}, "package.module:name"),
        ({"--system": "cli_program:not_a_coroutine"}, "HyperSystem"),
        ({"--system": "cli_program:train_further"}, "argument"),
    ],
)
def test_replay_says_what_is_wrong(invoke: Invoke, change: dict[str, str], words: str) -> None:
    arguments = {"-n": "0", "--system": "cli_program:make_system", "--data": "cli_program:TRAIN", **change}
    result = invoke("replay", "first", *(part for pair in arguments.items() for part in pair))
    assert isinstance(result.exception, ConfigurationError | TypeError)
    assert words in str(result.exception)


def test_replay_never_pays(invoke: Invoke, server: ServerProcess, program: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(program, "TRAIN", [program.Example({"question": "never asked?"}, 0.5)])
    before = server.counters()["requests"]
    result = invoke("replay", "first", "-n", "0", "--system", "cli_program:make_system", "--data", "cli_program:TRAIN")
    assert isinstance(result.exception, JournalError)
    assert "not in the journal" in str(result.exception)
    assert server.counters()["requests"] == before


def test_resume_goes_on_by_the_users_function(
    invoke: Invoke, server: ServerProcess, program: Any, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    asyncio.run(program.train("r", path))
    before = server.counters()["requests"]
    result = invoke("resume", "r", "--program", "cli_program:train_further", journal=path)
    assert result.exit_code == 0, result.output
    assert "5 generations" in result.output
    assert server.counters()["requests"] == before
    with Journal(path) as journal:
        assert journal.run("r").generations == 5
        resumed = journal.best_theta("r")
    asyncio.run(program.train("r", tmp_path / "whole.db", steps=5))
    with Journal(tmp_path / "whole.db") as journal:
        assert journal.best_theta("r") == resumed


def test_resume_says_what_is_wrong(invoke: Invoke) -> None:
    idle = invoke("resume", "first", "--program", "cli_program:forget_to_resume")
    assert isinstance(idle.exception, ResumeError)
    assert "resume=True" in str(idle.exception)
    plain = invoke("resume", "first", "--program", "cli_program:not_a_coroutine")
    assert isinstance(plain.exception, ConfigurationError)
    assert isinstance(invoke("resume", "x", "--program", "cli_program:train").exception, JournalError)


def test_prune_deletes_what_is_named(invoke: Invoke, program: Any, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for name in ("a", "b"):
        asyncio.run(program.train(name, path, steps=1))
    assert isinstance(invoke("runs", "prune", journal=path).exception, ConfigurationError)
    result = invoke("runs", "prune", "a", journal=path)
    assert result.exit_code == 0, result.output
    assert "deleted 1 runs: a" in result.output
    assert [run["name"] for run in json.loads(invoke("runs", "list", "--json", journal=path).output)] == ["b"]
    assert isinstance(invoke("runs", "prune", "nobody", journal=path).exception, JournalError)


def test_a_missing_journal_is_not_made(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("runs", "list", journal=tmp_path / "none.db")
    assert isinstance(result.exception, JournalError)
    assert not (tmp_path / "none.db").exists()
