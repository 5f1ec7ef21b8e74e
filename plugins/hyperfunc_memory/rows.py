"""What the SQL backends share: an entry as a row, merging two of them, and the conditions of reads.

A :class:`Dialect` says how a database spells what they spell differently. Knows nothing of any database itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hyperfunc_memory.backend import ReadFilter, ScopeSelector
from hyperfunc_memory.entries import MemoryEntry, MemoryType, Scope
from hyperfunc_memory.text import content_hash, indexed_words, scoped_words

__all__ = [
    "ENTRY_COLUMNS",
    "ENTRY_SOURCE",
    "NEWEST_FIRST",
    "PENDING",
    "Condition",
    "Dialect",
    "entry_from_row",
    "entry_values",
    "merged",
    "search_texts",
]

ENTRY_COLUMNS = (
    "e.id, e.content, e.memory_type, e.entities, e.importance, e.created_at, e.last_accessed, e.access_count,"
    " e.metadata, s.user_id, s.agent_id, s.run_id, e.subject, e.superseded_by, e.superseded_at"
)
"""To be selected from :data:`ENTRY_SOURCE`."""

NEWEST_FIRST = "ORDER BY e.created_at DESC, e.id DESC"

ENTRY_SOURCE = "memory_entries e JOIN memory_scopes s ON s.id = e.scope_id"

PENDING = 0
"""In place of a successor's id, for what is about to be superseded: no entry has this id."""


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


def entry_values(entry: MemoryEntry) -> tuple[Any, ...]:
    """Values of the columns content, content_hash, memory_type, importance, created_at, last_accessed, access_count,
    entities, metadata, subject."""
    return (
        *(entry.content, content_hash(entry.content), entry.memory_type.value, entry.importance),
        *(entry.created_at, entry.last_accessed, entry.access_count),
        *(json.dumps(entry.entities), json.dumps(entry.metadata), entry.subject),
    )


def merged(entities: str, metadata: str, entry: MemoryEntry) -> tuple[list[str], str]:
    """Entities, and metadata as JSON, of a stored entry (as its row has them) that is restated as ``entry``."""
    names = list(dict.fromkeys([*json.loads(entities), *entry.entities]))
    return names, json.dumps(json.loads(metadata) | entry.metadata)


def search_texts(scope_id: int, content: str, entities: Sequence[str]) -> tuple[str, str]:
    """What the full-text index holds of an entry: its words and those of its entities, each with the scope in it."""
    texts = (content, " ".join(entities))
    words, names = (" ".join(scoped_words(scope_id, indexed_words(text))) for text in texts)
    return words, names


class Condition(NamedTuple):
    """A condition on rows of :data:`ENTRY_SOURCE`, and the values of its named parameters."""

    sql: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a database spells conditions.

    Attributes:
        parameter: a named parameter, with ``{}`` where the name goes.
        active: the condition that entry ``e`` is not superseded.
        true: the condition that always holds.
    """

    parameter: str
    active: str
    true: str

    def readable(self, read: ReadFilter) -> Condition:
        """Entries that may be read."""
        active = self._active(read.as_of)
        condition = f"{active.sql} AND e.importance >= {self.mark('min_importance')}"
        values = {**active.values, "min_importance": read.min_importance}
        if read.memory_types is not None:
            kinds = {f"type_{number}": kind.value for number, kind in enumerate(read.memory_types)}
            condition += f" AND e.memory_type IN ({', '.join(map(self.mark, kinds))})"
            values |= kinds
        return Condition(condition, values)

    def selected(self, selector: ScopeSelector, as_of: int | None, *, superseded: bool) -> Condition:
        """Entries of the selected scopes as they were at ``as_of``; history too if ``superseded``."""
        if not superseded:
            condition, values = self._active(as_of)
        elif as_of is None:
            condition, values = self.true, {}
        else:
            condition, values = f"e.id <= {self.mark('as_of')}", {"as_of": as_of}
        parts = {"user_id": selector.user_id, "agent_id": selector.agent_id, "run_id": selector.run_id}
        if selector.exact:
            return Condition(f"{condition} AND s.key = {self.mark('key')}", {**values, "key": Scope(**parts).key})
        given = {name: value for name, value in parts.items() if value is not None}
        condition += "".join(f" AND s.{name} = {self.mark(name)}" for name in given)
        return Condition(condition, {**values, **given})

    def mark(self, name: str) -> str:
        """The parameter ``name``."""
        return self.parameter.format(name)

    def _active(self, as_of: int | None) -> Condition:
        if as_of is None:
            return Condition(self.active, {})
        bound = self.mark("as_of")
        return Condition(
            f"e.id <= {bound} AND (e.superseded_by IS NULL OR e.superseded_by > {bound})", {"as_of": as_of}
        )
