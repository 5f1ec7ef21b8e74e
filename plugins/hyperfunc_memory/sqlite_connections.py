"""Connections to one SQLite database: one writer, some readers, WAL. Knows nothing of memories.

A file has readers of its own, so that reading never waits for writing. ``:memory:`` has one connection for everything,
since an in-memory database belongs to its connection. Connections are opened anew after ``fork``.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from hyperfunc_memory.errors import MemoryStoreError
from hyperfunc_memory.sqlite_vectors import Connection, load_into, offered_to_new_connections

__all__ = ["SQLiteConnections"]

_BUSY_SECONDS = 60.0
_MAX_IDLE_READERS = 8


class SQLiteConnections:
    """The connections to the database at ``path``.

    Args:
        path: a file, or ``":memory:"``.
        prepare: brings the schema up to date; called once, in a write transaction.

    Raises:
        MemoryStoreError: it cannot be opened, or is not an SQLite database.
    """

    def __init__(self, path: str, prepare: Callable[[sqlite3.Connection], None]) -> None:
        self._path = path
        self._in_memory = path == ":memory:"
        self._write_lock = threading.RLock()
        self._pool_lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False
        self._process = os.getpid()
        self._synchronous = ""
        if not self._in_memory and not Path(path).absolute().parent.is_dir():
            raise MemoryStoreError(f"cannot open the memory {path!r}: its folder does not exist; make it first")
        self._writer = self._connect()
        try:
            if self._in_memory:
                self._copy_in(_image(prepare))
            else:
                self._enable_wal()
                with self.writing() as connection:
                    prepare(connection)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed when the block ends, rolled back when it raises.

        Args:
            durable: the commit survives a power cut. If not, it survives the death of the process only.
        """
        self._notice_fork()
        with self._write_lock, self._translated():
            connection = self._usable_writer()
            self._set_synchronous("FULL" if durable else "NORMAL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read from; it sees everything committed before the block began."""
        self._notice_fork()
        if self._in_memory:
            with self._write_lock, self._translated():
                yield self._usable_writer()
            return
        with self._translated():
            connection = self._borrow()
            try:
                yield connection
            finally:
                self._give_back(connection)

    @property
    def compare_vectors(self) -> bool:
        """Whether these connections have sqlite-vec."""
        return self._writer.compares_vectors

    def close(self) -> None:
        """Close every connection. Calling it again does nothing."""
        with self._write_lock, self._pool_lock:
            if not self._closed:
                self._closed = True
                for connection in (*self._idle, self._writer):
                    connection.close()
                self._idle.clear()

    def _connect(self) -> Connection:
        with self._translated():
            with offered_to_new_connections():
                connection = sqlite3.connect(
                    self._path,
                    timeout=_BUSY_SECONDS,
                    isolation_level=None,
                    check_same_thread=False,
                    factory=Connection,
                    cached_statements=64,
                )
            load_into(connection)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA temp_store = MEMORY")
            return connection

    def _copy_in(self, image: bytes) -> None:
        # By way of a backup: a database that is deserialized itself cannot grow beyond 1 GiB.
        with self._translated(), closing(sqlite3.connect(":memory:")) as source:
            source.deserialize(image)
            source.backup(self._writer)

    def _set_synchronous(self, level: str) -> None:
        if level != self._synchronous and not self._in_memory:
            self._writer.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    def _enable_wal(self) -> None:
        # Changing the journal mode does not wait for other processes that do the same; so wait here.
        give_up = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._writer.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise MemoryStoreError(f"cannot open the memory {self._path!r}: {error}") from error
                if time.monotonic() > give_up:
                    raise MemoryStoreError(f"the memory {self._path!r} stayed locked by another process") from error
                time.sleep(0.01)
            except sqlite3.DatabaseError as error:
                raise MemoryStoreError(f"cannot open the memory {self._path!r}: {error}") from error

    def _usable_writer(self) -> sqlite3.Connection:
        if self._closed:
            raise MemoryStoreError("this memory is closed; make a new one")
        return self._writer

    def _borrow(self) -> Connection:
        with self._pool_lock:
            if self._closed:
                raise MemoryStoreError("this memory is closed; make a new one")
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: Connection) -> None:
        with self._pool_lock:
            if not self._closed and len(self._idle) < _MAX_IDLE_READERS:
                self._idle.append(connection)
                return
        connection.close()

    def _notice_fork(self) -> None:
        if self._process == os.getpid():
            return
        if self._in_memory:
            raise MemoryStoreError("an in-memory memory cannot be used after fork; give it a file")
        # SQLite forbids using, and even closing, a connection that was carried across fork; and a lock that another
        # thread held then would never be released. The child has one thread as yet.
        self._abandoned = (self._writer, *self._idle)
        self._write_lock, self._pool_lock = threading.RLock(), threading.Lock()
        self._idle = []
        self._process = os.getpid()
        self._writer = self._connect()
        self._synchronous = ""

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise MemoryStoreError(f"the memory {self._path!r} failed: {error}") from error


@cache
def _image(prepare: Callable[[sqlite3.Connection], None]) -> bytes:
    """An empty database that ``prepare`` has been through: copying it is seven times as fast as making every table."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        prepare(connection)
        return connection.serialize()
