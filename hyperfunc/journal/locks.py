"""Which process runs a run: one lock file per run, which the system lets go when the process dies.

That is how a killed run is told from a running one, without heartbeats or process numbers. Knows nothing of SQLite.
"""

from __future__ import annotations

import threading
from pathlib import Path

from filelock import FileLock, Timeout

from hyperfunc.errors import JournalError, ResumeError

__all__ = ["RunLocks"]


# Whoever asks whether a run is free holds its lock for that moment; that long a taken lock is tried again.
_MOMENT_S = 0.05
_GLANCE_S = 0.004  # to ask is no reason to wait that long for every run that is alive
_AGAIN_S = 0.002


class RunLocks:
    """The locks that one journal object holds. Safe from several threads.

    Args:
        folder: where the lock files are; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[int, FileLock] = {}
        self._guard = threading.Lock()

    def acquire(self, run_id: int, name: str) -> None:
        """Take the run.

        Raises:
            ResumeError: it is running, here or in another process.
        """
        with self._guard:
            if run_id in self._held:
                raise ResumeError(f"run {name!r} is already running here; wait for it, or give this one another name")
            lock = self._lock(run_id)
            try:
                lock.acquire(timeout=_MOMENT_S, poll_interval=_AGAIN_S)
            except Timeout as error:
                raise ResumeError(
                    f"run {name!r} is running in another process; wait for it, or give this one another name"
                ) from error
            self._held[run_id] = lock

    def release(self, run_id: int) -> None:
        """Let the run go; does nothing where it is not held."""
        with self._guard:
            lock = self._held.pop(run_id, None)
            if lock is not None:
                lock.release()

    def release_all(self) -> None:
        """Let all go."""
        for run_id in list(self._held):
            self.release(run_id)

    def holds(self, run_id: int) -> bool:
        """Whether this object holds the run."""
        return run_id in self._held

    def is_free(self, run_id: int) -> bool:
        """Whether nobody holds the run."""
        with self._guard:
            if run_id in self._held:
                return False
            lock = self._lock(run_id)
            try:
                lock.acquire(timeout=_GLANCE_S, poll_interval=_AGAIN_S)
            except Timeout:
                return False
            lock.release()
            return True

    def _lock(self, run_id: int) -> FileLock:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(f"cannot make {self._folder}: {error}") from error
        return FileLock(self._folder / f"run-{run_id}.lock", thread_local=False)
