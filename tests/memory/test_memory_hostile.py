"""Queries that try to reach another user's memories, or to break the store. The benchmark runs 10 000 of them."""

from __future__ import annotations

import random
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperfunc.testing.hostile_texts import hostile_queries
from hyperfunc_memory import Memory, MemoryEntry, MemoryStoreError
from hyperfunc_memory.text import indexed_words, query_words, scoped_words

_WORDS = ["secret", "password", "Anna", "likes", "tea", "user 0", "czxsecret", "bzxtea"]


def test_500_hostile_queries_leak_nothing(store_url: str) -> None:
    users = [f"user {i}" for i in range(5)]
    choose = random.Random(1)
    with Memory(store_url) as memory:
        memory.add_many(
            [
                MemoryEntry(
                    content=f"{user} likes tea, secret password {i} of Anna", entities=["Anna", "secret"], user_id=user
                )
                for user in users
                for i in range(10)
            ]
        )
        found = 0
        for query in hostile_queries(500, _WORDS):
            user = choose.choice([*users, query[:512] or "nobody", None])
            with suppress(MemoryStoreError):
                for entry in [*memory.retrieve(query, user), *memory.get_by_entity(query, user)]:
                    assert entry.user_id == user
                    found += 1
        assert found > 100  # the queries do reach the entries of their own user
        assert memory.count() == 50


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=st.text(max_size=20), other=st.text(max_size=20), text=st.text(min_size=1, max_size=60), query=st.text())
def test_any_text_is_found_by_its_own_words_in_its_own_scope(user: str, other: str, text: str, query: str) -> None:
    with Memory() as memory, suppress(MemoryStoreError):
        entry_id = memory.add(MemoryEntry(content=text, user_id=user))
        memory.retrieve(query, user)
        if query_words(text):
            assert [e.id for e in memory.retrieve(text, user)] == [entry_id]
        if other != user:
            assert memory.retrieve(text, other) == memory.retrieve(query, other) == []


@given(st.text(), st.integers(1, 10**12), st.integers(1, 10**12))
def test_scoped_words_are_plain_and_never_those_of_another_scope(text: str, one: int, two: int) -> None:
    words = indexed_words(text)
    for word in words:
        assert word.isalnum() or all(not c.isspace() and c not in "\"'*():&|!" for c in word)
    mine, others = scoped_words(one, words), scoped_words(two, words)
    if one != two:
        assert not set(mine) & set(others)
    assert [word.removeprefix(mine[0][: -len(words[0])]) for word in mine] == words if words else mine == []
