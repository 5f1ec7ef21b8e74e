"""The commands about runs, on a journal that a real optimize with paid calls wrote."""

from __future__ import annotations

import asyncio
import importlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from hyperfunc.cli import build_app
from hyperfunc.cli.replaying import shown
from hyperfunc.errors import ConfigurationError, JournalError, ResumeError
from hyperfunc.journal import Journal, fingerprint_data, fingerprint_program
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
    """A journal with three finished runs; tests that change it work on a journal of their own."""
    path = tmp_path_factory.mktemp("cli") / "journal.db"
    asyncio.run(program.train("first", path))
    asyncio.run(program.train("second", path, steps=2))
    asyncio.run(program.train("[bold]third", path, steps=2, lr=0.2))
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
        ("[bold]third", "finished", 2),
    ]
    assert runs[0]["finish_reason"] == "completed"
    # three examples, one paid before the run began
    assert [run["spend"]["calls"] for run in runs] == [3, 0, 0]


def test_tables_are_whole_where_nobody_reads_along(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    lines = invoke("runs", "list").output.splitlines()
    assert len(lines) == 4  # a heading, and a line a run
    assert lines[3].startswith("[bold]third  completed  20")  # no markup, no folding
    assert all(line == line.rstrip() for line in lines)


def test_a_listing_fits_a_narrow_terminal(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert len(invoke("runs", "list").output.splitlines()) == 4


def test_show_gives_generations_and_parameters(invoke: Invoke, made: Path) -> None:
    shown = json.loads(invoke("runs", "show", "first", "--json").output)
    with Journal(made) as journal:
        generations = journal.generations("first")
    assert [g["number"] for g in shown["generations_list"]] == [0, 1, 2, 3]
    assert [g["fitness"] for g in shown["generations_list"]] == [dict(g.fitness) for g in generations]
    assert shown["parameters"]["weigh.hp"] == [2, 2]
    text = invoke("runs", "show", "first").output
    assert "ESHybridSystemOptimizer, ConstantSigma; antithetic=True" in " ".join(text.split())
    last = invoke("runs", "show", "first", "--generations", "1").output
    assert "the last 1 of 3 generations" in last
    assert f"{generations[1].fitness['best']:.5g}" not in last
    assert f"{generations[-1].fitness['best']:.5g}" in text
    assert "weigh.hp" in text


def test_compare_names_what_differs(invoke: Invoke) -> None:
    found = json.loads(invoke("runs", "compare", "first", "second", "--json").output)
    assert found["program"] == found["data"] == []
    assert found["config"] == {"steps": [3, 2]}
    assert found["tensor_distances"]["weigh.hp"] >= 0
    text = invoke("runs", "compare", "second", "[bold]third").output
    assert "program: the same" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["optimizer:", "ESHybridSystemOptimizer.lr", "0.1", "0.2"] in rows  # by name, not by a hash


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
    assert "note:" not in result.output
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
        ({"--system": "cli_program:train_further"}, "needs 'run'"),
    ],
)
def test_replay_says_what_is_wrong(invoke: Invoke, change: dict[str, str], words: str) -> None:
    arguments = {"-n": "0", "--system": "cli_program:make_system", "--data": "cli_program:TRAIN", **change}
    result = invoke("replay", "first", *(part for pair in arguments.items() for part in pair))
    assert isinstance(result.exception, ConfigurationError)
    assert words in str(result.exception)


def test_replay_says_where_it_is_not_the_run(invoke: Invoke, program: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(program, "TRAIN", [program.Example({"question": "never asked?"}, 0.5)])
    result = invoke("replay", "first", "-n", "0", "--system", "cli_program:Greeter", "--data", "cli_program:TRAIN")
    assert result.exit_code == 0, result.output
    assert "note: the program is not the run's: part added: class Greeter" in result.stderr
    assert "note: example 0 is not among the run's examples" in result.stderr
    assert (
        "note: cli_program:Greeter has not used these parameters of the run: llm_completion.hp, weigh.hp"
        in result.stderr
    )
    assert "output: [bold]never asked?[/bold]" in result.stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor([[0.5, 2.0]]), "[[0.5, 2]] (float32[1, 2])"),
        (torch.tensor(3), "3 (int64[])"),
        (torch.zeros(100), "float32[100]"),
        ("a reply", "a reply"),
    ],
)
def test_small_tensors_are_shown_by_their_numbers(value: Any, text: str) -> None:
    assert shown(value) == text


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
    assert str(plain.exception).endswith("got not_a_coroutine")
    assert isinstance(invoke("resume", "x", "--program", "cli_program:train").exception, JournalError)


def test_prune_deletes_what_is_named(invoke: Invoke, program: Any, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for name in ("a", "b"):
        asyncio.run(program.train(name, path, steps=1))
    assert isinstance(invoke("runs", "prune", journal=path).exception, ConfigurationError)
    result = invoke("runs", "prune", "a", journal=path)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("deleted: a\ndropped: 0 snapshots, 0 paid calls, ")
    assert [run["name"] for run in json.loads(invoke("runs", "list", "--json", journal=path).output)] == ["b"]
    assert isinstance(invoke("runs", "prune", "nobody", journal=path).exception, JournalError)


def test_prune_spares_what_is_running_and_says_who_pays_again(invoke: Invoke, program: Any, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    asyncio.run(program.train("a", path, steps=1))
    facts = {"program": fingerprint_program(), "data": fingerprint_data()}
    with Journal(path) as journal:
        asyncio.run(journal.start_run("going on", config={}, **facts))
        refused = invoke("runs", "prune", "a", "going on", journal=path)
        assert "runs in progress cannot be pruned: going on" in str(refused.exception)
        would = invoke("runs", "prune", "--keep-latest", "0", "--calls", "--dry-run", journal=path)
        assert would.stdout.startswith("would be deleted: a\nwould be dropped: 0 snapshots, 3 paid calls\n")
        assert [run.name for run in journal.runs()] == ["a", "going on"]
        result = invoke("runs", "prune", "--keep-latest", "0", "--calls", journal=path)
        assert result.stdout.startswith("deleted: a\ndropped: 0 snapshots, 3 paid calls, ")
        assert "they pay for again: going on" in result.stderr
        assert [run.name for run in journal.runs()] == ["going on"]


def _spoil(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "overwritten":
        path.write_bytes(content[:4096] + b"\x5a" * (len(content) - 4096))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a text":
        path.write_bytes(b"no database at all\n" * 300)
    elif kind == "newer":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 999")
        connection.close()


COMMANDS = [
    ("runs", "list"),
    ("runs", "show", "first"),
    ("runs", "compare", "first", "second"),
    ("runs", "export", "first", "-o", "exported"),
    ("runs", "prune", "first"),
    ("report", "first", "-o", "report.html"),
    ("graph", "first", "-o", "graph.dot"),
    ("replay", "first", "-n", "0", "--system", "cli_program:make_system", "--data", "cli_program:TRAIN"),
    ("resume", "first", "--program", "cli_program:train"),
]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cut", "restore a backup"),
        ("overwritten", "restore a backup"),
        ("empty", "is an empty file, not a journal"),
        ("a text", "expected an SQLite file that a run wrote"),
        ("newer", "schema version 999, this hyperfunc knows up to 3; upgrade hyperfunc"),
    ],
)
def test_what_is_no_journal_is_left_as_it_is(
    invoke: Invoke, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    path = tmp_path / "journal.db"
    shutil.copy(made, path)
    _spoil(path, kind)
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        result = invoke(*command, journal=path)
        assert isinstance(result.exception, JournalError), (command, result.output)
        assert words in str(result.exception), command
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["journal.db"]  # nothing half-written either


def test_a_journal_without_its_files_says_what_is_missing(invoke: Invoke, made: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    shutil.copy(made, path)
    assert invoke("runs", "list", journal=path).exit_code == 0
    for command in (("runs", "show", "first"), ("report", "first", "-o", str(tmp_path / "r.html"))):
        result = invoke(*command, journal=path)
        assert isinstance(result.exception, JournalError)
        assert f"is missing from {tmp_path / 'journal.files'}" in str(result.exception)
    assert not (tmp_path / "r.html").exists()


def test_what_only_reads_starts_without_torch(made: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from typer.testing import CliRunner
from hyperfunc.cli import build_app
for arguments in (
    ["--help"], ["runs", "--help"], ["report", "--help"], ["graph", "--help"], ["replay", "--help"],
    ["resume", "--help"], ["gate", "--help"], ["runs", "list"], ["runs", "show", "first"], ["graph", "first"],
):
    more = [] if "--help" in arguments else ["--journal", {str(made)!r}]
    result = CliRunner().invoke(build_app(), arguments + more)
    assert result.exit_code == 0, (arguments, result.output)
    assert "torch" not in sys.modules, arguments
import hyperfunc.evaluation, hyperfunc.journal
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_missing_journal_is_not_made(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("runs", "list", journal=tmp_path / "none.db")
    assert isinstance(result.exception, JournalError)
    assert not (tmp_path / "none.db").exists()
