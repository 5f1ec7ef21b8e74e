"""Recording what a run does while it runs. Every method returns when what it was given is in the file.

Only whoever holds a run may record under it. Knows nothing of how runs begin and end.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperfunc.errors import JournalError
from hyperfunc.journal import queries
from hyperfunc.journal.history import JournalHistory
from hyperfunc.journal.pruning import thin_snapshots
from hyperfunc.journal.records import CandidateRecord, RunHandle, ScoreRecord
from hyperfunc.journal.traces import trace_calls, trace_edges
from hyperfunc.journal.worker import DatabaseWorker
from hyperfunc.parameters.theta import Theta
from hyperfunc.tape import Tape
from hyperfunc.usage import Usage

__all__ = ["JournalRecording", "to_json"]

_SNAPSHOT_GRACE_SECONDS = 600.0


class JournalRecording(JournalHistory):
    """The recording half of a :class:`~hyperfunc.journal.Journal`."""

    def __init__(self, path: Path, writer: DatabaseWorker, *, sync_snapshots: bool) -> None:
        super().__init__(path, sync_snapshots=sync_snapshots)
        self._writer = writer

    async def record_generation(
        self,
        run: RunHandle,
        generation: int,
        *,
        theta: Theta | None = None,
        strategy_tensors: Mapping[str, Tensor] | None = None,
        strategy_meta: Any = None,
        fitness: Mapping[str, float] | None = None,
        spend: Mapping[str, Usage] | None = None,
        budget: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the state after ``generation`` generations; 0 is the state before the first.

        Without ``theta`` only the statistics are kept: a resume then starts from an earlier record and repeats the
        generations since, which is cheap where it costs no paid calls and ends in the same bits.

        Args:
            strategy_tensors, strategy_meta: the strategy's state, kept together with ``theta``.
            fitness: statistics by name.
            spend: usage of this generation alone, by component.
            budget: ``Budget.state()``.

        Raises:
            JournalError: the run is not held by this journal, a value is not JSON, or the files cannot be written.
        """
        self._check_held(run)
        if generation < 0:
            raise JournalError(f"generation must be at least 0, got {generation}")
        fitness_json = to_json("fitness", fitness or {})
        budget_json = None if budget is None else to_json("budget", budget)
        spent = [(run.id, generation, name, json.dumps(u.to_dict())) for name, u in sorted((spend or {}).items())]
        theta_key = state_key = None
        if theta is not None:
            # Files first: a row that names a snapshot is never without it.
            theta_key = await self.keep_theta(theta)
            state_key = await asyncio.to_thread(self._snapshots.save, strategy_tensors or {}, strategy_meta)

        def write(connection: sqlite3.Connection) -> None:
            now = time.time()
            connection.execute(
                "INSERT OR REPLACE INTO generations "
                "(run_id, number, created_at, theta, state, fitness, budget, call_sequence) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(sequence), 0) FROM paid_calls))",
                (run.id, generation, now, theta_key, state_key, fitness_json, budget_json),
            )
            connection.execute("DELETE FROM spend WHERE run_id = ? AND generation = ?", (run.id, generation))
            connection.executemany(
                "INSERT INTO spend (run_id, generation, component, usage) VALUES (?, ?, ?, ?)", spent
            )
            connection.execute("UPDATE runs SET updated_at = ? WHERE id = ?", (now, run.id))

        await self._writer.run(write)

    async def keep_theta(self, theta: Theta) -> str:
        """Write θ to a snapshot and return its key, for :class:`CandidateRecord` and :meth:`finish_run`."""
        return await asyncio.to_thread(self._snapshots.save, theta.tensors, {"texts": theta.texts})

    async def record_candidate(self, run: RunHandle, candidate: CandidateRecord) -> None:
        """Keep a candidate and its parents; one with the same key is replaced."""
        self._check_held(run)
        values = (
            candidate.generation,
            candidate.created_at or time.time(),
            candidate.proposer,
            candidate.verdict,
            _readable(candidate.reason),
            to_json("texts", candidate.texts),
            candidate.theta,
            json.dumps(candidate.usage.to_dict()),
            to_json("detail", candidate.detail),
        )

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO candidates (run_id, key, generation, created_at, proposer, verdict, reason, texts, theta, "
                "usage, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id, key) DO UPDATE SET "
                "generation = excluded.generation, proposer = excluded.proposer, verdict = excluded.verdict, "
                "reason = excluded.reason, texts = excluded.texts, theta = excluded.theta, usage = excluded.usage, "
                "detail = excluded.detail",
                (run.id, candidate.key, *values),
            )
            connection.execute("DELETE FROM lineage WHERE run_id = ? AND child = ?", (run.id, candidate.key))
            connection.executemany(
                "INSERT OR IGNORE INTO lineage (run_id, child, parent, position) VALUES (?, ?, ?, ?)",
                [(run.id, candidate.key, parent, position) for position, parent in enumerate(candidate.parents)],
            )

        await self._writer.run(write)

    async def record_scores(self, run: RunHandle, scores: Iterable[ScoreRecord]) -> None:
        """Keep scores; one of the same candidate, split, example and repeat is replaced."""
        self._check_held(run)
        rows = [(run.id, s.candidate, s.split, s.example, s.repeat, s.score, _readable(s.feedback)) for s in scores]
        await self._writer.run(
            lambda connection: connection.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)", rows
            )
        )

    async def record_event(self, run: RunHandle, kind: str, data: Mapping[str, Any] | None = None) -> None:
        """Keep something that happened: a fallback, a failure, a decision. ``data`` is JSON."""
        self._check_held(run)
        values = (run.id, time.time(), kind, to_json("data", data or {}))
        await self._writer.run(
            lambda connection: connection.execute(
                "INSERT INTO events (run_id, created_at, kind, data) VALUES (?, ?, ?, ?)", values
            )
        )

    async def record_trace(
        self, run: RunHandle, tape: Tape, *, example: str, generation: int = 0, label: str = "", content: bool = True
    ) -> None:
        """Keep what one execution called; ``content=False`` leaves inputs and outputs out."""
        self._check_held(run)
        calls = trace_calls(tape, content=content)
        seconds = max((call.start + call.seconds for call in calls), default=0.0)
        edges = json.dumps(await asyncio.to_thread(trace_edges, tape))
        values = (
            run.id,
            generation,
            example,
            label,
            time.time(),
            seconds,
            json.dumps([c.to_dict() for c in calls]),
            edges,
        )
        await self._writer.run(
            lambda connection: connection.execute(
                "INSERT INTO traces (run_id, generation, example, label, created_at, seconds, calls, edges) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        )

    async def thin(self, run: RunHandle, *, keep_last: int = 2, keep_every: int | None = None) -> None:
        """Drop snapshots of earlier generations while a run runs.

        Args:
            keep_last: the latest ones stay; at least one always does, and so does the initial one.
            keep_every: so do those of generations divisible by this.
        """
        self._check_held(run)
        await self._writer.run(
            lambda connection: thin_snapshots(connection, run.id, keep_last=keep_last, keep_every=keep_every)
        )
        await asyncio.to_thread(self._remove_snapshots)

    def _remove_snapshots(self) -> int:
        # Inside a transaction, so that no row can come to refer to a file while it is being deleted. What a live run
        # has just written and not yet named is spared by its age.
        def remove(connection: sqlite3.Connection) -> int:
            live = any(run.status == "running" and not self._locks.is_free(run.id) for run in queries.runs(connection))
            return self._snapshots.remove_unreferenced(
                queries.referenced_snapshots(connection), grace_seconds=_SNAPSHOT_GRACE_SECONDS if live else 0.0
            )

        return self._writer.call(remove)

    def _check_held(self, run: RunHandle) -> None:
        if not self._locks.holds(run.id):
            raise JournalError(
                f"run {run.name!r} is not held by this journal: it was finished, or the handle is from another one; "
                "take it with start_run() or resume_run()"
            )


def _readable(text: str) -> str:
    # Half of a surrogate pair, as a truncated reply may end in, cannot be stored as text.
    return text.encode("utf-8", "replace").decode()


def to_json(what: str, value: Any) -> str:
    """JSON of ``value``; :class:`JournalError` says that ``what`` is not made of JSON values."""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise JournalError(f"{what} must be made of JSON values: {error}") from error
