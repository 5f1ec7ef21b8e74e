"""The durable :class:`~hyperfunc.calls.CallStore`: paid calls by content key in the journal's file.

Knows nothing of models or prices: results are JSON values, keys are made by whoever makes the call.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from hyperfunc.calls import StoredCall
from hyperfunc.errors import JournalError
from hyperfunc.journal.worker import DatabaseWorker
from hyperfunc.usage import Usage

__all__ = ["JournalCallStore"]


class JournalCallStore:
    """Results of paid calls, kept before the caller sees them.

    Args:
        writer, reader: the journal's threads.
        run_id: who pays; 0 for nobody in particular.
        scope: 0 shares results with all runs of the journal, a run's id keeps them to it.
        offline: answer from the journal or not at all.
    """

    def __init__(
        self, writer: DatabaseWorker, reader: DatabaseWorker, *, run_id: int = 0, scope: int = 0, offline: bool = False
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._run_id = run_id
        self._scope = scope
        self._offline = offline

    async def get(self, key: str) -> StoredCall | None:
        """The stored call, or ``None``.

        Raises:
            JournalError: this store is offline, and the call is not in the journal.
        """
        scope = self._scope

        def read(connection: sqlite3.Connection) -> tuple[str, str, str, float, str] | None:
            row: tuple[str, str, str, float, str] | None = connection.execute(
                "SELECT kind, result, usage, created_at, component FROM paid_calls WHERE scope = ? AND key = ?",
                (scope, key),
            ).fetchone()
            return row

        row = await self._reader.run(read)
        if row is None and self._offline:
            raise JournalError(
                f"the call {key[:12]}… is not in the journal, and nothing may be paid for here; the program, its "
                "parameters or its inputs differ from those of the run"
            )
        if row is None:
            return None
        kind, result, usage, created_at, component = row
        return StoredCall(key, kind, json.loads(result), Usage.from_dict(json.loads(usage)), created_at, component)

    async def put(self, call: StoredCall) -> None:
        """Keep ``call``; it is in the file when this returns. The first result for a key stays; what a second one cost
        is added to it, for it was paid.

        Raises:
            JournalError: the result is not made of JSON values, or the file cannot be written.
        """
        values = (
            self._scope,
            call.key,
            self._run_id or None,
            call.kind,
            _json(call),
            json.dumps(call.usage.to_dict()),
            call.created_at,
            call.component,
        )

        def write(connection: sqlite3.Connection) -> None:
            added = connection.execute(
                "INSERT INTO paid_calls (scope, key, run_id, kind, result, usage, created_at, component) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, key) DO NOTHING",
                values,
            ).rowcount
            if not added:
                self._add_usage(connection, call)

        await self._writer.run(write)

    def _add_usage(self, connection: sqlite3.Connection, call: StoredCall) -> None:
        where = (self._scope, call.key)
        (text,) = connection.execute("SELECT usage FROM paid_calls WHERE scope = ? AND key = ?", where).fetchone()
        usage = Usage.from_dict(json.loads(text)) + call.usage
        connection.execute(
            "UPDATE paid_calls SET usage = ?, times_paid = times_paid + 1 WHERE scope = ? AND key = ?",
            (json.dumps(usage.to_dict()), *where),
        )


def _json(call: StoredCall) -> str:
    try:
        text = json.dumps(call.result, separators=(",", ":"))  # ASCII: lone surrogates survive it
    except (TypeError, ValueError) as error:
        raise JournalError(
            f"the result of a {call.kind!r} call cannot be kept: expected JSON values, got "
            f"{type(call.result).__name__} ({error}); store a dict or a list of plain values"
        ) from error
    if not _survives(call.result):
        raise JournalError(
            f"the result of a {call.kind!r} call would come back changed: tuples become lists and keys become strings "
            "in JSON; store lists, and dicts with string keys"
        )
    return text


def _survives(value: Any) -> bool:
    if value is None or isinstance(value, (str, bool, int, float)):
        return True
    if isinstance(value, list):
        return all(_survives(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _survives(item) for key, item in value.items())
    return False
