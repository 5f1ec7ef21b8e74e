"""What :class:`Memory` promises on every backend, as tests. Override one fixture::

    class TestMyBackend(MemoryContract):
        @pytest.fixture
        def memory_url(self) -> str:  # of an empty store
            return "mine://…"

        memory_backends = {"mine": open_mine}  # unless a plugin registers it

A store that two :class:`Memory` objects with the same URL share has more to keep: :class:`SharedMemoryContract`. What a
backend promises by itself is tested by :class:`hyperfunc.testing.MemoryBackendContract`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from hyperfunc.testing.hostile_texts import HOSTILE_TEXTS
from hyperfunc_memory import (
    BackendFactory,
    Memory,
    MemoryEntry,
    MemoryInputError,
    MemoryStoreError,
    MemoryType,
    RetrievalWeights,
)

__all__ = ["MemoryContract", "SharedMemoryContract", "TestClock"]

_DAY = 86_400.0
_NOW = 1_800_000_000.0


class TestClock:
    """A clock that a test sets: seconds since the epoch."""

    __test__ = False

    def __init__(self, now: float = _NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class MemoryContract:
    """Tests of one backend, through :class:`Memory`."""

    memory_backends: ClassVar[Mapping[str, BackendFactory] | None] = None
    """Scheme -> factory, if the backend is neither built in nor registered by a plugin."""

    @pytest.fixture
    def memory_url(self) -> str:
        """The URL of an empty store. Override this."""
        raise NotImplementedError("override the fixture memory_url with the URL of an empty store")

    @pytest.fixture
    def clock(self) -> TestClock:
        return TestClock()

    @pytest.fixture
    def open_memory(self, memory_url: str, clock: TestClock) -> Iterator[Callable[..., Memory]]:
        """Opens the store; what it opened is closed after the test."""
        opened: list[Memory] = []

        def open_one(**changes: Any) -> Memory:
            opened.append(Memory(memory_url, **{"clock": clock, "backends": self.memory_backends, **changes}))
            return opened[-1]

        yield open_one
        for memory in opened:
            memory.close()

    @pytest.fixture
    def memory(self, open_memory: Callable[..., Memory]) -> Memory:
        return open_memory()

    # Storing

    def test_what_is_added_comes_back_as_it_was(self, memory: Memory) -> None:
        entry = MemoryEntry(
            content="Anna leads the Kepler project\nin Zürich 🙂",
            memory_type=MemoryType.ENTITY,
            entities=["Anna", "Kepler"],
            importance=0.75,
            created_at=_NOW - 5.5,
            last_accessed=_NOW - 1.25,
            access_count=3,
            metadata={"source": "mail", "nested": [1, {"a": None}]},
            user_id="u",
            agent_id="a",
            run_id="r",
            subject="Project Lead",
        )
        entry_id = memory.add(entry)
        (stored,) = memory.get_all()
        assert entry.id is None
        assert stored == MemoryEntry(**{**vars(entry), "id": entry_id, "subject": "project lead"})

    def test_ids_come_in_the_order_of_the_entries(self, memory: Memory) -> None:
        ids = memory.add_many([MemoryEntry(content=f"fact {i}") for i in range(5)])
        assert ids == sorted(set(ids))
        assert [e.content for e in memory.get_all()][::-1] == [f"fact {i}" for i in range(5)]
        assert memory.add_many([]) == []

    def test_one_malformed_entry_keeps_all_out(self, memory: Memory) -> None:
        good = MemoryEntry(content="good")
        for bad in (
            MemoryEntry(content=""),
            MemoryEntry(content="\0 \n"),
            MemoryEntry(content="x", importance=1.5),
            MemoryEntry(content="x", importance=float("nan")),
            MemoryEntry(content="x", created_at=float("inf")),
            MemoryEntry(content="x", memory_type="fact"),  # type: ignore[arg-type]
            MemoryEntry(content="x", metadata={"x": object()}),
            MemoryEntry(content="x", metadata={"x": float("nan")}),
            MemoryEntry(content="x", entities="Anna"),  # type: ignore[arg-type]
            MemoryEntry(content="x", access_count=-1),
            MemoryEntry(content="x", user_id="u\0"),
            MemoryEntry(content="x", user_id="\ud800"),
            MemoryEntry(content="x", user_id="u" * 513),
            MemoryEntry(content="x", user_id=7),  # type: ignore[arg-type]
        ):
            with pytest.raises(MemoryInputError):
                memory.add_many([good, bad])
        assert memory.count() == 0

    def test_same_content_is_kept_once(self, memory: Memory) -> None:
        first = memory.add(
            MemoryEntry(content="Likes  Tea", importance=0.3, entities=["Tea"], metadata={"a": 1, "b": 1})
        )
        again = memory.add(MemoryEntry(content="likes tea", importance=0.6, entities=["Leaf"], metadata={"b": 2}))
        memory.add(MemoryEntry(content="likes tea", importance=0.1))
        other = memory.add(MemoryEntry(content="likes tea", user_id="u"))
        assert again == first != other
        assert memory.count() == 2
        (entry,) = memory.get_recent()
        assert (entry.content, entry.importance, entry.metadata) == ("Likes  Tea", 0.6, {"a": 1, "b": 2})
        assert entry.entities == ["Tea", "Leaf"]
        assert memory.get_by_entity("leaf") == memory.retrieve("leaf") == [entry]

    def test_a_batch_with_duplicates_names_the_same_id(self, memory: Memory) -> None:
        ids = memory.add_many([MemoryEntry(content=text) for text in ("a", "b", "A", "b ")])
        assert ids[0] == ids[2]
        assert ids[1] == ids[3]
        assert memory.count() == 2

    def test_nul_and_surrogates_are_cleaned_out_of_texts(self, memory: Memory) -> None:
        memory.add(MemoryEntry(content="a\0b \ud800", entities=["x\0"], metadata={"k\0": ["v\0\udfff"]}))
        (entry,) = memory.get_all()
        assert (entry.content, entry.entities, entry.metadata) == ("ab ?", ["x"], {"k": ["v?"]})

    def test_long_texts(self, memory: Memory) -> None:
        text = "needle " + "".join(f"word{i} " for i in range(20_000))
        memory.add(
            MemoryEntry(content=text, entities=["e" * 512], user_id="ü" * 512, agent_id="ü" * 512, run_id="r" * 512)
        )
        scope: dict[str, Any] = {"user_id": "ü" * 512, "agent_id": "ü" * 512, "run_id": "r" * 512}
        assert memory.retrieve("needle", **scope)[0].content == text
        assert memory.retrieve(text, **scope)[0].content == text
        assert memory.get_by_entity("E" * 512, **scope)[0].content == text
        memory.add(MemoryEntry(content="\ufdfa" * 120_000, entities=["\ufdfa" * 512], subject="\u0390" * 512))
        with pytest.raises(MemoryInputError, match="characters"):
            memory.add(MemoryEntry(content="x" * 4_000_001))

    # Supersession

    def test_a_subject_has_one_active_value_and_a_history(self, memory: Memory, clock: TestClock) -> None:
        ids = []
        for place in ("Berlin", "Rome", "Oslo", "Berlin"):
            clock.now += 1
            ids.append(memory.add(MemoryEntry(content=f"Lives in {place}", subject="Home", user_id="u")))
        memory.add(MemoryEntry(content="Lives in Paris", subject="home", user_id="v"))
        assert len(set(ids)) == 4
        assert [e.content for e in memory.get_all("u")] == ["Lives in Berlin"]
        assert [e.id for e in memory.retrieve("lives berlin rome oslo paris", "u")] == [ids[3]]
        assert memory.count("u") == 1
        for start in ids:
            versions = memory.history(start, "u")
            assert [e.id for e in versions] == ids
            assert [e.superseded_by for e in versions] == [*ids[1:], None]
            assert versions[0].superseded_at == _NOW + 2
        assert len(memory.get_all("u", include_superseded=True)) == 4
        assert memory.history(ids[0], "v") == memory.history(ids[0]) == memory.history(10**9, "u") == []

    def test_restating_with_a_subject_takes_the_place_of_the_plain_statement(self, memory: Memory) -> None:
        plain = memory.add(MemoryEntry(content="likes red"))
        blue = memory.add(MemoryEntry(content="likes blue", subject="colour"))
        red = memory.add(MemoryEntry(content="likes red", subject="colour"))
        assert [e.id for e in memory.get_all()] == [red]
        assert [e.id for e in memory.history(red)] == [plain, blue, red]
        assert memory.add(MemoryEntry(content="likes red")) == red

    def test_supersede_by_id_stays_in_its_scope(self, memory: Memory) -> None:
        old = memory.add(MemoryEntry(content="works at Acme", user_id="u"))
        with pytest.raises(MemoryInputError, match="no active memory"):
            memory.supersede(old, MemoryEntry(content="works at Evil", user_id="v"))
        new = memory.supersede(old, MemoryEntry(content="works at Globex", user_id="u"))
        with pytest.raises(MemoryInputError, match="no active memory"):
            memory.supersede(old, MemoryEntry(content="works at Initech", user_id="u"))
        assert [e.id for e in memory.get_all("u")] == [new]
        assert [e.content for e in memory.history(new, "u")] == ["works at Acme", "works at Globex"]
        assert memory.count("v") == 0

    @pytest.mark.parametrize("bad", [0, -1, 2**63, True, "1", 1.0, None])
    def test_ids_are_checked(self, memory: Memory, bad: Any) -> None:
        with pytest.raises(MemoryInputError, match="id"):
            memory.history(bad)
        with pytest.raises(MemoryInputError, match="id"):
            memory.supersede(bad, MemoryEntry(content="x"))

    # Finding

    def test_any_word_finds_and_more_and_rarer_words_rank_higher(self, memory: Memory) -> None:
        for i in range(20):
            memory.add(MemoryEntry(content=f"the project meeting number {i}"))
        memory.add(MemoryEntry(content="the zebra project"))
        memory.add(MemoryEntry(content="an unrelated remark"))
        found = memory.retrieve("What about the zebra project?", limit=30)
        assert found[0].content == "the zebra project"
        assert len(found) == 21

    def test_words_are_matched_without_case_accents_and_endings(self, memory: Memory) -> None:
        memory.add(MemoryEntry(content="She visited Zürich and likes CAFÉS"))
        for query in ("zurich", "ZÜRICH", "cafe", "visiting", "zürich!!!", "like"):
            assert len(memory.retrieve(query)) == 1, query
        memory.add(MemoryEntry(content="我喜欢喝茶"))
        assert len(memory.retrieve("茶")) == 1
        memory.add(MemoryEntry(content="나는 한국어를 배운다"))
        assert len(memory.retrieve("한국어")) == 1

    def test_entities_are_searched_too(self, memory: Memory) -> None:
        memory.add(MemoryEntry(content="the manager", entities=["Grace Hopper"]))
        assert len(memory.retrieve("hopper")) == 1

    def test_a_query_without_words_finds_nothing(self, memory: Memory) -> None:
        memory.add(MemoryEntry(content="the of and ?"))
        for query in ("", "  ", "?!", "🙂", "the of and"):
            assert memory.retrieve(query) == []

    def test_importance_and_recency_decide_between_equal_texts(self, memory: Memory) -> None:
        for content, importance, age in (
            ("tea one", 0.2, 0),
            ("tea two", 0.9, 0),
            ("tea new", 0.5, 0),
            ("tea old", 0.5, 300),
        ):
            created = _NOW - age * _DAY
            memory.add(MemoryEntry(content=content, importance=importance, created_at=created))
        order = [e.content for e in memory.retrieve("tea", weights=RetrievalWeights(importance=1.0, recency=0.0))]
        assert order[0] == "tea two"
        assert order[-1] == "tea one"
        order = [e.content for e in memory.retrieve("tea", weights=RetrievalWeights(importance=0.0, recency=1.0))]
        assert order[-1] == "tea old"

    def test_filters(self, memory: Memory) -> None:
        memory.add(MemoryEntry(content="tea fact", importance=0.2))
        memory.add(MemoryEntry(content="tea preference", memory_type=MemoryType.PREFERENCE, importance=0.8))
        only = [MemoryType.PREFERENCE, MemoryType.EVENT]
        for read in (lambda **k: memory.retrieve("tea", **k), memory.get_recent):
            assert [e.content for e in read(memory_types=only)] == ["tea preference"]
            assert [e.content for e in read(min_importance=0.5)] == ["tea preference"]
            assert len(read(memory_types=[])) == 2
            assert len(read(limit=1)) == 1
            assert read(limit=0) == []
            for wrong in ({"limit": -1}, {"limit": 1.5}, {"min_importance": 2}, {"memory_types": ["fact"]}):
                with pytest.raises(MemoryInputError):
                    read(**wrong)

    def test_retrieving_counts_one_access(self, memory: Memory, clock: TestClock) -> None:
        memory.add(MemoryEntry(content="tea", last_accessed=_NOW - _DAY))
        clock.now += 10
        assert [e.access_count for e in memory.retrieve("tea")] == [0]
        (entry,) = memory.retrieve("tea")
        assert (entry.access_count, entry.last_accessed) == (1, _NOW + 10)
        assert memory.get_recent()[0].access_count == 2

    def test_recent_is_newest_first(self, memory: Memory) -> None:
        for age in (5, 1, 3, 1):
            memory.add(MemoryEntry(content=f"{age} {memory.count()}", created_at=_NOW - age))
        assert [e.content for e in memory.get_recent(limit=3)] == ["1 3", "1 1", "3 2"]

    def test_entities_are_looked_up_whole_and_without_case(self, memory: Memory) -> None:
        memory.add(MemoryEntry(content="one", entities=["John  Smith", "Acme"], importance=0.2))
        memory.add(MemoryEntry(content="two", entities=["john smith"], importance=0.9))
        assert [e.content for e in memory.get_by_entity("JOHN SMITH")] == ["two", "one"]
        assert [e.content for e in memory.get_by_entity("JOHN SMITH", limit=1)] == ["two"]
        for other in ("john", "%", "john_smith", "", "john smith\0x"):
            assert memory.get_by_entity(other) == [], other

    # Scopes

    def test_scopes_never_mix(self, memory: Memory) -> None:
        # Parts that run together, quote each other or look alike must still be different scopes.
        values = (None, "", "a", "A", "a,b", "b", '"', "null", "a ", "%", "\u00e4", "a\u0308")
        scopes: list[dict[str, Any]] = [
            {"user_id": u, "agent_id": a, "run_id": r} for u in values for a in (None, "a", "b") for r in (None, "b")
        ]
        memory.add_many([MemoryEntry(content=f"shared secret {i}", entities=["E"], **s) for i, s in enumerate(scopes)])
        for i, scope in enumerate(scopes):
            expected = [f"shared secret {i}"]
            assert [e.content for e in memory.retrieve("shared secret", **scope)] == expected
            assert [e.content for e in memory.get_recent(**scope)] == expected
            assert [e.content for e in memory.get_by_entity("e", **scope)] == expected

    def test_housekeeping_takes_none_as_any(self, memory: Memory) -> None:
        for user, agent in (("u", None), ("u", "a"), ("v", "a"), (None, None)):
            memory.add(MemoryEntry(content="x", user_id=user, agent_id=agent))
        assert memory.count() == len(memory.get_all()) == 4
        assert memory.count("u") == len(memory.get_all("u")) == 2
        assert memory.count(agent_id="a") == 2
        assert memory.count("u", agent_id="a", run_id="r") == 0
        memory.clear("u")
        assert (memory.count("u"), memory.count()) == (0, 2)
        assert memory.retrieve("x", "u") == []
        memory.clear()
        assert memory.count() == 0
        assert memory.get_all(include_superseded=True) == []

    @pytest.mark.parametrize("number", range(len(HOSTILE_TEXTS)))
    def test_hostile_queries_find_nothing_of_others(self, memory: Memory, number: int) -> None:
        text = HOSTILE_TEXTS[number]
        for user in ("victim", "'; --", None):
            memory.add(
                MemoryEntry(content="the secret is s1 @1 x scope 秘密 сек рет", entities=["secret"], user_id=user)
            )
        own = memory.add(MemoryEntry(content="my own secret", user_id="me"))
        for results in (memory.retrieve(text, "me"), memory.get_by_entity(text, "me")):
            assert {e.id for e in results} <= {own}
        scopes: tuple[dict[str, Any], ...] = (
            {"user_id": text or "-"},
            {"user_id": "me", "agent_id": text or "-"},
            {"user_id": "me", "run_id": text or "-"},
        )
        for scope in scopes:
            with suppress(MemoryInputError):
                assert memory.retrieve("secret", **scope) == memory.get_recent(**scope) == []
        assert memory.count() == 4

    # Housekeeping

    def test_prune(self, memory: Memory) -> None:
        def aged(content: str, importance: float, age: float, accessed: float, **more: Any) -> MemoryEntry:
            times: dict[str, Any] = {"created_at": _NOW - age * _DAY, "last_accessed": _NOW - accessed * _DAY}
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
            return _NOW

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


class SharedMemoryContract(MemoryContract):
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
