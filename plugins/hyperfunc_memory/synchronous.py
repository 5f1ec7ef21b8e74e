"""What a memory does, on the caller's thread: checks, ranks and formats; storing and finding is a backend's work.

Scopes. Every entry belongs to exactly one ``(user_id, agent_id, run_id)``, and ``None`` is a value of its own, not a
wildcard. What goes into a prompt (``retrieve``, ``get_recent``, ``get_by_entity``, ``history``) is read from that one
scope. Housekeeping (``get_all``, ``count``, ``prune``, ``clear``) takes ``None`` as "any", as hyperfunc 0.3 did.

Knows nothing of event loops and of conversations: that is :mod:`hyperfunc_memory.memory`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from hyperfunc.errors import ConfigurationError
from hyperfunc_memory.arguments import checked_id, checked_limit, read_filter
from hyperfunc_memory.backend import (
    BackendFactory,
    MemoryBackend,
    ReadFilter,
    ScopeSelector,
    VectorBackend,
    VectorSearch,
)
from hyperfunc_memory.embedding import Embedder, Meaning
from hyperfunc_memory.entries import MemoryEntry, MemoryType, Scope, checked_entry
from hyperfunc_memory.errors import MemoryInputError, MemoryStoreError
from hyperfunc_memory.extraction import Extractor
from hyperfunc_memory.factories import extractor_for, open_backend
from hyperfunc_memory.offload import InPlaceWhileCheap, Offload
from hyperfunc_memory.relevance import RetrievalWeights, ranked
from hyperfunc_memory.snapshot import SnapshotBackend
from hyperfunc_memory.sqlite_backend import sqlite_path
from hyperfunc_memory.text import entity_key, query_words

__all__ = ["SynchronousMemory"]

_SECONDS_PER_DAY = 86_400.0
_RECENT_ACCESS_DAYS = 7.0
_CANDIDATES_PER_RESULT = 5
_MIN_CANDIDATES = 50
_HEADER = "[Relevant memories:]"


class SynchronousMemory:
    """A memory without its asynchronous half; :class:`Memory` has both, and says what the arguments are."""

    def __init__(
        self,
        db_url: str = ":memory:",
        extraction_model: str = "rules",
        max_memories_per_turn: int = 5,
        retrieval_limit: int = 10,
        *,
        extractor: Extractor | None = None,
        weights: RetrievalWeights | None = None,
        embed: Embedder | None = None,
        embedding_model: str = "default",
        min_similarity: float = 0.3,
        vector_search: str = "auto",
        backends: Mapping[str, BackendFactory] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_memories_per_turn < 0:
            raise ConfigurationError(f"max_memories_per_turn must be 0 or more, got {max_memories_per_turn}")
        self.db_url = db_url
        self.extraction_model = extraction_model
        self.max_memories_per_turn = max_memories_per_turn
        self.retrieval_limit = checked_limit(retrieval_limit, 1)
        self.weights = weights if weights is not None else RetrievalWeights()
        self._extractor = extractor if extractor is not None else extractor_for(extraction_model)
        self._clock = clock
        self._backends = backends
        self._backend = open_backend(db_url, backends)
        try:
            self._meaning = self._checked_meaning(embed, embedding_model, min_similarity, vector_search)
        except ConfigurationError:
            self._backend.close()
            raise
        self._threads = Offload()
        self._owns_threads = True
        self._offload: Offload | InPlaceWhileCheap = self._threads

    def _checked_meaning(
        self, embed: Embedder | None, model: str, min_similarity: float, vector_search: str
    ) -> Meaning | None:
        if embed is None:
            if vector_search != "auto":
                raise ConfigurationError(
                    f"vector_search={vector_search!r} without embed=: there are no vectors to search; give embed= too"
                )
            return None
        if not isinstance(self._backend, VectorBackend):
            raise ConfigurationError(
                f"the backend of {self.db_url!r} keeps no vectors; leave embed= out, or take another"
            )
        meaning = Meaning(embed, model, min_similarity, vector_search)
        meaning.check(self._backend)
        return meaning

    # Life

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the same store. Nothing else of it travels, so an in-memory store cannot."""
        if isinstance(self._backend, SnapshotBackend) or sqlite_path(self.db_url) == ":memory:":
            raise MemoryStoreError(
                "a snapshot or an in-memory memory lives in its own process; give it a file or a server to share it"
            )
        settings: dict[str, Any] = {
            "extractor": self._extractor,
            "weights": self.weights,
            **({} if self._meaning is None else self._meaning.arguments()),
            "backends": self._backends,
            "clock": self._clock,
        }
        positional = (self.db_url, self.extraction_model, self.max_memories_per_turn, self.retrieval_limit)
        return partial(type(self), *positional, **settings), ()

    def close(self) -> None:
        """Free every connection and thread; asynchronous calls under way end first. Calling it again does nothing."""
        if self._owns_threads:
            self._threads.close()
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def backend(self) -> MemoryBackend:
        """Where the entries are kept."""
        return self._backend

    @property
    def vector_search(self) -> VectorSearch | None:
        """What compares vectors, and why no extension of the database does; ``None`` without an embedder."""
        return None if self._meaning is None else self._meaning.search_on(self._backend)

    def snapshot(self) -> Self:
        """A private copy-on-write view: it holds what this memory holds now; what is written to it stays in it.

        One per example during optimization, so that candidates never see each other's memories. Cheap: nothing is
        copied before the first write, and then the scope written to alone. Close it when done.
        """
        view = type(self).__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._backend = backend = SnapshotBackend(self._backend)
        view._owns_threads = False
        if self._meaning is None:  # an embedder may take any time
            view._offload = InPlaceWhileCheap(self._threads, backend.is_cheap)
        return view

    # Storage

    def add(self, entry: MemoryEntry) -> int:
        """Store ``entry``; when this returns, it survives the death of the process. ``entry`` itself stays as it is.

        The same content in the same scope is kept once: its id is returned, its importance becomes the larger one.

        Raises:
            MemoryInputError: a field is malformed; nothing was written.
            MemoryStoreError: the store failed; nothing was written.
        """
        return self.add_many([entry])[0]

    def add_many(self, entries: Sequence[MemoryEntry]) -> list[int]:
        """Store all of ``entries``, or none if one is malformed; their ids in order. See :meth:`add`."""
        checked = [checked_entry(entry) for entry in entries]
        if not checked:
            return []
        vectors = self._meaning.vectors(checked) if self._meaning else []  # first: an embedder may fail
        ids = self._backend.add(checked, self._clock())
        if self._meaning:
            self._meaning.keep(self._backend, ids, vectors)
        return ids

    def supersede(self, entry_id: int, entry: MemoryEntry) -> int:
        """Put ``entry`` in the place of the entry ``entry_id`` of the same scope, which is kept as history.

        Returns:
            The id of the new entry.

        Raises:
            MemoryInputError: there is no such active entry in the scope of ``entry``.
        """
        checked = checked_entry(entry)
        vectors = self._meaning.vectors([checked]) if self._meaning else []
        new_id = self._backend.supersede(checked_id(entry_id), checked, self._clock())
        if self._meaning:
            self._meaning.keep(self._backend, [new_id], vectors)
        return new_id

    # What goes into prompts

    def retrieve(
        self,
        query: str,
        user_id: str | None = None,
        limit: int | None = None,
        memory_types: Sequence[MemoryType] | None = None,
        min_importance: float = 0.0,
        *,
        agent_id: str | None = None,
        run_id: str | None = None,
        weights: RetrievalWeights | None = None,
    ) -> list[MemoryEntry]:
        """The most relevant memories of one scope, best first; see :mod:`hyperfunc_memory.relevance`.

        A query is a bag of words: quotes, operators and wildcards have no meaning. Entries are returned as they were;
        then one access of each is counted.

        Args:
            limit: at most so many; ``None`` means ``retrieval_limit``.
            memory_types: only these.
            min_importance: only entries at least this important, 0 to 1.
            weights: of relevance; ``None`` means those of this memory.

        Returns:
            Entries that share a word with ``query``; none if it has no word but stop words. With an embedder, also
            entries whose meaning is near.

        Raises:
            MemoryInputError: an argument is malformed.
            MemoryStoreError: the store failed.
        """
        if not isinstance(query, str):
            raise MemoryInputError(f"query must be text, got {type(query).__name__}")
        scope = Scope(user_id, agent_id, run_id)
        read = read_filter(memory_types, min_importance)
        most = self._limit(limit)
        words = query_words(query)
        if not most or not (words or (self._meaning and query.strip())):
            return []
        now = self._clock()
        candidates = max(_MIN_CANDIDATES, _CANDIDATES_PER_RESULT * most)
        matches = self._backend.search(scope, words, read, candidates) if words else []
        neighbours = self._meaning.neighbours(self._backend, query, scope, read, candidates) if self._meaning else []
        entries = ranked(matches, weights if weights is not None else self.weights, now, most, neighbours)
        self._backend.touch([entry.id for entry in entries if entry.id is not None], now)
        return entries

    def get_recent(
        self,
        limit: int | None = None,
        user_id: str | None = None,
        memory_types: Sequence[MemoryType] | None = None,
        min_importance: float = 0.0,
        *,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> list[MemoryEntry]:
        """The memories of one scope last created, newest first. Arguments as in :meth:`retrieve`."""
        read = read_filter(memory_types, min_importance)
        most = self._limit(limit)
        return self._backend.recent(Scope(user_id, agent_id, run_id), read, most) if most else []

    def get_by_entity(
        self,
        entity: str,
        user_id: str | None = None,
        limit: int | None = None,
        *,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> list[MemoryEntry]:
        """The memories of one scope that name ``entity``, most important first. Case and accents do not count."""
        if not isinstance(entity, str):
            raise MemoryInputError(f"entity must be text, got {type(entity).__name__}")
        key = entity_key(entity)
        most = self._limit(limit)
        return self._backend.by_entity(Scope(user_id, agent_id, run_id), key, ReadFilter(), most) if most else []

    def history(
        self,
        entry_id: int,
        user_id: str | None = None,
        *,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> list[MemoryEntry]:
        """Every version of a memory of one scope, oldest first; empty if the scope has no such entry."""
        checked_id(entry_id)
        return self._backend.history(Scope(user_id, agent_id, run_id), entry_id)

    def format_context(self, memories: Sequence[MemoryEntry], max_chars: int = 2000) -> str:
        """``memories`` as a block for a prompt, one line each, at most ``max_chars`` characters; empty if none fits.

        Line breaks inside a memory become spaces: a memory cannot forge another line of the block.
        """
        lines = [_HEADER]
        length = len(_HEADER)
        for memory in memories:
            line = f"- {' '.join(memory.content.split())}"
            if length + 1 + len(line) > max_chars:
                break
            lines.append(line)
            length += 1 + len(line)
        return "\n".join(lines) if len(lines) > 1 else ""

    # Housekeeping

    def get_all(
        self,
        user_id: str | None = None,
        *,
        agent_id: str | None = None,
        run_id: str | None = None,
        include_superseded: bool = False,
    ) -> list[MemoryEntry]:
        """Every memory of the selected scopes, newest first. For export, not for prompts: ``None`` means any."""
        return self._backend.export(ScopeSelector(user_id, agent_id, run_id), superseded=include_superseded)

    def count(self, user_id: str | None = None, *, agent_id: str | None = None, run_id: str | None = None) -> int:
        """How many memories the selected scopes hold, without history; ``None`` means any."""
        return self._backend.count(ScopeSelector(user_id, agent_id, run_id))

    def prune(
        self,
        max_age_days: float = 30,
        min_importance: float = 0.2,
        keep_accessed_recently: bool = True,
        user_id: str | None = None,
        *,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> int:
        """Erase what is older than ``max_age_days`` and less important than ``min_importance``, history too.

        Args:
            keep_accessed_recently: keep what was accessed in the last 7 days.
            user_id: only this user's; ``None`` means any, as for ``agent_id`` and ``run_id``.

        Returns:
            How many active memories went.
        """
        now = self._clock()
        return self._backend.prune(
            ScopeSelector(user_id, agent_id, run_id),
            created_before=now - max_age_days * _SECONDS_PER_DAY,
            importance_below=min_importance,
            accessed_before=now - _RECENT_ACCESS_DAYS * _SECONDS_PER_DAY if keep_accessed_recently else None,
        )

    def clear(self, user_id: str | None = None, *, agent_id: str | None = None, run_id: str | None = None) -> None:
        """Erase every memory of the selected scopes, history too; ``None`` means any."""
        self._backend.clear(ScopeSelector(user_id, agent_id, run_id))

    # Inside

    def _limit(self, limit: int | None) -> int:
        return self.retrieval_limit if limit is None else checked_limit(limit, 0)
