"""What a memory promises of finding: by words, entities and filters, and never in another scope."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from hyperfunc.testing.hostile_texts import HOSTILE_TEXTS
from hyperfunc_memory import Memory, MemoryEntry, MemoryInputError, MemoryType, RetrievalWeights
from hyperfunc_memory.contract.fixtures import DAY, NOW, MemoryFixtures, TestClock

__all__ = ["FindingContract"]


class FindingContract(MemoryFixtures):
    """Tests of reads and of scopes."""

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
            created = NOW - age * DAY
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
        memory.add(MemoryEntry(content="tea", last_accessed=NOW - DAY))
        clock.now += 10
        assert [e.access_count for e in memory.retrieve("tea")] == [0]
        (entry,) = memory.retrieve("tea")
        assert (entry.access_count, entry.last_accessed) == (1, NOW + 10)
        assert memory.get_recent()[0].access_count == 2

    def test_recent_is_newest_first(self, memory: Memory) -> None:
        for age in (5, 1, 3, 1):
            memory.add(MemoryEntry(content=f"{age} {memory.count()}", created_at=NOW - age))
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
