"""The order of an entry's columns, shared by the SQL backends. Knows nothing of any database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hyperfunc_memory.entries import MemoryEntry, MemoryType

__all__ = ["ENTRY_COLUMNS", "entry_from_row"]

ENTRY_COLUMNS = (
    "e.id, e.content, e.memory_type, e.entities, e.importance, e.created_at, e.last_accessed, e.access_count,"
    " e.metadata, s.user_id, s.agent_id, s.run_id, e.subject, e.superseded_by, e.superseded_at"
)
"""To be selected from entries ``e`` joined with scopes ``s``."""


def entry_from_row(row: Sequence[Any]) -> MemoryEntry:
    """The entry in a row that begins with :data:`ENTRY_COLUMNS`."""
    return MemoryEntry(
        id=row[0],
        content=row[1],
        memory_type=MemoryType(row[2]),
        entities=json.loads(row[3]),
        importance=row[4],
        created_at=row[5],
        last_accessed=row[6],
        access_count=row[7],
        metadata=json.loads(row[8]),
        user_id=row[9],
        agent_id=row[10],
        run_id=row[11],
        subject=row[12],
        superseded_by=row[13],
        superseded_at=row[14],
    )
