"""Texts that a query language, a pattern or an encoder could stumble over. Knows nothing of what reads them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

__all__ = ["HOSTILE_TEXTS", "hostile_queries"]

HOSTILE_TEXTS = (
    "",
    " ",
    "'",
    '"',
    '""',
    '"secret',
    "'secret'; DROP TABLE memory_entries; --",
    "secret' OR '1'='1",
    "secret) OR 1=1 --",
    "secret*",
    "*",
    "%",
    "_",
    "%secret%",
    "secret OR x",
    "secret AND NOT x",
    "NOT secret",
    "NEAR(secret x, 5)",
    "^secret",
    "scope:s1",
    "scope : s1 OR secret",
    "{scope content}: secret",
    "content:secret",
    "- secret",
    "secret:*",
    "!secret",
    "secret & x | y <-> z",
    "\\",
    "\\'",
    "secret\0x",
    "\0",
    "\ud800",
    "secret \udfff",
    "🙂",
    "secret 🙂‍🔥",
    "ѕесret",
    "s1 s2 s3 @1 @2 '@1'",
    "((((((((((((((((",
    "secret " * 2_000,
    "$$secret$$",
    "%s %(words)s ? :a {condition}",
    "\u202esecret\u202c",
    "秘密",
    "сек\u0301рет",
    "or",
    "the of and",
)
"""Texts that a query language, a pattern or an encoder could stumble over."""


def hostile_queries(count: int, words: Sequence[str], seed: int = 0) -> Iterator[str]:
    """``count`` texts put together at random from :data:`HOSTILE_TEXTS`, single odd characters and ``words``.

    One in 400 is a million characters long.
    """
    choose = random.Random(seed)
    for number in range(count):
        parts: list[str] = []
        for _ in range(choose.randint(1, 6)):
            kind = choose.random()
            if kind < 0.4:
                parts.append(choose.choice(HOSTILE_TEXTS)[:60])
            elif kind < 0.7:
                parts.append(choose.choice(words))
            else:
                parts.append(
                    chr(choose.choice((choose.randrange(0x20), choose.randrange(0x250), choose.randrange(0x110000))))
                )
        text = choose.choice(("", " ", '"', "'", "*")).join(parts)
        yield (text + " ") * (1_000_000 // (len(text) + 1)) if number % 400 == 399 else text
