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
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hyperfunc.errors import JournalError, ResumeError
from hyperfunc.journal import queries
from hyperfunc.journal.calls import JournalCallStore
from hyperfunc.journal.environment import describe_environment, git_revision
from hyperfunc.journal.exporting import export_run
from hyperfunc.journal.fingerprint import Fingerprint
from hyperfunc.journal.pruning import PruneResult, delete_calls, delete_runs, select_runs, thin_snapshots
from hyperfunc.journal.recording import JournalRecording, to_json
from hyperfunc.journal.records import (
    ResumePoint,
    RunHandle,
    RunRecord,
)
from hyperfunc.journal.resuming import explain_changes
from hyperfunc.journal.schema import Durability, check_exists, connect, migrate
from hyperfunc.journal.worker import DatabaseWorker
from hyperfunc.parameters.theta import Theta
from hyperfunc.usage import Usage

__all__ = ["Journal"]


class Journal(JournalRecording):
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
        if not create:
            check_exists(path)
        elif not path.exists():
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

        writer = DatabaseWorker(open_writer, writes=True, name="hyperfunc-journal-writer")
        try:
            super().__init__(path, writer, sync_snapshots=durability == "power")
        except BaseException:
            writer.close()
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
        adopt: Iterable[str] = (),
    ) -> RunHandle:
        """Begin a run.

        Args:
            name: unique in this journal; ``None`` takes ``run-N``.
            config: JSON values; compared on resume.
            program, data: what is optimized, and on what; compared on resume.
            adopt: keys of calls that were asked for before it was known what the run is. Those that no run has paid for
                are this one's from now on.

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
            to_json("config", config),
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
            connection.executemany(
                "UPDATE paid_calls SET run_id = ? WHERE scope = 0 AND key = ? AND run_id IS NULL",
                [(identity, key) for key in adopt],
            )
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
            program_then, data_then = queries.fingerprint_texts(connection, run.id)
            changes = explain_changes(
                config_then={k: v for k, v in run.config.items() if k not in allowed},
                config_now={k: v for k, v in json.loads(to_json("config", config)).items() if k not in allowed},
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
            merged = {**run.config, **json.loads(to_json("config", config))}
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
        theta, tensors, meta = None, dict[str, Tensor](), None
        number, budget, after = 0, None, 0
        if complete:
            last = complete[-1]
            number, budget, after = last.number, last.budget, last.call_sequence
            theta = await asyncio.to_thread(self.load_theta, last.theta or "")
            if last.state is not None:
                state = await asyncio.to_thread(self._snapshots.load, last.state)
                tensors, meta = dict(state.tensors), state.values
        handle = RunHandle(run.id, run.name)
        return ResumePoint(
            run=handle,
            generation=number,
            theta=theta,
            strategy_tensors=tensors,
            strategy_meta=meta,
            budget=budget,
            owed=await self.paid_between(handle, after),
            history=tuple(record for record in history if record.number <= number),
            finish_reason=run.finish_reason,
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

    async def paid_between(self, run: RunHandle, after: int, until: int | None = None) -> dict[str, Usage]:
        """What the run paid, by content key, for calls with sequence numbers in ``(after, until]``, or to the last."""
        return await self._reader.run(lambda connection: queries.paid_between(connection, run.id, after, until))

    def call_store(
        self, run: RunHandle | None = None, *, share: bool = True, offline: bool = False
    ) -> JournalCallStore:
        """Where paid calls are kept.

        Args:
            run: who pays.
            share: answer from calls that any run of this journal paid for; ``False``: only from this run's own.
            offline: a call that is not in the journal is an error instead of a payment, for replays.
        """
        run_id = 0 if run is None else run.id
        scope = 0 if share else run_id
        return JournalCallStore(self._writer, self._reader, run_id=run_id, scope=scope, offline=offline)

    def export(self, name: str, folder: str | os.PathLike[str], *, results: bool = True) -> Path:
        """Write a run as plain files to a new folder; see :func:`hyperfunc.journal.exporting.export_run`."""
        return export_run(self, name, folder, results=results)

    # -- tidying up ---------------------------------------------------------------------------------------------

    def prune(
        self,
        names: Collection[str] | None = None,
        *,
        older_than_days: float | None = None,
        keep_latest: int | None = None,
        calls: bool = False,
        keep_snapshots: int | None = None,
        dry_run: bool = False,
    ) -> PruneResult:
        """Delete runs, and with ``keep_snapshots`` thin out those that stay. Without any condition no run goes.

        Args:
            names, older_than_days, keep_latest: a run goes if it fits all that are given; runs in progress stay.
            calls: forget the paid calls of the deleted runs as well.
            keep_snapshots: how many generations of each remaining run keep their snapshots.
            dry_run: find out what would go, and delete nothing.

        Raises:
            JournalError: a named run does not exist, or is running; nothing was deleted.
        """

        def delete(connection: sqlite3.Connection) -> tuple[tuple[str, ...], int, int]:
            chosen = select_runs(connection, names=names, older_than_days=older_than_days, keep_latest=keep_latest)
            busy = [name for run_id, name in chosen if not self._locks.is_free(run_id)]
            if busy and names is not None:
                raise JournalError(f"runs in progress cannot be pruned: {', '.join(busy)}; end them first")
            chosen = [(run_id, name) for run_id, name in chosen if name not in busy]
            ids = [run_id for run_id, _ in chosen]
            connection.execute("SAVEPOINT prune")
            forgotten = delete_calls(connection, ids) if calls else 0
            delete_runs(connection, ids)
            thinned = 0
            if keep_snapshots is not None:
                for run in queries.runs(connection):
                    thinned += thin_snapshots(connection, run.id, keep_last=keep_snapshots, keep_every=None)
            if dry_run:
                connection.execute("ROLLBACK TO prune")
            connection.execute("RELEASE prune")
            return tuple(name for _, name in chosen), thinned, forgotten

        before = self._file_bytes()
        gone, thinned, forgotten = self._writer.call(delete)
        if dry_run:
            return PruneResult(gone, thinned, forgotten, 0)
        freed = self._remove_snapshots()
        self._writer.vacuum()
        return PruneResult(gone, thinned, forgotten, freed + max(0, before - self._file_bytes()))

    def _file_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.parent.glob(f"{self.path.name}*") if file.is_file())

    # -- inside -------------------------------------------------------------------------------------------------
