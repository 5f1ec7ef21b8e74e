"""Reading what a journal holds: runs, generations, candidates, scores, spend, parameters.

Plain functions that block for the moment of reading; a run in progress is seen up to its last commit. Writes nothing.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from hyperfunc.errors import JournalError
from hyperfunc.journal import queries
from hyperfunc.journal.headers import describe_snapshot, snapshot_path
from hyperfunc.journal.locks import RunLocks
from hyperfunc.journal.records import (
    CandidateRecord,
    EventRecord,
    GenerationRecord,
    PaidCallRecord,
    RunRecord,
    ScoreRecord,
    TraceRecord,
)
from hyperfunc.journal.schema import check_exists, connect, migrate
from hyperfunc.journal.worker import DatabaseWorker
from hyperfunc.usage import Usage

if TYPE_CHECKING:
    from hyperfunc.journal.fingerprint import Fingerprint
    from hyperfunc.journal.snapshots import SnapshotStore
    from hyperfunc.parameters.theta import Theta

__all__ = ["JournalHistory"]

T = TypeVar("T")


class JournalHistory:
    """The reading half of a :class:`~hyperfunc.journal.Journal`, on a file that exists and is up to date."""

    def __init__(self, path: Path, *, sync_snapshots: bool = False) -> None:
        self.path = path
        files = path.with_name(f"{path.stem}.files")
        self._locks = RunLocks(files / "locks")
        self._snapshot_folder, self._sync_snapshots = files / "snapshots", sync_snapshots
        self._reader = DatabaseWorker(
            lambda: connect(path, query_only=True), writes=False, name="hyperfunc-journal-reader"
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """The history in the journal at ``path``, brought up to this hyperfunc's schema. Imports no torch.

        Raises:
            JournalError: there is no journal, it is something else, damaged, or newer than this hyperfunc.
        """
        path = Path(path)
        check_exists(path)
        connection = connect(path)
        try:
            migrate(connection, path)
        finally:
            connection.close()
        return cls(path)

    def close(self) -> None:
        """End the reading thread. A second call does nothing."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def runs(self) -> list[RunRecord]:
        """All runs, oldest first."""
        return [self._with_liveness(run) for run in self.read(queries.runs)]

    def run(self, name: str) -> RunRecord:
        """The run called ``name``; :class:`JournalError` names the ones there are."""
        return self._with_liveness(self.read(lambda connection: queries.find_run(connection, name)))

    def generations(self, name: str) -> list[GenerationRecord]:
        """Its generations in order, the initial one (0) included."""
        return self._of_run(name, queries.generations)

    def candidates(self, name: str) -> list[CandidateRecord]:
        """Its candidates in the order in which they were proposed."""
        return self._of_run(name, queries.candidates)

    def scores(self, name: str) -> list[ScoreRecord]:
        """Its scores, by candidate, split, example and repeat."""
        return self._of_run(name, queries.scores)

    def events(self, name: str) -> list[EventRecord]:
        """Its events in order."""
        return self._of_run(name, queries.events)

    def paid_calls(self, name: str) -> list[PaidCallRecord]:
        """The calls that it paid for, in the order in which their replies were kept."""
        return self._of_run(name, queries.paid_calls)

    def traces(self, name: str) -> list[TraceRecord]:
        """The executions that were recorded call by call."""
        return self._of_run(name, queries.traces)

    def fingerprints(self, name: str) -> tuple[Fingerprint, Fingerprint]:
        """What its program and its data consisted of when it began."""
        from hyperfunc.journal.fingerprint import Fingerprint  # needs torch

        program, data = self._of_run(name, queries.fingerprint_texts)
        return Fingerprint.from_json(program), Fingerprint.from_json(data)

    def spend(self, name: str) -> dict[str, Usage]:
        """What a run used, by component: in its generations, and since the last of them was kept."""
        return self._of_run(name, queries.total_spend)

    def total_spend(self, name: str) -> Usage:
        """The sum of :meth:`spend`."""
        return sum(self.spend(name).values(), Usage())

    def load_theta(self, key: str) -> Theta:
        """θ from the snapshot ``key`` (``GenerationRecord.theta``, ``RunRecord.best_theta``)."""
        from hyperfunc.parameters.theta import Theta  # needs torch, which much of a history is read without

        snapshot = self._snapshots.load(key)
        return Theta({**snapshot.tensors, **snapshot.values["texts"]})

    def best_theta(self, name: str) -> Theta:
        """The best θ of a run, or the last recorded one of a run that has not finished."""
        key = self._best_key(name)
        if key is None:
            raise JournalError(f"run {name!r} has recorded no parameters yet")
        return self.load_theta(key)

    def describe_best(self, name: str) -> dict[str, Any]:
        """What :meth:`best_theta` holds: shapes of tensors and texts, by name; empty if nothing is recorded yet."""
        key = self._best_key(name)
        return {} if key is None else describe_snapshot(self.snapshot_path(key))

    def latest_state(self, program_hash: str, environment: Mapping[str, Any], but: int) -> Any:
        """JSON values of the state that a run of this program kept last, on a machine and with versions like these;
        ``None`` if there is none.

        Args:
            but: id of a run that does not count.
        """
        alike = json.dumps(environment)
        key = self.read(lambda connection: queries.latest_state_key(connection, program_hash, alike, but))
        return None if key is None else self._snapshots.load(key).values

    def snapshot_path(self, key: str) -> Path:
        """The file of a snapshot."""
        return snapshot_path(self._snapshot_folder, key)

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a reading query on the journal's own connection; for what the methods above do not offer."""
        return self._reader.call(query)

    @cached_property
    def _snapshots(self) -> SnapshotStore:
        from hyperfunc.journal.snapshots import SnapshotStore  # needs torch

        return SnapshotStore(self._snapshot_folder, sync=self._sync_snapshots)

    def _best_key(self, name: str) -> str | None:
        run = self.run(name)
        if run.best_theta is not None:
            return run.best_theta
        return next((g.theta for g in reversed(self.generations(name)) if g.theta is not None), None)

    def _of_run(self, name: str, query: Callable[[sqlite3.Connection, int], T]) -> T:
        return self.read(lambda connection: query(connection, queries.find_run(connection, name).id))

    def _with_liveness(self, run: RunRecord) -> RunRecord:
        if run.status != "running" or not self._locks.is_free(run.id):
            return run
        return replace(run, status="interrupted")
