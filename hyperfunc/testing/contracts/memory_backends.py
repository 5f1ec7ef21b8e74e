"""What every memory backend must do, as tests: override the fixture ``memory_backend``.

These are the promises of :class:`hyperfunc.memory_types.MemoryBackend` itself. What users of ``Memory`` are promised on
top of it is tested by the contract of the plugin ``hyperfunc_memory``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hyperfunc.memory_types import (
    MemoryBackend,
    MemoryEntry,
    MemoryInputError,
    MemoryStoreError,
    MemoryType,
    ReadFilter,
    Scope,
    ScopeSelector,
    without_surrogates,
)
from hyperfunc.testing.hostile_texts import HOSTILE_TEXTS

__all__ = ["MemoryBackendContract"]

_NOW = 1_800_000_000.0
_ANY, _ALL = ScopeSelector(), ReadFilter()
_ANNA, _BEN = Scope("anna"), Scope("ben")


def _entry(content: str, scope: Scope = _ANNA, **more: Any) -> MemoryEntry:
    times: dict[str, Any] = {"created_at": _NOW, "last_accessed": _NOW, **more}
    return MemoryEntry(content=content, user_id=scope.user_id, agent_id=scope.agent_id, run_id=scope.run_id, **times)


def _contents(entries: Sequence[MemoryEntry]) -> list[str]:
    return [entry.content for entry in entries]


class MemoryBackendContract:
    """Tests of one backend."""

    @pytest.fixture
    def memory_backend(self) -> MemoryBackend:
        """A backend with an empty store. Override this."""
        raise NotImplementedError("override the fixture memory_backend with a backend whose store is empty")

    def _search(self, backend: MemoryBackend, words: str, scope: Scope = _ANNA, **more: Any) -> list[str]:
        return [m.entry.content for m in backend.search(scope, words.split(), ReadFilter(**more), 10)]

    def test_it_has_every_method(self, memory_backend: MemoryBackend) -> None:
        assert isinstance(memory_backend, MemoryBackend)

    # Storing

    def test_what_is_added_comes_back_as_it_was(self, memory_backend: MemoryBackend) -> None:
        entry = _entry(
            "leads the Kepler project\nin Zürich 🙂",
            Scope("u", "a", "r"),
            memory_type=MemoryType.ENTITY,
            entities=["Anna", "Kepler"],
            importance=0.75,
            last_accessed=_NOW - 1.25,
            access_count=3,
            metadata={"nested": [1, {"a": None}]},
            subject="lead",
        )
        (entry_id,) = memory_backend.add([entry], _NOW)
        (stored,) = memory_backend.export(_ANY, superseded=True)
        assert stored == MemoryEntry(**{**vars(entry), "id": entry_id})
        assert entry.id is None, "the caller's entry must be left alone"

    def test_ids_rise_in_the_order_of_the_entries(self, memory_backend: MemoryBackend) -> None:
        first = memory_backend.add([_entry(f"fact {i}") for i in range(5)], _NOW)
        later = memory_backend.add([_entry("one more")], _NOW)
        assert [*first, *later] == sorted({*first, *later})
        assert memory_backend.add([], _NOW) == []

    def test_same_content_is_kept_once_per_scope(self, memory_backend: MemoryBackend) -> None:
        (first,) = memory_backend.add([_entry("likes tea", importance=0.3, metadata={"a": 1, "b": 1})], _NOW)
        again = memory_backend.add([_entry("likes tea", importance=0.6, entities=["Tea"], metadata={"b": 2})], _NOW)
        (other,) = memory_backend.add([_entry("likes tea", _BEN)], _NOW)
        assert again == [first] != [other]
        (entry,) = memory_backend.recent(_ANNA, _ALL, 10)
        assert (entry.importance, entry.metadata, entry.entities) == (0.6, {"a": 1, "b": 2}, ["Tea"])

    def test_a_subject_has_one_active_value_and_a_history(self, memory_backend: MemoryBackend) -> None:
        ids = [
            memory_backend.add([_entry(f"lives in {place}", subject="home")], _NOW + step)[0]
            for step, place in enumerate(("berlin", "rome", "oslo"))
        ]
        memory_backend.add([_entry("lives in paris", _BEN, subject="home")], _NOW)
        assert self._search(memory_backend, "berlin rome oslo paris") == ["lives in oslo"]
        for start in ids:
            versions = memory_backend.history(_ANNA, start)
            assert [e.id for e in versions] == ids
            assert [e.superseded_by for e in versions] == [ids[1], ids[2], None]
            assert [e.superseded_at for e in versions] == [_NOW + 1, _NOW + 2, None]
        assert memory_backend.history(_BEN, ids[0]) == []
        assert memory_backend.count(ScopeSelector.only(_ANNA)) == 1

    def test_supersede_by_id_stays_in_its_scope(self, memory_backend: MemoryBackend) -> None:
        (old,) = memory_backend.add([_entry("works at acme")], _NOW)
        with pytest.raises(MemoryInputError):
            memory_backend.supersede(old, _entry("works at evil", _BEN), _NOW)
        new = memory_backend.supersede(old, _entry("works at globex"), _NOW)
        with pytest.raises(MemoryInputError):
            memory_backend.supersede(old, _entry("works at initech"), _NOW)
        assert [e.id for e in memory_backend.history(_ANNA, new)] == [old, new]
        assert memory_backend.count(ScopeSelector.only(_BEN)) == 0

    # Finding

    def test_any_word_finds_and_more_words_rank_higher(self, memory_backend: MemoryBackend) -> None:
        memory_backend.add([_entry(f"project meeting number{i}") for i in range(10)], _NOW)
        memory_backend.add([_entry("zebra project"), _entry("unrelated remark")], _NOW)
        matches = memory_backend.search(_ANNA, ["zebra", "project"], _ALL, 30)
        assert matches[0].entry.content == "zebra project"
        assert len(matches) == 11
        scores = [match.text_score for match in matches]
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] > 0
        assert len(memory_backend.search(_ANNA, ["project"], _ALL, 3)) == 3
        assert memory_backend.search(_ANNA, [], _ALL, 3) == memory_backend.search(_ANNA, ["absent"], _ALL, 3) == []

    def test_recent_is_newest_first(self, memory_backend: MemoryBackend) -> None:
        memory_backend.add([_entry(f"{age} days", created_at=_NOW - age) for age in (5, 1, 3)], _NOW)
        assert _contents(memory_backend.recent(_ANNA, _ALL, 2)) == ["1 days", "3 days"]

    def test_entities_are_found_whole_and_by_importance(self, memory_backend: MemoryBackend) -> None:
        entries = [_entry("one", entities=["John  Smith"], importance=0.2), _entry("two", entities=["john smith"])]
        memory_backend.add(entries, _NOW)
        assert _contents(memory_backend.by_entity(_ANNA, "john smith", _ALL, 10)) == ["two", "one"]
        assert _contents(memory_backend.by_entity(_ANNA, "john smith", _ALL, 1)) == ["two"]
        assert memory_backend.by_entity(_ANNA, "john", _ALL, 10) == []
        assert memory_backend.by_entity(_BEN, "john smith", _ALL, 10) == []

    def test_filters(self, memory_backend: MemoryBackend) -> None:
        preference = _entry("tea preference", memory_type=MemoryType.PREFERENCE, importance=0.8)
        memory_backend.add([_entry("tea fact", importance=0.2), preference], _NOW)
        kinds = (MemoryType.PREFERENCE, MemoryType.EVENT)
        assert self._search(memory_backend, "tea", memory_types=kinds) == ["tea preference"]
        assert self._search(memory_backend, "tea", min_importance=0.5) == ["tea preference"]
        assert _contents(memory_backend.recent(_ANNA, ReadFilter(memory_types=kinds), 9)) == ["tea preference"]

    def test_a_watermark_keeps_its_moment(self, memory_backend: MemoryBackend) -> None:
        (kept,) = memory_backend.add([_entry("tea first", subject="drink")], _NOW)
        moment = memory_backend.watermark()
        assert moment >= kept
        (later,) = memory_backend.add([_entry("tea second", subject="drink")], _NOW + 1)
        memory_backend.add([_entry("tea third")], _NOW)
        assert later > moment
        assert self._search(memory_backend, "tea", as_of=moment) == ["tea first"]
        assert _contents(memory_backend.recent(_ANNA, ReadFilter(as_of=moment), 9)) == ["tea first"]
        assert memory_backend.count(_ANY, moment) == 1
        assert _contents(memory_backend.export(_ANY, moment, superseded=False)) == ["tea first"]
        assert [e.id for e in memory_backend.history(_ANNA, kept, moment)] == [kept]

    # Scopes

    def test_scopes_never_mix(self, memory_backend: MemoryBackend) -> None:
        values = (None, "", "a", "A", "a,b", '"', "null", "a ", "%", "ä", "a\u0308", "'; --")
        scopes = [Scope(u, a, r) for u in values for a in (None, "a") for r in (None, "b")]
        memory_backend.add([_entry(f"secret {i}", s, entities=["e"]) for i, s in enumerate(scopes)], _NOW)
        for i, scope in enumerate(scopes):
            assert self._search(memory_backend, "secret", scope) == [f"secret {i}"]
            assert _contents(memory_backend.recent(scope, _ALL, 99)) == [f"secret {i}"]
            assert _contents(memory_backend.by_entity(scope, "e", _ALL, 99)) == [f"secret {i}"]
        assert sorted(memory_backend.scopes(_ANY), key=lambda s: s.key) == sorted(scopes, key=lambda s: s.key)

    def test_hostile_words_find_nothing_of_others(self, memory_backend: MemoryBackend) -> None:
        memory_backend.add([_entry("the secret x s1", _BEN, entities=["secret"])], _NOW)
        (own,) = memory_backend.add([_entry("my own secret")], _NOW)
        for text in HOSTILE_TEXTS:
            words = re.findall(r"[^\W_]{1,48}", text.casefold())[:24]  # search is given plain words
            found = [m.entry.id for m in memory_backend.search(_ANNA, words, _ALL, 10)]
            key = " ".join(without_surrogates(text.replace("\0", "")).casefold().split())
            found += [e.id for e in memory_backend.by_entity(_ANNA, key, _ALL, 10)]
            assert set(found) <= {own}, text
        assert memory_backend.count(_ANY) == 2

    # Housekeeping

    def test_touching_counts_an_access(self, memory_backend: MemoryBackend) -> None:
        ids = memory_backend.add([_entry("tea"), _entry("coffee")], _NOW)
        memory_backend.touch(ids[:1], _NOW + 10)
        memory_backend.touch([], _NOW)
        counts = {e.content: (e.access_count, e.last_accessed) for e in memory_backend.recent(_ANNA, _ALL, 9)}
        assert counts == {"tea": (1, _NOW + 10), "coffee": (0, _NOW)}

    def test_prune_takes_what_meets_all_conditions(self, memory_backend: MemoryBackend) -> None:
        old: dict[str, Any] = {"created_at": _NOW - 60}
        entries = [
            _entry("old", importance=0.1, **{**old, "last_accessed": _NOW - 60}),
            _entry("important", importance=0.9, **{**old, "last_accessed": _NOW - 60}),
            _entry("young", importance=0.1),
            _entry("accessed", importance=0.1, **old),
        ]
        memory_backend.add(entries, _NOW)
        limits: dict[str, Any] = {"created_before": _NOW - 30, "importance_below": 0.5}
        assert memory_backend.prune(ScopeSelector.only(_BEN), **limits, accessed_before=None) == 0
        assert memory_backend.prune(_ANY, **limits, accessed_before=_NOW - 30) == 1
        assert {e.content for e in memory_backend.recent(_ANNA, _ALL, 9)} == {"important", "young", "accessed"}
        assert memory_backend.prune(_ANY, **limits, accessed_before=None) == 1
        assert self._search(memory_backend, "accessed old") == []

    def test_clear_takes_the_history_too(self, memory_backend: MemoryBackend) -> None:
        for place in ("rome", "oslo"):
            memory_backend.add([_entry(f"lives in {place}", subject="home")], _NOW)
        memory_backend.add([_entry("lives in bern", _BEN)], _NOW)
        assert memory_backend.clear(ScopeSelector(user_id="anna")) == 1
        assert _contents(memory_backend.export(_ANY, superseded=True)) == ["lives in bern"]
        assert memory_backend.clear(_ANY) == 1
        assert memory_backend.count(_ANY) == 0

    def test_ids_are_never_given_twice(self, memory_backend: MemoryBackend) -> None:
        before = memory_backend.add([_entry("a"), _entry("b")], _NOW)
        memory_backend.clear(_ANY)
        assert memory_backend.add([_entry("c")], _NOW)[0] > max(before)

    # Life

    def test_eight_threads_write_and_read_at_once(self, memory_backend: MemoryBackend) -> None:
        def work(worker: int) -> list[int]:
            ids = []
            for i in range(6):
                scope = Scope(f"user {i % 3}")
                ids += memory_backend.add([_entry(f"note {worker} {i}", scope)], _NOW)
                memory_backend.add([_entry("everyone says this", scope)], _NOW)
                memory_backend.add([_entry(f"mood {worker} {i}", scope, subject="mood")], _NOW)
                found = memory_backend.search(scope, ["note", "mood", "everyone"], _ALL, 99)
                assert all(match.entry.scope == scope for match in found)
            return ids

        with ThreadPoolExecutor(8) as threads:
            ids = [entry_id for found in threads.map(work, range(8)) for entry_id in found]
        assert len(set(ids)) == 48
        assert memory_backend.count(_ANY) == 48 + 3 + 3

    def test_closed_means_closed(self, memory_backend: MemoryBackend) -> None:
        memory_backend.close()
        memory_backend.close()
        with pytest.raises(MemoryStoreError):
            memory_backend.add([_entry("x")], _NOW)
