"""Reading a journal: rows into records. Every function takes a connection and changes nothing."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from hyperfunc.errors import JournalError
from hyperfunc.journal.records import (
    CandidateRecord,
    EventRecord,
    GenerationRecord,
    PaidCallRecord,
    RunRecord,
    RunStatus,
    ScoreRecord,
    TracedCall,
    TraceRecord,
)
from hyperfunc.usage import Usage

__all__ = [
    "candidates",
    "events",
    "find_run",
    "fingerprint_texts",
    "generations",
    "latest_state_key",
    "paid_between",
    "paid_calls",
    "referenced_snapshots",
    "runs",
    "scores",
    "spend",
    "total_spend",
    "traces",
]

_RUN_COLUMNS = (
    "id, name, status, created_at, updated_at, seed, config, program_hash, data_hash, git_revision, environment, "
    "finish_reason, best_score, best_theta, "
    "(SELECT count(*) FROM generations WHERE run_id = runs.id AND number > 0)"
)


def _run(row: tuple[Any, ...]) -> RunRecord:
    status: RunStatus = row[2]
    return RunRecord(
        id=row[0],
        name=row[1],
        status=status,
        created_at=row[3],
        updated_at=row[4],
        seed=row[5],
        config=json.loads(row[6]),
        program_hash=row[7],
        data_hash=row[8],
        git_revision=row[9],
        environment=json.loads(row[10]),
        finish_reason=row[11],
        best_score=row[12],
        best_theta=row[13],
        generations=row[14],
    )


def runs(connection: sqlite3.Connection) -> list[RunRecord]:
    """All runs, oldest first."""
    return [_run(row) for row in connection.execute(f"SELECT {_RUN_COLUMNS} FROM runs ORDER BY id")]


def find_run(connection: sqlite3.Connection, name: str) -> RunRecord:
    """The run called ``name``.

    Raises:
        JournalError: there is none; names the ones there are.
    """
    row = connection.execute(f"SELECT {_RUN_COLUMNS} FROM runs WHERE name = ?", (name,)).fetchone()
    if row is None:
        known = [r[0] for r in connection.execute("SELECT name FROM runs ORDER BY id DESC LIMIT 12")]
        raise JournalError(f"no run named {name!r} in this journal; the latest are: {', '.join(known) or 'none'}")
    return _run(row)


def fingerprint_texts(connection: sqlite3.Connection, run_id: int) -> tuple[str, str]:
    """The JSON texts of a run's fingerprints: program, data."""
    program, data = connection.execute("SELECT program, data FROM runs WHERE id = ?", (run_id,)).fetchone()
    return program, data


def spend(connection: sqlite3.Connection, run_id: int) -> dict[int, dict[str, Usage]]:
    """Usage by generation and component."""
    by_generation: dict[int, dict[str, Usage]] = {}
    rows = connection.execute(
        "SELECT generation, component, usage FROM spend WHERE run_id = ? ORDER BY generation, component", (run_id,)
    )
    for generation, component, usage in rows:
        by_generation.setdefault(generation, {})[component] = Usage.from_dict(json.loads(usage))
    return by_generation


def total_spend(connection: sqlite3.Connection, run_id: int) -> dict[str, Usage]:
    """Usage by component: of all generations, and of calls paid for since the last was kept. The latter belong to a
    generation that has not ended, or that the end of the budget or of the process has cut short."""
    spent: dict[str, Usage] = {}
    for by_component in spend(connection, run_id).values():
        for component, usage in by_component.items():
            spent[component] = spent.get(component, Usage()) + usage
    rows = connection.execute(
        "SELECT component, kind, usage FROM paid_calls WHERE run_id = ? AND sequence > "
        "(SELECT coalesce(max(call_sequence), 0) FROM generations WHERE run_id = ?) ORDER BY sequence",
        (run_id, run_id),
    )
    for component, kind, usage in rows:
        name = component or kind
        spent[name] = spent.get(name, Usage()) + Usage.from_dict(json.loads(usage))
    return spent


def generations(connection: sqlite3.Connection, run_id: int) -> list[GenerationRecord]:
    """The generations of a run in order, the initial one (number 0) included."""
    spent = spend(connection, run_id)
    rows = connection.execute(
        "SELECT number, created_at, theta, state, fitness, budget, call_sequence FROM generations WHERE run_id = ? "
        "ORDER BY number",
        (run_id,),
    )
    return [
        GenerationRecord(
            number=row[0],
            created_at=row[1],
            theta=row[2],
            state=row[3],
            fitness=json.loads(row[4]),
            budget=None if row[5] is None else json.loads(row[5]),
            spend=spent.get(row[0], {}),
            call_sequence=row[6],
        )
        for row in rows
    ]


def candidates(connection: sqlite3.Connection, run_id: int) -> list[CandidateRecord]:
    """The candidates of a run in the order of their first record."""
    parents: dict[str, list[str]] = {}
    for child, parent in connection.execute(
        "SELECT child, parent FROM lineage WHERE run_id = ? ORDER BY child, position", (run_id,)
    ):
        parents.setdefault(child, []).append(parent)
    rows = connection.execute(
        "SELECT key, generation, proposer, verdict, reason, texts, theta, usage, detail, created_at "
        "FROM candidates WHERE run_id = ? ORDER BY id",
        (run_id,),
    )
    return [
        CandidateRecord(
            key=row[0],
            generation=row[1],
            parents=tuple(parents.get(row[0], ())),
            proposer=row[2],
            verdict=row[3],
            reason=row[4],
            texts=json.loads(row[5]),
            theta=row[6],
            usage=Usage.from_dict(json.loads(row[7])),
            detail=json.loads(row[8]),
            created_at=row[9],
        )
        for row in rows
    ]


def scores(connection: sqlite3.Connection, run_id: int, candidate: str | None = None) -> list[ScoreRecord]:
    """The scores of a run, or of one of its candidates."""
    rows = connection.execute(
        "SELECT candidate, example, score, split, repeat, feedback FROM scores "
        "WHERE run_id = ? AND (? IS NULL OR candidate = ?) ORDER BY candidate, split, example, repeat",
        (run_id, candidate, candidate),
    )
    return [ScoreRecord(*row) for row in rows]


def events(connection: sqlite3.Connection, run_id: int, kind: str | None = None) -> list[EventRecord]:
    """The events of a run in order, all or of one kind."""
    rows = connection.execute(
        "SELECT sequence, created_at, kind, data FROM events "
        "WHERE run_id = ? AND (? IS NULL OR kind = ?) ORDER BY sequence",
        (run_id, kind, kind),
    )
    return [EventRecord(row[0], row[1], row[2], json.loads(row[3])) for row in rows]


def paid_calls(connection: sqlite3.Connection, run_id: int) -> list[PaidCallRecord]:
    """The calls that a run paid for, in the order in which their replies were kept."""
    rows = connection.execute(
        "SELECT sequence, key, kind, usage, created_at, length(result), times_paid, component FROM paid_calls "
        "WHERE run_id = ? ORDER BY sequence",
        (run_id,),
    )
    return [
        PaidCallRecord(sequence, key, kind, Usage.from_dict(json.loads(usage)), *rest)
        for sequence, key, kind, usage, *rest in rows
    ]


def traces(connection: sqlite3.Connection, run_id: int) -> list[TraceRecord]:
    """The traces of a run in order."""
    rows = connection.execute(
        "SELECT sequence, generation, example, label, created_at, seconds, calls, edges FROM traces WHERE run_id = ? "
        "ORDER BY sequence",
        (run_id,),
    )
    return [
        TraceRecord(
            sequence=row[0],
            generation=row[1],
            example=row[2],
            label=row[3],
            created_at=row[4],
            seconds=row[5],
            calls=tuple(TracedCall.from_dict(call) for call in json.loads(row[6])),
            edges=tuple((source, target, kind) for source, target, kind in json.loads(row[7])),
        )
        for row in rows
    ]


def paid_between(connection: sqlite3.Connection, run_id: int, after: int, until: int | None) -> dict[str, Usage]:
    """What a run paid, by content key, for the calls with sequence numbers in ``(after, until]`` (to the last one)."""
    rows = connection.execute(
        "SELECT key, usage FROM paid_calls WHERE run_id = ? AND sequence > ? AND sequence <= coalesce(?, sequence) "
        "ORDER BY sequence",
        (run_id, after, until),
    )
    return {key: Usage.from_dict(json.loads(usage)) for key, usage in rows}


def latest_state_key(connection: sqlite3.Connection, program_hash: str, environment: str, but: int) -> str | None:
    """The snapshot of the state that was kept last by a run of this program and environment (as JSON), ``but`` not."""
    row = connection.execute(
        "SELECT g.state FROM generations g JOIN runs r ON r.id = g.run_id WHERE r.program_hash = ? "
        "AND r.environment = ? AND r.id != ? AND g.state IS NOT NULL ORDER BY g.created_at DESC LIMIT 1",
        (program_hash, environment, but),
    ).fetchone()
    return None if row is None else str(row[0])


def referenced_snapshots(connection: sqlite3.Connection) -> set[str]:
    """The keys of all snapshots that some row refers to."""
    rows = connection.execute(
        "SELECT theta FROM generations UNION SELECT state FROM generations UNION SELECT theta FROM candidates "
        "UNION SELECT best_theta FROM runs"
    )
    return {key for (key,) in rows if key is not None}
