"""What a memory promises of storing: entries come back as they were, once each, and newer ones take their place."""

from __future__ import annotations

from typing import Any

import pytest

from hyperfunc_memory import Memory, MemoryEntry, MemoryInputError, MemoryType
from hyperfunc_memory.contract.fixtures import NOW, MemoryFixtures, TestClock

__all__ = ["StoringContract"]


class StoringContract(MemoryFixtures):
    """Tests of storing and of supersession."""

    def test_what_is_added_comes_back_as_it_was(self, memory: Memory) -> None:
        entry = MemoryEntry(
            content="Anna leads the Kepler project\nin Zürich 🙂",
            memory_type=MemoryType.ENTITY,
            entities=["Anna", "Kepler"],
            importance=0.75,
            created_at=NOW - 5.5,
            last_accessed=NOW - 1.25,
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
            assert versions[0].superseded_at == NOW + 2
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
