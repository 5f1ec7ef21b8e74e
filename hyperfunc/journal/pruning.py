"""Making a journal smaller: whole runs, old snapshots, results of paid calls. What somebody may still need is asked for
by name; nothing goes by itself."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from dataclasses import dataclass

from hyperfunc.journal import queries

__all__ = ["PruneResult", "delete_calls", "delete_runs", "select_runs", "thin_snapshots"]


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What went.

    Attributes:
        runs: names of the deleted runs.
        snapshots: how many references to snapshots were dropped from runs that stay.
        calls: how many paid calls were forgotten.
        bytes_freed: of snapshot files and of the database file.
    """

    runs: tuple[str, ...]
    snapshots: int
    calls: int
    bytes_freed: int


def select_runs(
    connection: sqlite3.Connection,
    *,
    names: Collection[str] | None,
    older_than_days: float | None,
    keep_latest: int | None,
) -> list[tuple[int, str]]:
    """Ids and names of the runs that fit all the conditions given; none fit no condition at all."""
    if names is None and older_than_days is None and keep_latest is None:
        return []
    runs = queries.runs(connection)
    if names is not None:
        runs = [queries.find_run(connection, name) for name in dict.fromkeys(names)]
    if older_than_days is not None:
        limit = time.time() - older_than_days * 86400
        runs = [run for run in runs if run.updated_at < limit]
    if keep_latest is not None:
        latest = {run.id for run in sorted(queries.runs(connection), key=lambda r: (r.updated_at, r.id))[-keep_latest:]}
        runs = [run for run in runs if keep_latest == 0 or run.id not in latest]
    return [(run.id, run.name) for run in runs]


def delete_runs(connection: sqlite3.Connection, ids: Collection[int]) -> None:
    """Delete runs with all that belongs to them, but not the calls that they paid for."""
    connection.executemany("DELETE FROM runs WHERE id = ?", [(run_id,) for run_id in ids])


def thin_snapshots(connection: sqlite3.Connection, run_id: int, *, keep_last: int, keep_every: int | None) -> int:
    """Drop a run's references to snapshots of generations, but for the initial one, the last ``keep_last`` and each
    ``keep_every``-th; returns how many generations lost theirs. At least the last one stays, so that it can resume."""
    rows = connection.execute(
        "SELECT number FROM generations WHERE run_id = ? AND theta IS NOT NULL ORDER BY number", (run_id,)
    ).fetchall()
    numbers = [number for (number,) in rows]
    kept = {*numbers[-max(1, keep_last) :], *numbers[:1]}
    if keep_every is not None:
        kept |= {number for number in numbers if number % keep_every == 0}
    dropped = [(run_id, number) for number in numbers if number not in kept]
    connection.executemany("UPDATE generations SET theta = NULL, state = NULL WHERE run_id = ? AND number = ?", dropped)
    return len(dropped)


def delete_calls(connection: sqlite3.Connection, run_ids: Collection[int]) -> int:
    """Forget the paid calls of these runs; returns how many. They will be paid for again where they are needed."""
    return sum(connection.execute("DELETE FROM paid_calls WHERE run_id = ?", (run_id,)).rowcount for run_id in run_ids)
