"""One thread that owns one SQLite connection and runs jobs on it in order, many to a transaction.

Jobs that wait while a commit is under way are committed together by the next one, so a thousand concurrent calls cost
a handful of commits. A job's caller hears of it only after the commit. Knows nothing of what the jobs do.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from hyperfunc.errors import HyperfuncError, JournalError
from hyperfunc.journal.schema import remedy

__all__ = ["DatabaseWorker"]

T = TypeVar("T")

_MAX_BATCH = 1024


class _Job(Generic[T]):
    __slots__ = ("alone", "deliver_to", "error", "run", "value")

    def __init__(
        self,
        run: Callable[[sqlite3.Connection], T],
        deliver_to: Future[T] | tuple[asyncio.AbstractEventLoop, asyncio.Future[T]],
        *,
        alone: bool = False,
    ) -> None:
        self.alone = alone  # outside of any transaction
        self.run = run
        self.deliver_to = deliver_to
        self.value: T | None = None
        self.error: BaseException | None = None


def _vacuum(connection: sqlite3.Connection) -> None:
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _resolve(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        assert isinstance(job.deliver_to, tuple)
        future = job.deliver_to[1]
        if future.done():  # its task was cancelled meanwhile
            continue
        if job.error is not None:
            future.set_exception(job.error)
        else:
            future.set_result(job.value)


class DatabaseWorker:
    """Runs jobs on one connection in one thread.

    Args:
        connect: makes the connection; called in the worker's thread, its error reaches the constructor's caller.
        writes: wrap each batch in a transaction; without it the jobs only read.
        name: the thread's name.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, writes: bool, name: str) -> None:
        self._queue: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._writes = writes
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self.commits = 0
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(connect, opened), name=name, daemon=True)
        self._thread.start()
        try:
            opened.result()
        except BaseException:
            self._thread.join()
            raise

    def call(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``job`` and wait for its commit; blocks the calling thread."""
        future: Future[T] = Future()
        self._submit(_Job(job, future))
        return future.result()

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``job`` and wait for its commit without blocking the event loop. Once queued it runs, even if the
        waiter is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._submit(_Job(job, (loop, future)))
        return await future

    def vacuum(self) -> None:
        """Give free pages back to the file system. Waits for what is queued; cannot run inside a transaction."""
        future: Future[None] = Future()
        self._submit(_Job(_vacuum, future, alone=True))
        future.result()

    def close(self) -> None:
        """Finish what is queued, close the connection and end the thread. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        if self._process == os.getpid():
            self._thread.join()

    def _submit(self, job: _Job[Any]) -> None:
        with self._lock:  # nothing may be queued behind the end mark
            if self._closed:
                raise JournalError("this journal is closed; open it again with Journal(path)")
            if self._process != os.getpid():
                raise JournalError("a journal cannot be used across fork(); open it again in the child process")
            self._queue.put(job)

    def _work(self, connect: Callable[[], sqlite3.Connection], opened: Future[None]) -> None:
        try:
            connection = connect()
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(None)
        del opened
        try:
            ended = False
            while not ended:
                first = self._queue.get()
                if first is None:
                    return
                batch = [first]
                while len(batch) < _MAX_BATCH:
                    try:
                        job = self._queue.get_nowait()
                    except queue.Empty:
                        break
                    if job is None:
                        ended = True
                        break
                    batch.append(job)
                self._run_batch(connection, batch)
                self._deliver(batch)
                del first, batch  # an idle thread keeps nobody's results alive
        finally:
            connection.close()

    def _run_batch(self, connection: sqlite3.Connection, batch: list[_Job[Any]]) -> None:
        if not self._writes:
            for job in batch:
                self._run_job(connection, job)
            return
        alone = [job for job in batch if job.alone]
        for job in alone:
            self._run_job(connection, job)
        batch = [job for job in batch if not job.alone]
        if not batch:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in batch:
                connection.execute("SAVEPOINT job")
                self._run_job(connection, job)
                if job.error is not None:
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
            self.commits += 1
        except BaseException as error:
            # Nothing of the batch is in the file, so nobody may believe it is. And whatever it was, this thread lives
            # on: who waits for a job of a dead thread waits for ever.
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            for job in batch:
                if job.error is None:
                    job.error = JournalError(f"the journal could not be written: {error}; nothing of this was kept")
                    job.error.__cause__ = error

    @staticmethod
    def _run_job(connection: sqlite3.Connection, job: _Job[Any]) -> None:
        try:
            job.value = job.run(connection)
        except HyperfuncError as error:
            job.error = error
        except sqlite3.Error as error:
            job.error = JournalError(f"the journal refused this: {error}; {remedy(error)}")
            job.error.__cause__ = error
        except BaseException as error:  # delivered to the caller, whose error it is
            job.error = error

    @staticmethod
    def _deliver(batch: list[_Job[Any]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Job[Any]]] = {}
        for job in batch:
            if isinstance(job.deliver_to, tuple):
                by_loop.setdefault(job.deliver_to[0], []).append(job)
            elif job.error is not None:
                job.deliver_to.set_exception(job.error)
            else:
                job.deliver_to.set_result(job.value)
        for loop, jobs in by_loop.items():
            try:
                # One wake-up per loop and batch: waking the loop costs more than the insert.
                loop.call_soon_threadsafe(_resolve, jobs)
            except RuntimeError:  # the loop was closed: nobody waits any more
                continue
