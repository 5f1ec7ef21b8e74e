"""Reading what a journal holds: runs, generations, candidates, scores, spend, parameters.

Plain functions that block for the moment of reading; a run in progress is seen up to its last commit. Writes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from hyperfunc.errors import JournalError
from hyperfunc.journal import queries
from hyperfunc.journal.locks import RunLocks
from hyperfunc.journal.records import (
    CandidateRecord,
    EventRecord,
    GenerationRecord,
    PaidCallRecord,
    RunRecord,
    ScoreRecord,
)
from hyperfunc.journal.schema import connect
from hyperfunc.journal.snapshots import SnapshotStore
from hyperfunc.journal.traces import TraceRecord
from hyperfunc.journal.worker import DatabaseWorker
from hyperfunc.parameters.theta import Theta

__all__ = ["JournalHistory"]

T = TypeVar("T")


class JournalHistory:
    """The reading half of a :class:`~hyperfunc.journal.Journal`, on a file that exists and is up to date."""

    def __init__(self, path: Path, *, sync_snapshots: bool = False) -> None:
        self.path = path
        files = path.with_name(f"{path.stem}.files")
        self._locks = RunLocks(files / "locks")
        self._snapshots = SnapshotStore(files / "snapshots", sync=sync_snapshots)
        self._reader = DatabaseWorker(
            lambda: connect(path, query_only=True), writes=False, name="hyperfunc-journal-reader"
        )

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

    def load_theta(self, key: str) -> Theta:
        """θ from the snapshot ``key`` (``GenerationRecord.theta``, ``RunRecord.best_theta``)."""
        snapshot = self._snapshots.load(key)
        return Theta({**snapshot.tensors, **snapshot.values["texts"]})

    def best_theta(self, name: str) -> Theta:
        """The best θ of a run, or the last recorded one of a run that has not finished."""
        run = self.run(name)
        key = run.best_theta
        if key is None:
            key = next((g.theta for g in reversed(self.generations(name)) if g.theta is not None), None)
        if key is None:
            raise JournalError(f"run {name!r} has recorded no parameters yet")
        return self.load_theta(key)

    def snapshot_path(self, key: str) -> Path:
        """The file of a snapshot."""
        return self._snapshots.path(key)

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a reading query on the journal's own connection; for what the methods above do not offer."""
        return self._reader.call(query)

    def _of_run(self, name: str, query: Callable[[sqlite3.Connection, int], T]) -> T:
        return self.read(lambda connection: query(connection, queries.find_run(connection, name).id))

    def _with_liveness(self, run: RunRecord) -> RunRecord:
        if run.status != "running" or not self._locks.is_free(run.id):
            return run
        return replace(run, status="interrupted")
