"""Checks of the arguments that reads of a memory share. Knows nothing of stores."""

from __future__ import annotations

from collections.abc import Sequence

from hyperfunc_memory.backend import ReadFilter
from hyperfunc_memory.entries import MemoryType
from hyperfunc_memory.errors import MemoryInputError

__all__ = ["checked_id", "checked_limit", "read_filter"]

_MAX_LIMIT = 10_000


def checked_limit(limit: int, lowest: int) -> int:
    """``limit``, a whole number from ``lowest`` to 10 000. Raises MemoryInputError."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not lowest <= limit <= _MAX_LIMIT:
        raise MemoryInputError(f"a limit must be a whole number from {lowest} to {_MAX_LIMIT}, got {limit!r}")
    return limit


def checked_id(entry_id: int) -> int:
    """``entry_id``, a whole number that a store may have given. Raises MemoryInputError."""
    if isinstance(entry_id, bool) or not isinstance(entry_id, int) or not 0 < entry_id < 2**63:
        raise MemoryInputError(f"an id must be a whole number from 1, as the store gave it, got {entry_id!r:.100}")
    return entry_id


def read_filter(memory_types: Sequence[MemoryType] | None, min_importance: float) -> ReadFilter:
    """The filter of a read. Raises MemoryInputError."""
    if not isinstance(min_importance, (int, float)) or not 0.0 <= min_importance <= 1.0:
        raise MemoryInputError(f"min_importance must lie between 0 and 1, got {min_importance!r}")
    if memory_types is not None and not all(isinstance(kind, MemoryType) for kind in memory_types):
        raise MemoryInputError(f"memory_types must be a list of MemoryType, got {memory_types!r:.200}")
    # As in 0.3, an empty list is no filter.
    return ReadFilter(tuple(memory_types) if memory_types else None, float(min_importance))
