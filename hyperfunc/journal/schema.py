"""The tables of a journal file and how older files are brought up to date. Knows nothing of runs or threads.

``PRAGMA user_version`` holds the schema version, ``PRAGMA application_id`` tells a journal from other SQLite files.
A migration is never edited once released: a new version appends one.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Literal

from hyperfunc.errors import JournalError

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "SCHEMA_VERSION",
    "Durability",
    "check_exists",
    "connect",
    "migrate",
    "remedy",
]

APPLICATION_ID = 0x68796A6C  # "hyjl"

Durability = Literal["process", "power"]

_BUSY_SECONDS = 60.0

_VERSION_1 = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,                -- running, finished, failed
    created_at REAL NOT NULL,            -- seconds since the epoch, like every *_at
    updated_at REAL NOT NULL,
    seed INTEGER NOT NULL,
    config TEXT NOT NULL,                -- JSON object
    program_hash TEXT NOT NULL,
    program TEXT NOT NULL,               -- JSON: part name -> [hash, normalised source]
    data_hash TEXT NOT NULL,
    data TEXT NOT NULL,
    git_revision TEXT,
    environment TEXT NOT NULL,           -- JSON: versions and platform
    finish_reason TEXT,
    best_score REAL,
    best_theta TEXT                      -- snapshot hash
);
CREATE TABLE generations (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    created_at REAL NOT NULL,
    theta TEXT,                          -- snapshot hash, NULL where none was kept
    state TEXT,                          -- snapshot hash of the strategy's state
    fitness TEXT NOT NULL,               -- JSON: statistic -> number
    budget TEXT,                         -- JSON: Budget.state()
    call_sequence INTEGER NOT NULL,      -- paid calls up to this one were made before the record
    PRIMARY KEY (run_id, number)
) WITHOUT ROWID;
CREATE TABLE candidates (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    generation INTEGER NOT NULL,
    created_at REAL NOT NULL,
    proposer TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    texts TEXT NOT NULL,                 -- JSON: parameter -> text
    theta TEXT,                          -- snapshot hash
    usage TEXT NOT NULL,                 -- JSON Usage
    detail TEXT NOT NULL,                -- JSON object
    UNIQUE (run_id, key)
);
CREATE TABLE lineage (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    child TEXT NOT NULL,
    parent TEXT NOT NULL,
    position INTEGER NOT NULL,           -- order among the parents
    PRIMARY KEY (run_id, child, parent)
) WITHOUT ROWID;
CREATE TABLE scores (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    candidate TEXT NOT NULL,
    split TEXT NOT NULL,
    example TEXT NOT NULL,
    repeat INTEGER NOT NULL,
    score REAL,                          -- NULL where the evaluation failed
    feedback TEXT NOT NULL,
    PRIMARY KEY (run_id, candidate, split, example, repeat)
) WITHOUT ROWID;
CREATE TABLE spend (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    component TEXT NOT NULL,
    usage TEXT NOT NULL,                 -- JSON Usage, of this generation alone
    PRIMARY KEY (run_id, generation, component)
) WITHOUT ROWID;
CREATE TABLE paid_calls (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    scope INTEGER NOT NULL,              -- 0: shared by all runs; else the id of the only run that may read it
    key TEXT NOT NULL,
    run_id INTEGER,                      -- who paid; kept when that run is pruned, so that nobody pays again
    kind TEXT NOT NULL,
    result TEXT NOT NULL,                -- JSON
    usage TEXT NOT NULL,                 -- JSON Usage
    created_at REAL NOT NULL,
    UNIQUE (scope, key)
);
CREATE INDEX paid_calls_by_run ON paid_calls (run_id, sequence);
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    created_at REAL NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL                   -- JSON object
);
CREATE INDEX events_by_run ON events (run_id, sequence);
"""

_VERSION_2 = """
CREATE TABLE traces (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    example TEXT NOT NULL,
    label TEXT NOT NULL,                 -- which program ran: "best", a candidate's key, …
    created_at REAL NOT NULL,
    seconds REAL NOT NULL,
    calls TEXT NOT NULL,                 -- JSON, see hyperfunc.journal.traces
    edges TEXT NOT NULL                  -- JSON
);
CREATE INDEX traces_by_run ON traces (run_id, sequence);
ALTER TABLE paid_calls ADD COLUMN times_paid INTEGER NOT NULL DEFAULT 1;
"""

_VERSION_3 = "ALTER TABLE paid_calls ADD COLUMN component TEXT NOT NULL DEFAULT '';"

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2, _VERSION_3)
"""``MIGRATIONS[n]`` brings a file of version ``n`` to ``n + 1``; version 0 is an empty file."""

SCHEMA_VERSION = len(MIGRATIONS)


def _statements(script: str) -> list[str]:
    # executescript() would commit the transaction that it is called in.
    parts: list[str] = []
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            parts.append(pending)
            pending = ""
    if pending.strip():
        raise AssertionError(f"a migration ends in an incomplete statement: {pending!r}")
    return parts


def connect(path: Path, *, durability: Durability = "process", query_only: bool = False) -> sqlite3.Connection:
    """A connection in WAL mode with transactions begun by hand; usable from any one thread at a time.

    Args:
        durability: ``"process"``: a commit survives the death of the process; ``"power"``: and of the machine, at the
            price of one fsync per commit.
        query_only: refuse to write.

    Raises:
        JournalError: the file cannot be opened, or is no SQLite file.
    """
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise JournalError(f"cannot open the journal {path}: {error}; check the folder and its permissions") from error
    try:
        _version(connection, path)  # before anything is written to what may be another program's file
        _enter_wal(connection)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")
        if query_only:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, error) from error
    except JournalError:
        connection.close()
        raise
    return connection


def _enter_wal(connection: sqlite3.Connection) -> None:
    # The switch to WAL does not wait for other processes that open the file at the same moment.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
            continue
        if mode != "wal":
            raise sqlite3.OperationalError(f"this file system does not support WAL (journal mode is {mode!r})")
        return


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to :data:`SCHEMA_VERSION` in one transaction; several processes may try at once.

    Raises:
        JournalError: the file is not a journal, or was made by a newer hyperfunc.
    """
    try:
        if _version(connection, path) == SCHEMA_VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for script in MIGRATIONS[_version(connection, path) :]:
                for statement in _statements(script):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        raise _unusable(path, error) from error


def check_exists(path: Path) -> None:
    """Refuse a path at which there is no journal to be read.

    Raises:
        JournalError: there is no file, or an empty one.
    """
    try:
        empty = path.stat().st_size == 0
    except FileNotFoundError as error:
        raise JournalError(
            f"there is no journal at {path}; give the path of one (--journal), or start a run there"
        ) from error
    except OSError as error:
        raise JournalError(f"cannot open the journal {path}: {error}") from error
    if empty:
        raise JournalError(f"{path} is an empty file, not a journal; give the path of one, or start a run there")


def remedy(error: sqlite3.Error) -> str:
    """What to do about ``error``, for the end of a message."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what extends it
    if code == sqlite3.SQLITE_NOTADB:
        return "expected an SQLite file that a run wrote; give the path of one"
    if code == sqlite3.SQLITE_CORRUPT:
        return "the file is damaged: restore a backup, or save what can be read with sqlite3's .recover"
    return "check the file, its folder and their permissions"


def _unusable(path: Path, error: sqlite3.Error) -> JournalError:
    return JournalError(f"cannot use {path} as a journal: {error}; {remedy(error)}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    # One statement, hence one moment: another process may be making the tables just now.
    version, application, tables = connection.execute(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master) "
        "FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if application != APPLICATION_ID and (tables or version):
        raise JournalError(f"{path} is an SQLite file of another program, not a hyperfunc journal; choose another path")
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"{path} has schema version {version}, this hyperfunc knows up to {SCHEMA_VERSION}; upgrade hyperfunc"
        )
    return int(version)
