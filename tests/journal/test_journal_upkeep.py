"""Old files are migrated, runs are pruned, compared and exported."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfunc.calls import StoredCall
from hyperfunc.errors import JournalError, ResumeError
from hyperfunc.journal import CandidateRecord, Fingerprint, Journal, RunHandle, fingerprint_data, fingerprint_program
from hyperfunc.journal.comparing import compare_runs
from hyperfunc.journal.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION, migrate
from hyperfunc.parameters.files import load_theta
from hyperfunc.parameters.theta import Theta
from hyperfunc.tape import Tape
from hyperfunc.usage import Usage

NOTHING: dict[str, Any] = {"program": fingerprint_program(), "data": fingerprint_data()}


async def finished(journal: Journal, name: str, generations: int = 3, **config: Any) -> RunHandle:
    run = await journal.start_run(name, config=config, **NOTHING)
    await journal.call_store(run).put(StoredCall(f"{name}-call", "llm", {"reply": name}, Usage(calls=1)))
    for number in range(generations + 1):
        theta = Theta({"w": torch.full((50,), number + len(name) / 10), "prompt": f"{name} {number}"})
        spend = {"f": Usage(calls=1, usd=0.5)} if number else {}
        await journal.record_generation(run, number, theta=theta, fitness={"best": number}, spend=spend)
    await journal.finish_run(run, "done", theta=theta, score=float(generations))
    return run


def snapshot_files(journal: Journal) -> set[str]:
    return {path.stem for path in (journal.path.parent / "journal.files").rglob("*.safetensors")}


async def test_a_file_of_version_1_is_migrated_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    old = sqlite3.connect(path)
    old.executescript(MIGRATIONS[0])
    old.execute(
        "INSERT INTO runs VALUES (1, 'old', 'running', 5, 6, 3, '{}', ?, ?, ?, ?, NULL, '{}', NULL, NULL, NULL)",
        (NOTHING["program"].hash, NOTHING["program"].to_json(), NOTHING["data"].hash, NOTHING["data"].to_json()),
    )
    old.execute("INSERT INTO generations VALUES (1, 1, 6, NULL, NULL, '{\"best\": 0.5}', NULL, 0)")
    usage = json.dumps({"calls": 1, "usd": 0.25})
    old.execute("INSERT INTO paid_calls VALUES (1, 0, 'k', 1, 'llm', '\"kept\"', ?, 6)", (usage,))
    old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    with Journal(path) as journal:
        assert journal.read(lambda c: c.execute("PRAGMA user_version").fetchone()) == (SCHEMA_VERSION,)
        assert journal.run("old").seed == 3
        assert journal.generations("old")[0].fitness == {"best": 0.5}
        kept = await journal.call_store().get("k")
        assert kept is not None
        assert (kept.result, kept.usage) == ("kept", Usage(calls=1, usd=0.25))
        assert journal.paid_calls("old")[0].times_paid == 1
        point = await journal.resume_run("old", config={}, **NOTHING)
        assert point.owed == {"k": Usage(calls=1, usd=0.25)}
        await journal.record_trace(point.run, Tape(), example="0")  # a table that version 1 had not
        assert len(journal.traces("old")) == 1


@pytest.mark.parametrize("statements", [1, 2, 3])
def test_another_process_may_make_the_tables_at_any_moment(tmp_path: Path, statements: int) -> None:
    """A file looked at in two moments, before and after, would look like another program's."""
    path = tmp_path / "journal.db"

    class Overtaken(sqlite3.Connection):
        made = 0

        def execute(self, *arguments: Any) -> Any:
            cursor = super().execute(*arguments)
            self.made += 1
            if self.made == statements and not self.in_transaction:
                rows = cursor.fetchall()
                Journal(path).close()
                return super().execute("VALUES " + ",".join(str(row) for row in rows).replace(",)", ")"))
            return cursor

    connection = sqlite3.connect(path, factory=Overtaken, isolation_level=None)
    migrate(connection, path)
    connection.close()
    with Journal(path) as journal:
        assert journal.runs() == []


def test_a_failed_migration_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    Journal(path).close()
    monkeypatch.setattr(
        "hyperfunc.journal.schema.MIGRATIONS", (*MIGRATIONS, "CREATE TABLE new (x);\nCREATE TABLE runs (x);")
    )
    monkeypatch.setattr("hyperfunc.journal.schema.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with pytest.raises(JournalError, match="already exists"):
        Journal(path)
    monkeypatch.undo()
    with Journal(path) as journal:
        assert journal.read(lambda c: c.execute("SELECT 1 FROM sqlite_master WHERE name = 'new'").fetchone()) is None


async def test_pruning_deletes_what_was_asked_for_and_nothing_else(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        await finished(journal, "one")
        await finished(journal, "second")
        files = snapshot_files(journal)
        assert journal.prune().runs == journal.prune([]).runs == ()
        assert [run.name for run in journal.runs()] == ["one", "second"]
        assert snapshot_files(journal) == files
        with pytest.raises(JournalError, match="no run named 'third'"):
            journal.prune(["one", "third"])
        result = journal.prune(["one"])
        assert result.runs == ("one",)
        assert result.calls == 0
        assert result.bytes_freed > 0
        assert [run.name for run in journal.runs()] == ["second"]
        assert journal.best_theta("second")["prompt"] == "second 3"
        assert len(snapshot_files(journal)) < len(files)
        assert (await journal.call_store().get("one-call")) is not None  # it was paid for
        await finished(journal, "third")
        assert journal.prune(keep_latest=1, calls=True).runs == ("second",)
        assert (await journal.call_store().get("second-call")) is None
        assert journal.prune(older_than_days=1).runs == ()


async def test_runs_in_progress_are_not_pruned(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        await journal.start_run("live", config={}, **NOTHING)
        with pytest.raises(JournalError, match=r"in progress.*live"):
            journal.prune(["live"])
        assert journal.prune(keep_latest=0).runs == ()
        assert journal.runs()[0].status == "running"


async def test_thinning_keeps_first_last_and_best(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        run = await finished(journal, "run", generations=9)
        result = journal.prune(keep_snapshots=2)
        assert result.snapshots == 7
        kept = [g.number for g in journal.generations("run") if g.theta is not None]
        assert kept == [0, 8, 9]
        assert journal.best_theta("run")["prompt"] == "run 9"
        assert (await journal.resume_run("run", config={}, **NOTHING)).generation == 9
        await journal.thin(run, keep_last=0)  # the last one stays in any case
        assert [g.number for g in journal.generations("run") if g.theta is not None] == [0, 9]
        old = time.time() - 3600
        for path in (tmp_path / "journal.files" / "snapshots").rglob("*.safetensors"):
            os.utime(path, (old, old))  # a live run spares what is young
        await journal.thin(run)
        generations = journal.generations("run")
        referenced = {key for g in generations for key in (g.theta, g.state)} - {None}
        assert snapshot_files(journal) == referenced | {journal.run("run").best_theta}


async def test_two_runs_are_compared(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        await finished(journal, "a", sigma=0.1)
        await finished(journal, "bcd", generations=4, sigma=0.2, seed="x")
        comparison = compare_runs(journal, "a", "bcd")
    assert comparison.config == {"sigma": (0.1, 0.2), "seed": (None, "x")}
    assert comparison.program == ()
    assert comparison.data == ()
    assert comparison.tensor_shapes == {}
    assert json.loads(json.dumps(comparison.to_dict()))["config"]["sigma"] == [0.1, 0.2]
    assert comparison.fitness == {"best": (3, 4)}
    assert comparison.spend == (Usage(calls=3, usd=1.5), Usage(calls=4, usd=2.0))
    assert comparison.texts == {"prompt": ("a 3", "bcd 4")}
    assert comparison.tensor_distances == {"w": pytest.approx(1.2 * 50**0.5)}


async def test_a_comparison_names_parts_shapes_and_settings(tmp_path: Path) -> None:
    program, data = NOTHING["program"], NOTHING["data"]
    optimizer = {"object O": "x.O", "constant O.lr": "0.1"}
    with Journal(tmp_path / "journal.db") as journal:
        run = await journal.start_run("a", config={"optimizer": optimizer}, program=program, data=data)
        await journal.record_generation(run, 0, theta=Theta({"w": torch.zeros(2), "v": torch.zeros(1)}))
        changed = Fingerprint.from_texts({"function f": "return 1"})
        config = {"optimizer": optimizer | {"constant O.lr": "0.2"}}
        run = await journal.start_run("b", config=config, program=changed, data=data)
        await journal.record_generation(run, 0, theta=Theta({"w": torch.zeros(3)}))
        found = compare_runs(journal, "a", "b")
        with pytest.raises(ResumeError, match=r"configuration 'optimizer': constant O.lr changed: was 0.1, is 0.2"):
            await journal.resume_run("a", config=config, program=program, data=data)
    assert found.config == {"optimizer: constant O.lr": ("0.1", "0.2")}
    assert found.program == ("part added: function f",)
    assert found.tensor_shapes == {"w": ((2,), (3,)), "v": ((1,), None)}
    assert found.tensor_distances == {}


async def test_a_dry_run_of_a_prune_deletes_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        for name in ("a", "b"):
            await finished(journal, name)
        before = snapshot_files(journal)
        would = journal.prune(["a"], calls=True, keep_snapshots=1, dry_run=True)
        assert [run.name for run in journal.runs()] == ["a", "b"]
        assert snapshot_files(journal) == before
        assert len(journal.paid_calls("a")) == 1
        done = journal.prune(["a"], calls=True, keep_snapshots=1)
        assert (would.runs, would.snapshots, would.calls) == (done.runs, done.snapshots, done.calls) == (("a",), 2, 1)


async def test_an_export_is_plain_files(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        run = await finished(journal, "run", sigma=0.1)
        await journal.resume_run("run", config={"sigma": 0.1}, **NOTHING)
        await journal.record_candidate(run, CandidateRecord("c", texts={"prompt": "grüß"}))
        folder = journal.export("run", tmp_path / "out" / "run")
        with pytest.raises(JournalError, match="already exists"):
            journal.export("run", folder)
        with pytest.raises(JournalError, match="no run named"):
            journal.export("other", tmp_path / "out" / "other")
        bare = journal.export("run", tmp_path / "bare", results=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["run"]
    assert json.loads((folder / "run.json").read_text())["config"] == {"sigma": 0.1}
    lines = {path.stem: [json.loads(x) for x in path.read_text().splitlines()] for path in folder.glob("*.jsonl")}
    assert [g["fitness"]["best"] for g in lines["generations"]] == [0, 1, 2, 3]
    assert lines["generations"][1]["spend"]["f"]["usd"] == 0.5
    assert lines["candidates"][0]["texts"] == {"prompt": "grüß"}
    assert lines["paid_calls"][0]["result"] == {"reply": "run"}
    assert "result" not in json.loads((bare / "paid_calls.jsonl").read_text())
    assert load_theta(folder / "best")["prompt"] == "run 3"
    assert load_theta(folder / "initial")["prompt"] == "run 0"


async def test_a_replay_pays_for_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        await finished(journal, "run")
        offline = journal.call_store(offline=True)
        kept = await offline.get("run-call")
        assert kept is not None
        assert kept.result == {"reply": "run"}
        with pytest.raises(JournalError, match="not in the journal, and nothing may be paid"):
            await offline.get("another")
