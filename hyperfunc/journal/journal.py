"""The journal: what runs did, kept so that a run killed at any moment can go on and pays for nothing twice.

One SQLite file in WAL mode, with a folder of snapshots beside it (``journal.db`` and ``journal.files/``). Any number
of processes may read while others write. What a run does while it runs is ``async`` and returns when it is in the
file; what people ask about finished work is plain and blocks for the moment of reading.

Knows nothing of systems, strategies or models: θ is a value, a strategy's state is tensors and JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hyperfunc.errors import JournalError, ResumeError
from hyperfunc.journal import queries
from hyperfunc.journal.calls import JournalCallStore
from hyperfunc.journal.environment import describe_environment, git_revision
from hyperfunc.journal.fingerprint import Fingerprint
from hyperfunc.journal.history import JournalHistory
from hyperfunc.journal.records import (
    CandidateRecord,
    ResumePoint,
    RunHandle,
    RunRecord,
    ScoreRecord,
)
from hyperfunc.journal.resuming import explain_changes
from hyperfunc.journal.schema import Durability, connect, migrate
from hyperfunc.journal.worker import DatabaseWorker
from hyperfunc.parameters.theta import Theta
from hyperfunc.usage import Usage

__all__ = ["Journal"]


class Journal(JournalHistory):
    """A journal file, opened.

    Args:
        path: the file; it and its folder are made when missing.
        durability: ``"process"``: what is kept survives kill -9; ``"power"``: also a power cut, at
            one fsync per commit.
        create: ``False`` to insist on an existing file.

    Raises:
        JournalError: the file is missing, is something else, is newer than this hyperfunc, or cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = ".hyperfunc/journal.db",
        *,
        durability: Durability = "process",
        create: bool = True,
    ) -> None:
        path = Path(path)
        if not path.exists():
            if not create:
                raise JournalError(f"there is no journal at {path}; give the path of one, or start a run there")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise JournalError(f"cannot make the folder of the journal {path}: {error}") from error

        def open_writer() -> sqlite3.Connection:
            connection = connect(path, durability=durability)
            try:
                migrate(connection, path)
            except BaseException:
                connection.close()
                raise
            return connection

        self._writer = DatabaseWorker(open_writer, writes=True, name="hyperfunc-journal-writer")
        try:
            super().__init__(path, sync_snapshots=durability == "power")
        except BaseException:
            self._writer.close()
            raise

    def close(self) -> None:
        """End the threads and give up the runs that this journal holds. A second call does nothing."""
        self._writer.close()
        self._locks.release_all()
        super().close()

    # -- while a run runs ---------------------------------------------------------------------------------------

    async def start_run(
        self,
        name: str | None = None,
        *,
        config: Mapping[str, Any],
        program: Fingerprint,
        data: Fingerprint,
        seed: int = 0,
    ) -> RunHandle:
        """Begin a run.

        Args:
            name: unique in this journal; ``None`` takes ``run-N``.
            config: JSON values; compared on resume.
            program, data: what is optimized, and on what; compared on resume.

        Raises:
            JournalError: the name is taken, or ``config`` is not JSON.
        """
        if name is not None and not name.strip():
            raise JournalError("a run's name must not be empty")
        revision = await asyncio.to_thread(git_revision)
        now = time.time()
        values = (
            now,
            now,
            seed,
            _to_json("config", config),
            program.hash,
            program.to_json(),
            data.hash,
            data.to_json(),
            revision,
            json.dumps(describe_environment()),
        )

        taken_ids: list[int] = []

        def write(connection: sqlite3.Connection) -> RunHandle:
            chosen = name
            if chosen is None:
                (highest,) = connection.execute("SELECT coalesce(max(id), 0) FROM runs").fetchone()
                taken = {row[0] for row in connection.execute("SELECT name FROM runs")}
                chosen = next(
                    f"run-{n}" for n in range(highest + 1, highest + len(taken) + 2) if f"run-{n}" not in taken
                )
            try:
                identity = connection.execute(
                    "INSERT INTO runs (name, status, created_at, updated_at, seed, config, program_hash, program, "
                    "data_hash, data, git_revision, environment) VALUES (?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (chosen, *values),
                ).lastrowid
            except sqlite3.IntegrityError as error:
                raise JournalError(
                    f"there is already a run named {chosen!r} in {self.path}; continue it with resume=True, or choose "
                    "another name"
                ) from error
            assert identity is not None
            taken_ids.append(identity)
            self._locks.acquire(identity, chosen)  # inside the transaction: no reader sees the run without its lock
            return RunHandle(identity, chosen)

        try:
            return await self._writer.run(write)
        except JournalError:
            for identity in taken_ids:
                self._locks.release(identity)
            raise

    async def resume_run(
        self,
        name: str,
        *,
        config: Mapping[str, Any],
        program: Fingerprint,
        data: Fingerprint,
        may_change: Iterable[str] = (),
    ) -> ResumePoint:
        """Take a run up where its last snapshot was recorded.

        Args:
            config, program, data: what the run is to go on with.
            may_change: keys of ``config`` that may differ (more generations, a larger budget).

        Raises:
            ResumeError: program, data or configuration changed, or another process holds the run; says which.
            JournalError: there is no such run, or a snapshot is damaged.
        """
        allowed = frozenset(may_change)

        def take(connection: sqlite3.Connection) -> RunRecord:
            run = queries.find_run(connection, name)
            program_then, data_then = connection.execute(
                "SELECT program, data FROM runs WHERE id = ?", (run.id,)
            ).fetchone()
            changes = explain_changes(
                config_then={k: v for k, v in run.config.items() if k not in allowed},
                config_now={k: v for k, v in json.loads(_to_json("config", config)).items() if k not in allowed},
                program_then=Fingerprint.from_json(program_then),
                program_now=program,
                data_then=Fingerprint.from_json(data_then),
                data_now=data,
            )
            if changes:
                raise ResumeError(
                    f"run {name!r} cannot be resumed, since this changed after it began:\n"
                    + "\n".join(f"  - {line}" for line in changes)
                    + "\nundo the change, or start another run"
                )
            self._locks.acquire(run.id, name)
            merged = {**run.config, **json.loads(_to_json("config", config))}
            connection.execute(
                "UPDATE runs SET status = 'running', updated_at = ?, config = ? WHERE id = ?",
                (time.time(), json.dumps(merged), run.id),
            )
            return run

        run = await self._writer.run(take)
        try:
            return await self._resume_point(run)
        except BaseException:
            self._locks.release(run.id)
            raise

    async def _resume_point(self, run: RunRecord) -> ResumePoint:
        history = await self._reader.run(lambda connection: queries.generations(connection, run.id))
        complete = [record for record in history if record.theta is not None]
        theta, tensors, meta, after = None, dict[str, Tensor](), None, 0
        number, budget = 0, None
        if complete:
            last = complete[-1]
            number, budget = last.number, last.budget
            theta = await asyncio.to_thread(self.load_theta, last.theta or "")
            if last.state is not None:
                state = await asyncio.to_thread(self._snapshots.load, last.state)
                tensors, meta = dict(state.tensors), state.values
            after = await self._reader.run(
                lambda c: c.execute(
                    "SELECT call_sequence FROM generations WHERE run_id = ? AND number = ?", (run.id, number)
                ).fetchone()[0]
            )
        paid = await self._reader.run(lambda connection: queries.paid_usage(connection, run.id, after))
        return ResumePoint(
            run=RunHandle(run.id, run.name),
            generation=number,
            theta=theta,
            strategy_tensors=tensors,
            strategy_meta=meta,
            budget=budget,
            paid_since=paid,
            history=tuple(record for record in history if record.number <= number),
            finish_reason=run.finish_reason,
        )

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
        fitness_json = _to_json("fitness", fitness or {})
        budget_json = None if budget is None else _to_json("budget", budget)
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
            candidate.reason,
            _to_json("texts", candidate.texts),
            candidate.theta,
            json.dumps(candidate.usage.to_dict()),
            _to_json("detail", candidate.detail),
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
        rows = [(run.id, s.candidate, s.split, s.example, s.repeat, s.score, s.feedback) for s in scores]
        await self._writer.run(
            lambda connection: connection.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)", rows
            )
        )

    async def record_event(self, run: RunHandle, kind: str, data: Mapping[str, Any] | None = None) -> None:
        """Keep something that happened: a fallback, a failure, a decision. ``data`` is JSON."""
        self._check_held(run)
        values = (run.id, time.time(), kind, _to_json("data", data or {}))
        await self._writer.run(
            lambda connection: connection.execute(
                "INSERT INTO events (run_id, created_at, kind, data) VALUES (?, ?, ?, ?)", values
            )
        )

    async def finish_run(
        self,
        run: RunHandle,
        reason: str,
        *,
        theta: Theta | None = None,
        score: float | None = None,
        status: Literal["finished", "failed"] = "finished",
    ) -> None:
        """End a run with its best θ and give it up; a finished run can still be resumed."""
        self._check_held(run)
        key = None if theta is None else await self.keep_theta(theta)
        values = (status, time.time(), reason, score, key, run.id)
        await self._writer.run(
            lambda connection: connection.execute(
                "UPDATE runs SET status = ?, updated_at = ?, finish_reason = ?, best_score = coalesce(?, best_score), "
                "best_theta = coalesce(?, best_theta) WHERE id = ?",
                values,
            )
        )
        self._locks.release(run.id)

    def call_store(self, run: RunHandle | None = None, *, share: bool = True) -> JournalCallStore:
        """Where paid calls are kept.

        Args:
            run: who pays.
            share: answer from calls that any run of this journal paid for; ``False``: only from this run's own.
        """
        if run is None:
            return JournalCallStore(self._writer, self._reader)
        return JournalCallStore(self._writer, self._reader, run_id=run.id, scope=0 if share else run.id)

    # -- inside -------------------------------------------------------------------------------------------------

    def _check_held(self, run: RunHandle) -> None:
        if not self._locks.holds(run.id):
            raise JournalError(
                f"run {run.name!r} is not held by this journal: it was finished, or the handle is from another one; "
                "take it with start_run() or resume_run()"
            )


def _to_json(what: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise JournalError(f"{what} must be made of JSON values: {error}") from error
