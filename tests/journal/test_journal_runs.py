"""Runs, generations, candidates, scores and events: what is recorded is read back, and a run goes on where it was."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfunc.budget import Budget
from hyperfunc.calls import StoredCall
from hyperfunc.errors import JournalError, ResumeError
from hyperfunc.journal import (
    CandidateRecord,
    Journal,
    RunHandle,
    ScoreRecord,
    fingerprint_data,
    fingerprint_program,
)
from hyperfunc.parameters.theta import Theta
from hyperfunc.usage import Usage


def answer(x: float) -> float:
    return x + 1


def changed_answer(x: float) -> float:
    return x + 2


PROGRAM = fingerprint_program(answer)
DATA = fingerprint_data(train=[1, 2, 3])
THETA = Theta({"layer.weight": torch.arange(6.0).reshape(2, 3), "answer.prompt": "Say yes."})
USAGE = Usage(calls=2, input_tokens=7, usd=0.25)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "deep" / "journal.db") as opened:
        yield opened


async def begin(journal: Journal, name: str | None = "first", **config: Any) -> RunHandle:
    return await journal.start_run(name, config={"sigma": 0.1, **config}, program=PROGRAM, data=DATA, seed=3)


async def test_a_run_is_read_back_as_it_was_recorded(journal: Journal) -> None:
    run = await begin(journal)
    await journal.record_generation(run, 0, theta=THETA, fitness={"best": 0.0})
    budget = Budget(usd=1)
    budget.charge(USAGE)
    await journal.record_generation(
        run,
        1,
        theta=THETA.replace({"answer.prompt": "Say no."}),
        strategy_tensors={"momentum": torch.ones(3, dtype=torch.float64)},
        strategy_meta={"sigma": 0.05, "steps": [1, 2]},
        fitness={"best": 0.5, "mean": float("nan")},
        spend={"answer": USAGE},
        budget=budget.state(),
    )
    await journal.record_candidate(run, CandidateRecord("seed", verdict="seed"))
    child = CandidateRecord(
        "child",
        generation=1,
        parents=("seed", "other"),
        proposer="reflect",
        verdict="accepted",
        reason="better by 0.1",
        texts={"answer.prompt": "Say no."},
        usage=USAGE,
        detail={"evidence": [3]},
        created_at=5.0,
    )
    await journal.record_candidate(run, child)
    scores = [ScoreRecord("child", "0", 0.5, feedback="too long"), ScoreRecord("child", "1", None, split="validation")]
    await journal.record_scores(run, scores)
    await journal.record_event(run, "fallback", {"why": "data-dependent control flow"})
    await journal.finish_run(run, "budget: usd", theta=THETA, score=0.5)

    (record,) = journal.runs()
    assert (record.name, record.status, record.seed, record.generations) == ("first", "finished", 3, 1)
    assert (record.finish_reason, record.best_score) == ("budget: usd", 0.5)
    assert record.config == {"sigma": 0.1}
    assert record.environment["torch"] == torch.__version__
    initial, last = journal.generations("first")
    assert initial.number == 0
    assert initial.theta is not None
    assert journal.load_theta(initial.theta) == THETA
    assert last.spend == {"answer": USAGE}
    assert last.budget == budget.state()
    assert last.fitness["best"] == 0.5
    assert last.fitness["mean"] != last.fitness["mean"]
    assert journal.candidates("first")[1] == child
    assert journal.scores("first") == scores
    (event,) = journal.events("first")
    assert (event.kind, event.data) == ("fallback", {"why": "data-dependent control flow"})
    assert journal.best_theta("first") == THETA


async def test_a_run_goes_on_from_its_last_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal(path) as journal:
        run = await begin(journal)
        store = journal.call_store(run)
        await store.put(StoredCall("a", "llm", "early", USAGE))
        await journal.record_generation(
            run, 1, theta=THETA, strategy_tensors={"m": torch.ones(2)}, strategy_meta={"t": 1}, budget={"x": 1}
        )
        await journal.record_generation(run, 2, fitness={"best": 1.0})  # statistics only
        await store.put(StoredCall("b", "llm", "late", USAGE))
        await journal.call_store().put(StoredCall("c", "llm", "somebody else's", USAGE))
    with Journal(path) as journal:
        assert journal.run("first").status == "interrupted"
        point = await journal.resume_run("first", config={"sigma": 0.1}, program=PROGRAM, data=DATA)
        assert journal.run("first").status == "running"
        assert point.generation == 1
        assert point.theta == THETA
        assert torch.equal(point.strategy_tensors["m"], torch.ones(2))
        assert point.strategy_meta == {"t": 1}
        assert point.budget == {"x": 1}
        assert point.owed == {"b": USAGE}
        assert [record.number for record in point.history] == [1]
        await journal.record_generation(point.run, 2, theta=THETA)
        assert [g.number for g in journal.generations("first")] == [1, 2]


async def test_a_run_that_recorded_nothing_can_be_resumed(journal: Journal) -> None:
    run = await begin(journal)
    await journal.finish_run(run, "interrupted", status="failed")
    point = await journal.resume_run("first", config={"sigma": 0.1}, program=PROGRAM, data=DATA)
    assert (point.generation, point.theta, point.strategy_meta, point.finish_reason) == (0, None, None, "interrupted")


async def test_a_changed_run_is_not_resumed_and_the_change_is_named(journal: Journal) -> None:
    await journal.finish_run(await begin(journal, steps=5), "done")
    with pytest.raises(ResumeError) as refused:
        await journal.resume_run(
            "first",
            config={"sigma": 0.2, "steps": 9},
            program=fingerprint_program(changed_answer),
            data=fingerprint_data(train=[1, 5, 3, 4]),
            may_change=["steps"],
        )
    message = str(refused.value)
    assert "configuration 'sigma': was 0.1, is 0.2" in message
    assert "steps" not in message
    assert "part added: function changed_answer" in message
    assert "examples changed: train[1]" in message
    assert "examples added: train[3]" in message
    point = await journal.resume_run(
        "first", config={"sigma": 0.1, "steps": 9}, program=PROGRAM, data=DATA, may_change=["steps"]
    )
    assert journal.run("first").config == {"sigma": 0.1, "steps": 9}
    assert point.finish_reason == "done"


async def test_a_run_is_held_by_one_at_a_time(journal: Journal, tmp_path: Path) -> None:
    run = await begin(journal)
    again: dict[str, Any] = {"config": {"sigma": 0.1}, "program": PROGRAM, "data": DATA}
    with pytest.raises(ResumeError, match="already running here"):
        await journal.resume_run("first", **again)
    with Journal(journal.path) as other:
        assert other.run("first").status == "running"
        with pytest.raises(ResumeError, match="running in another process"):
            await other.resume_run("first", **again)
        with pytest.raises(JournalError, match="not held by this journal"):
            await other.record_event(run, "stranger")
        await journal.finish_run(run, "done")
        await other.resume_run("first", **again)
    with pytest.raises(JournalError, match="not held"):
        await journal.record_generation(run, 1)


async def test_names_are_unique_and_made_up_where_none_is_given(journal: Journal) -> None:
    await begin(journal)
    with pytest.raises(JournalError, match=r"already a run named 'first'.*resume=True"):
        await begin(journal)
    assert [(await begin(journal, None)).name for _ in range(2)] == ["run-2", "run-3"]
    with pytest.raises(JournalError, match="must not be empty"):
        await begin(journal, " ")
    with pytest.raises(JournalError, match=r"no run named 'secnd'.*run-3, run-2, first"):
        journal.run("secnd")


async def test_what_is_not_json_is_refused_and_nothing_is_recorded(journal: Journal) -> None:
    with pytest.raises(JournalError, match="config must be made of JSON"):
        await begin(journal, None, bad=object())
    assert journal.runs() == []
    run = await begin(journal)
    refused: list[dict[str, Any]] = [
        {"fitness": {"best": object()}},
        {"theta": THETA, "strategy_meta": {1, 2}},
        {"budget": {"x": object()}},
    ]
    for bad in refused:
        with pytest.raises(JournalError, match="JSON"):
            await journal.record_generation(run, 1, **bad)
    with pytest.raises(JournalError, match="at least 0"):
        await journal.record_generation(run, -1)
    assert journal.generations("first") == []


async def test_a_failed_write_keeps_nothing_and_the_others_of_its_batch_stand(journal: Journal) -> None:
    run = await begin(journal)
    results = await asyncio.gather(
        journal.record_event(run, "one"),
        journal._writer.run(lambda c: c.execute("INSERT INTO events (run_id) VALUES (1)")),
        journal.record_event(run, "two"),
        return_exceptions=True,
    )
    assert isinstance(results[1], JournalError)
    assert "NOT NULL" in str(results[1])
    assert [event.kind for event in journal.events("first")] == ["one", "two"]


async def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.runs()
    with pytest.raises(JournalError, match="closed"):
        await begin(journal)


def test_other_files_are_not_mistaken_for_journals(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal at"):
        Journal(tmp_path / "missing.db", create=False)
    (tmp_path / "notes.db").write_text("these are my notes, in no database" * 100)
    with pytest.raises(JournalError, match="not a database"):
        Journal(tmp_path / "notes.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(JournalError, match="another program"):
        Journal(tmp_path / "other.db")
    assert (tmp_path / "other.db").read_bytes() == before  # not even its journal mode
    with pytest.raises(JournalError, match="cannot"):
        Journal(tmp_path / "notes.db" / "below" / "journal.db")


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Journal(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(JournalError, match="schema version 999"):
        Journal(path)


async def test_a_damaged_snapshot_is_noticed(journal: Journal) -> None:
    run = await begin(journal)
    await journal.record_generation(run, 1, theta=THETA)
    key = journal.generations("first")[0].theta
    assert key is not None
    path = journal.snapshot_path(key)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalError, match="damaged"):
        journal.best_theta("first")
    path.unlink()
    with pytest.raises(JournalError, match="is missing from"):
        journal.best_theta("first")
