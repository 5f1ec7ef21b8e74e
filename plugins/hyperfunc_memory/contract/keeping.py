"""What a memory promises over time: pruning, snapshots, closing, many callers at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hyperfunc_memory import Memory, MemoryEntry, MemoryStoreError
from hyperfunc_memory.contract.fixtures import DAY, NOW, MemoryFixtures

__all__ = ["KeepingContract", "SharingContract"]


class KeepingContract(MemoryFixtures):
    """Tests of housekeeping, snapshots and life."""

    def test_prune(self, memory: Memory) -> None:
        def aged(content: str, importance: float, age: float, accessed: float, **more: Any) -> MemoryEntry:
            times: dict[str, Any] = {"created_at": NOW - age * DAY, "last_accessed": NOW - accessed * DAY}
            return MemoryEntry(content=content, importance=importance, **times, **more)

        memory.add_many(
            [
                aged("old", 0.1, 60, 60),
                aged("old of v", 0.1, 60, 60, user_id="v"),
                aged("important", 0.9, 60, 60),
                aged("young", 0.1, 1, 1),
                aged("accessed", 0.1, 60, 2),
            ]
        )
        assert memory.prune(user_id="v") == 1
        assert memory.prune() == 1
        assert {e.content for e in memory.get_all()} == {"important", "young", "accessed"}
        assert memory.prune(keep_accessed_recently=False) == 1
        assert memory.retrieve("old accessed") == []
        assert memory.prune(max_age_days=0.5, min_importance=1.0, keep_accessed_recently=False) == 2

    # Snapshots

    def test_a_snapshot_keeps_its_moment(self, memory: Memory) -> None:
        before = memory.add(MemoryEntry(content="tea long before", subject="drink", entities=["Tea"]))
        kept = memory.add(MemoryEntry(content="tea first", subject="drink", entities=["Tea"]))
        with memory.snapshot() as view:
            memory.add(MemoryEntry(content="tea second", subject="drink"))
            memory.add(MemoryEntry(content="tea third"))
            for read in (view.get_recent(), view.get_all(), view.get_by_entity("tea"), view.retrieve("tea")):
                assert [(e.id, e.superseded_by) for e in read] == [(kept, None)]
            assert view.count() == 1
            assert [e.id for e in view.history(kept)] == [before, kept]
            assert view.get_recent()[0].access_count == 1
            assert memory.history(kept)[1].access_count == 0

    def test_what_is_written_to_a_snapshot_stays_there(self, memory: Memory) -> None:
        base = memory.add(MemoryEntry(content="tea base", subject="drink", user_id="u"))
        memory.add(MemoryEntry(content="tea of v", user_id="v"))
        with memory.snapshot() as one, memory.snapshot() as two:
            one.retrieve("tea", "u")
            new = one.add(MemoryEntry(content="tea one", subject="drink", user_id="u"))
            two.add(MemoryEntry(content="tea two", user_id="u"))
            assert new > base
            assert [e.content for e in one.retrieve("tea", "u")] == ["tea one"]
            assert [(e.content, e.access_count) for e in one.history(new, "u")] == [("tea base", 1), ("tea one", 1)]
            assert {e.content for e in two.get_recent(user_id="u")} == {"tea base", "tea two"}
            assert [e.content for e in one.retrieve("tea", "v")] == ["tea of v"]
            assert (one.count(), two.count(), memory.count()) == (2, 3, 2)
            assert (one.count("u"), two.count("u"), memory.count("u")) == (1, 2, 1)
            with two.snapshot() as nested:
                nested.clear()
                assert (nested.count(), two.count()) == (0, 3)
                two.add(MemoryEntry(content="tea later", user_id="u"))
                assert nested.get_all() == []
            assert two.prune(max_age_days=-1, min_importance=1.0, keep_accessed_recently=False, user_id="u") == 3
            assert {e.content for e in two.get_all()} == {"tea of v"}
        assert {e.content for e in memory.get_all(include_superseded=True)} == {"tea base", "tea of v"}
        with pytest.raises(MemoryStoreError, match="closed"):
            one.retrieve("tea", "u")

    # Life

    def test_closed_means_closed(self, memory: Memory) -> None:
        memory.close()
        memory.close()
        for use in (memory.count, memory.get_all, lambda: memory.add(MemoryEntry(content="x"))):
            with pytest.raises(MemoryStoreError, match="closed"):
                use()

    async def test_async_twins_do_what_the_names_say(self, memory: Memory) -> None:
        first = await memory.aadd(MemoryEntry(content="tea", entities=["T"], user_id="u"))
        assert await memory.aadd_many([MemoryEntry(content="tea", user_id="u")]) == [first]
        assert [e.id for e in await memory.aretrieve("tea", "u", limit=3)] == [first]
        assert [e.id for e in await memory.aget_recent(user_id="u")] == [first]
        assert [e.id for e in await memory.aget_by_entity("t", "u")] == [first]
        second = await memory.asupersede(first, MemoryEntry(content="coffee", user_id="u"))
        assert [e.id for e in await memory.ahistory(second, "u")] == [first, second]
        assert [e.id for e in await memory.aget_all("u")] == [second]
        async with await memory.asnapshot() as view:
            await view.aclear()
            assert await view.acount() == 0
        assert await memory.aprune(max_age_days=-1, min_importance=1.0, keep_accessed_recently=False) == 1
        assert await memory.acount("u") == 0
        await memory.aclose()

    async def test_the_loop_runs_on_while_a_write_waits(self, memory: Memory) -> None:
        inside, release = threading.Event(), threading.Event()

        def slow_clock() -> float:
            inside.set()
            assert release.wait(60)
            return NOW

        memory._clock = slow_clock
        writing = asyncio.create_task(memory.aadd(MemoryEntry(content="x")))
        assert await asyncio.to_thread(inside.wait, 60)
        assert not writing.done()
        writing.cancel()
        await asyncio.sleep(0)
        assert not writing.done()  # a cancelled writer is told when its transaction has ended, not before
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert memory.count() == 1

    def test_eight_threads_write_and_read_at_once(self, memory: Memory) -> None:
        def work(worker: int) -> list[int]:
            ids = []
            for i in range(12):
                user = f"user {i % 3}"
                ids.append(memory.add(MemoryEntry(content=f"note {worker} {i}", user_id=user, importance=0.5)))
                memory.add(MemoryEntry(content=f"mood {worker} {i}", subject="mood", user_id=user))
                memory.add(MemoryEntry(content="everyone says this", user_id=user))
                assert all(e.user_id == user for e in memory.retrieve("note mood everyone", user))
            return ids

        with ThreadPoolExecutor(8) as threads:
            ids = [entry_id for found in threads.map(work, range(8)) for entry_id in found]
        assert len(set(ids)) == 96
        assert memory.count() == 96 + 3 + 3
        assert len(memory.get_all(include_superseded=True)) == 96 + 96 + 3


class SharingContract(MemoryFixtures):
    """Tests of a backend whose stores several :class:`Memory` objects can open at once."""

    def test_entries_outlive_the_object(self, open_memory: Callable[..., Memory]) -> None:
        with open_memory() as first:
            entry_id = first.add(MemoryEntry(content="tea", user_id="u"))
        second = open_memory()
        assert [e.id for e in second.retrieve("tea", "u")] == [entry_id]

    def test_eight_objects_on_one_store_write_at_once(self, open_memory: Callable[..., Memory]) -> None:
        def work(worker: int) -> None:
            with open_memory() as memory:
                for i in range(6):
                    memory.add(MemoryEntry(content=f"note {worker} {i}"))
                    memory.add(MemoryEntry(content=f"mood {worker} {i}", subject="mood"))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        memory = open_memory()
        assert memory.count() == 48 + 1
        assert len(memory.get_all(include_superseded=True)) == 96
