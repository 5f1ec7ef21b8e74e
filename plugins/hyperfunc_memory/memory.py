"""``Memory``: what programs use. Adds asynchronous twins and the turns of conversations to :class:`SynchronousMemory`.

The methods that hyperfunc 0.3 had are synchronous and may be called from any thread; each has an async twin (``aadd``,
``aretrieve``, …) that runs it on a worker thread, never blocks the event loop and, when cancelled, first lets the
transaction that is under way end. (In a snapshot that is small and in memory, a call takes less time than handing it to
a thread, and is made in place.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from hyperfunc_memory.entries import MemoryEntry, MemoryType, Scope, checked_entry
from hyperfunc_memory.errors import MemoryInputError
from hyperfunc_memory.extraction import extract as extracted
from hyperfunc_memory.offload import Offload
from hyperfunc_memory.synchronous import SynchronousMemory

__all__ = ["Memory"]


class Memory(SynchronousMemory):
    """A lasting memory for agents.

    Args:
        db_url: ``":memory:"``, a file path, ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or
            ``postgresql://…``; other schemes come from plugins.
        extraction_model: ``"rules"`` (no model), or the name of an LLM for :class:`LLMExtractor`.
        max_memories_per_turn: at most so many memories are taken from one turn.
        retrieval_limit: results of a read that names no ``limit``.
        extractor: what :meth:`store_turn` takes memories from a turn with; overrides ``extraction_model``.
        weights: of relevance; :meth:`retrieve` can be given others.
        embed: ``texts -> vectors``; with it, memories are found by meaning too, not by their words alone.
        embedding_model: the name that vectors are kept under; vectors of another name are never compared.
        vector_search: ``"auto"``: an extension of the database compares vectors where it is there (sqlite-vec, of the
            extra ``vectors``; pgvector, installed in the database), else numpy does. ``"extension"``, ``"numpy"``: that
            one, or an error.
        min_similarity: cosine similarity from which on an entry counts as found by meaning, -1 to 1.
        backends: scheme -> factory; before those of plugins and the built-in ones.
        clock: seconds since the epoch.

    Raises:
        ConfigurationError: an argument is out of range, or no backend has the URL's scheme.
        MemoryStoreError: the store cannot be opened.
    """

    async def store_turn(
        self,
        user_message: str,
        assistant_response: str,
        user_id: str | None = None,
        extract: bool = True,
        *,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> list[MemoryEntry]:
        """Remember what is worth remembering of one turn. Everything is stored when this returns.

        Args:
            extract: take memories from the turn (see ``extraction_model``). If not, the turn itself is kept as one
                entry of type CONTEXT and importance 0.3.

        Returns:
            The memories of this turn, ids included; may be empty.

        Raises:
            ExtractionError: the extractor returned something else than memories; nothing was written.
            MemoryInputError: a message is no text, or the scope is malformed.
        """
        for name, message in (("user_message", user_message), ("assistant_response", assistant_response)):
            if not isinstance(message, str):
                raise MemoryInputError(f"{name} must be text, got {type(message).__name__}")
        scope = Scope(user_id, agent_id, run_id)
        if extract:
            found = await extracted(self._extractor, user_message, assistant_response, self.max_memories_per_turn)
        else:
            content = f"User: {user_message}\nAssistant: {assistant_response}"
            found = [MemoryEntry(content=content, memory_type=MemoryType.CONTEXT, importance=0.3)]
        now = self._clock()
        entries = [
            checked_entry(
                replace(
                    entry,
                    id=None,
                    user_id=scope.user_id,
                    agent_id=scope.agent_id,
                    run_id=scope.run_id,
                    created_at=now,
                    last_accessed=now,
                )
            )
            for entry in found
        ]
        ids = await self.aadd_many(entries) if entries else []
        return [replace(entry, id=entry_id) for entry, entry_id in zip(entries, ids, strict=True)]

    async def aclose(self) -> None:
        """:meth:`close`, without blocking the event loop."""
        await Offload.once(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aadd(self, entry: MemoryEntry) -> int:
        """:meth:`add` on a worker thread."""
        return await self._offload(self.add, entry)

    async def aadd_many(self, entries: Sequence[MemoryEntry]) -> list[int]:
        """:meth:`add_many` on a worker thread."""
        return await self._offload(self.add_many, entries)

    async def asupersede(self, entry_id: int, entry: MemoryEntry) -> int:
        """:meth:`supersede` on a worker thread."""
        return await self._offload(self.supersede, entry_id, entry)

    async def aretrieve(self, query: str, *args: Any, **kwargs: Any) -> list[MemoryEntry]:
        """:meth:`retrieve` on a worker thread."""
        return await self._offload(self.retrieve, query, *args, **kwargs)

    async def aget_recent(self, *args: Any, **kwargs: Any) -> list[MemoryEntry]:
        """:meth:`get_recent` on a worker thread."""
        return await self._offload(self.get_recent, *args, **kwargs)

    async def aget_by_entity(self, entity: str, *args: Any, **kwargs: Any) -> list[MemoryEntry]:
        """:meth:`get_by_entity` on a worker thread."""
        return await self._offload(self.get_by_entity, entity, *args, **kwargs)

    async def ahistory(self, entry_id: int, *args: Any, **kwargs: Any) -> list[MemoryEntry]:
        """:meth:`history` on a worker thread."""
        return await self._offload(self.history, entry_id, *args, **kwargs)

    async def aget_all(self, *args: Any, **kwargs: Any) -> list[MemoryEntry]:
        """:meth:`get_all` on a worker thread."""
        return await self._offload(self.get_all, *args, **kwargs)

    async def acount(self, *args: Any, **kwargs: Any) -> int:
        """:meth:`count` on a worker thread."""
        return await self._offload(self.count, *args, **kwargs)

    async def aprune(self, *args: Any, **kwargs: Any) -> int:
        """:meth:`prune` on a worker thread."""
        return await self._offload(self.prune, *args, **kwargs)

    async def aclear(self, *args: Any, **kwargs: Any) -> None:
        """:meth:`clear` on a worker thread."""
        await self._offload(self.clear, *args, **kwargs)

    async def asnapshot(self) -> Self:
        """:meth:`snapshot` on a worker thread."""
        return await self._offload(self.snapshot)
