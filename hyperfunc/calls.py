"""Paid calls and where their results are kept. Knows nothing of models, providers or databases.

A *paid call* is looked up by a content key before it is made and stored when its reply has arrived, so that it is
never paid for twice. ``MemoryCallStore`` lives in this process; the journal is the durable one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from hyperfunc.usage import Usage

__all__ = ["CallStore", "MemoryCallStore", "StoredCall", "content_key"]


def content_key(kind: str, content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of ``kind`` and of canonical JSON of ``content``; equal content gives equal keys in any process."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=True)
    return hashlib.sha256(f"{kind}\0{text}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredCall:
    """One finished paid call.

    Attributes:
        key: :func:`content_key` of the full request, the θ it was made under, the repeat index and the model.
        kind: what made it (``"llm"``, ``"embedding"``, ``"tool"``, …).
        result: the reply as JSON values.
        usage: what it cost when it was made; a hit costs nothing.
        created_at: seconds since the epoch.
        component: on whose account it is in the run's books (an endpoint's alias, …).
        owed: it was paid for in a part of a run that is lived through again, and is not in the books yet: who gets it
            enters its usage, as when it was paid (:func:`hyperfunc.relived.count_reply`). Never kept.
    """

    key: str
    kind: str
    result: Any
    usage: Usage = field(default_factory=Usage)
    created_at: float = field(default_factory=time.time)
    component: str = ""
    owed: bool = False


@runtime_checkable
class CallStore(Protocol):
    """Where results of paid calls are kept, by content key."""

    async def get(self, key: str) -> StoredCall | None:
        """The stored call, or ``None``. Never blocks the event loop."""
        ...

    async def put(self, call: StoredCall) -> None:
        """Keep ``call``. When this returns, it survives the death of the process (for durable stores)."""
        ...


class MemoryCallStore:
    """A :class:`CallStore` that lives as long as the object.

    Args:
        max_entries: the oldest entry goes when more are put; ``None`` keeps all.
    """

    def __init__(self, max_entries: int | None = None) -> None:
        self._max_entries = max_entries
        self._calls: dict[str, StoredCall] = {}

    async def get(self, key: str) -> StoredCall | None:
        return self._calls.get(key)

    async def put(self, call: StoredCall) -> None:
        self._calls[call.key] = call
        if self._max_entries is not None and len(self._calls) > self._max_entries:
            del self._calls[next(iter(self._calls))]

    def __len__(self) -> int:
        return len(self._calls)
