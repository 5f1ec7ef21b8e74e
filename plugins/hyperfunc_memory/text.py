"""From any text to the words that are indexed and searched; the same for every backend.

Text is reduced to plain words *before* a database sees it: no quote, operator or wildcard is left that a query language
could read as its own. Case and accents are folded; Han, Kana and Hangul characters are words of their own, since these
scripts do not put spaces between words. Stemming is the database's (English). Knows nothing of any query language.

Every word is indexed with its scope in front of it (:func:`scoped_words`): the "tea" of two scopes are two words to the
index. A search reads its own scope's postings only, whatever else the database holds, and the document
frequencies by which matches are scored are those of the scope. The scope is written in consonants: English stemmers
look at vowels, and a run of consonants in front of a word does not change how it is stemmed.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["content_hash", "entity_key", "indexed_words", "query_words", "scoped_words"]

_IDEOGRAPH = "\u2e80-\u2fdf\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_IDEOGRAPH}]|[^\\W_{_IDEOGRAPH}]+")
_LATIN_ACCENT = re.compile("[\u0300-\u036f]")
_MAX_WORD_CHARACTERS = 48
_MAX_INDEXED_CHARACTERS = 100_000  # PostgreSQL refuses a tsvector above 1 MiB
_MAX_QUERY_CHARACTERS = 4_096
_MAX_QUERY_WORDS = 24
_DIGITS = "bcdfghjklmnpqrst"  # no z: it ends the number
_MAX_ENTITY_CHARACTERS = 512  # of at most 4 bytes: PostgreSQL indexes at most 2 704
# What remains of "don't" or "I'll" when it is cut at the apostrophe is in here too.
_STOP_WORDS_TEXT = """
a about above after again against all am an and any are as at be because been before being below between both
but by can could d did do does doing don down during each few for from further had has have having he her here hers
herself him himself his how i if in into is it its itself just ll m me more most my myself no nor not now of off on
once only or other our ours ourselves out over own re s same she should so some such t than that the their theirs
them themselves then there these they this those through to too under until up ve very was we were what when where
which while who whom why will with would you your yours yourself yourselves
"""
_STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())


def _folded(text: str) -> str:
    # NFC last: it puts Hangul syllables, which NFKD takes apart, together again.
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", _LATIN_ACCENT.sub("", decomposed))


def _words(text: str) -> list[str]:
    # Folding can make a text 18 times as long, so it is cut once more.
    return [word[:_MAX_WORD_CHARACTERS] for word in _WORD.findall(_folded(text)[:_MAX_INDEXED_CHARACTERS])]


def indexed_words(text: str) -> list[str]:
    """The words of the first 100 000 characters of ``text``, in order, without stop words."""
    return [word for word in _words(text[:_MAX_INDEXED_CHARACTERS]) if word not in _STOP_WORDS]


def query_words(query: str) -> list[str]:
    """At most 24 distinct words of the first 4 096 characters of ``query``, without stop words; may be empty."""
    words = dict.fromkeys(_words(query[:_MAX_QUERY_CHARACTERS]))
    return [word for word in words if word not in _STOP_WORDS][:_MAX_QUERY_WORDS]


def scoped_words(scope_id: int, words: Iterable[str]) -> list[str]:
    """``words`` as the index knows them in the scope with the number ``scope_id``: ``tea`` is ``czxtea`` in scope 1."""
    prefix = "".join(_DIGITS[int(digit, 16)] for digit in f"{scope_id:x}") + "zx"
    return [prefix + word for word in words]


def entity_key(name: str) -> str:
    """What two spellings of one entity share: case, accents and runs of blanks do not count."""
    folded = " ".join(_folded(name[:_MAX_ENTITY_CHARACTERS]).replace("\0", "").split())
    return folded[:_MAX_ENTITY_CHARACTERS].encode("utf-8", "replace").decode()


def content_hash(content: str) -> str:
    """SHA-256 (hex) of ``content`` without regard to case, width and blanks: the key by which duplicates are found."""
    normalized = " ".join(unicodedata.normalize("NFKC", content).casefold().split())
    return hashlib.sha256(normalized.encode()).hexdigest()
