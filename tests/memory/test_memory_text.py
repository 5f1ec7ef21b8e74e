"""Words: what is indexed and searched."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from hyperfunc_memory.text import content_hash, entity_key, indexed_words, query_words, scoped_words

_ENGLISH = (
    "running runs ran easily connections connected connecting relational conditional hopping hoped agreed feed"
    " happy happiness sky skies flies flying type typed nationality operator dies caresses ponies cats bled sing"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, WORLD!", ["hello", "world"]),
        ("don't I'll the and", []),
        ("snake_case and-hyphen 3.5", ["snake", "case", "hyphen", "3", "5"]),
        ("Crème Brûlée ﬁne ½", ["creme", "brulee", "fine", "1", "2"]),
        ("喝茶", ["喝", "茶"]),
        ("한국 tea茶", ["한", "국", "tea", "茶"]),
        ("\0\ud800🙂", []),
        ("x" * 100, ["x" * 48]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert indexed_words(text) == words
    assert query_words(text) == words


def test_queries_are_bounded() -> None:
    assert query_words("tea " * 1_000_000) == ["tea"]
    assert len(query_words(" ".join(f"w{i}" for i in range(10_000)))) == 24
    assert len(indexed_words("ab " * 1_000_000)) == 33_333


def test_a_scope_in_front_does_not_change_how_english_is_stemmed() -> None:
    """The porter stemmer of FTS5 gives prefix + stem for prefix + word, for every digit that a prefix can hold."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE t USING fts5(x, tokenize = 'porter unicode61')")
        connection.execute("CREATE VIRTUAL TABLE v USING fts5vocab(t, 'row')")

        def stem(word: str) -> str:
            connection.execute("DELETE FROM t")
            connection.execute("INSERT INTO t VALUES (?)", (word,))
            (found,) = connection.execute("SELECT term FROM v").fetchone()
            return str(found)

        for word in _ENGLISH.split():
            for scope in (1, 0xFEDCBA9876543210):
                (scoped,) = scoped_words(scope, [word])
                assert stem(scoped) == scoped_words(scope, [stem(word)])[0], word


def test_keys() -> None:
    assert entity_key("  John\tSMITH ") == entity_key("john smith") == "john smith"
    assert entity_key("Zoë") == entity_key("ZOE")
    assert entity_key("Jo") != entity_key("John")
    assert content_hash("A  b\n") == content_hash("a B") != content_hash("ab")
    assert content_hash("") != content_hash("x")
