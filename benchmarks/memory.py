"""How fast a memory of 100 000 entries and 100 users answers, and whether it ever answers with another user's entries.

    python benchmarks/memory.py [--entries 100000] [--users 100] [--queries 2000] [--hostile 10000] [--backend sqlite]

Both backends by default: SQLite in a temporary file, PostgreSQL on what ``hyperfunc.testing.postgres`` finds.
Contents are drawn from 20 000 made-up words whose frequencies fall as 1/rank, 12 a sentence; a query is a user's own
sentence with half of its words replaced by others. Times are those of the whole ``retrieve``, access counts included.
Prints one JSON object per backend; ends with status 1 if an entry leaked or a foreign error was raised.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from statistics import quantiles
from typing import Any

from hyperfunc.errors import HyperfuncError
from hyperfunc.testing.hostile_texts import hostile_queries
from hyperfunc.testing.postgres import fresh_schema, postgres_server
from hyperfunc_memory import Memory, MemoryEntry, MemoryType

_SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ka",
    "le",
    "mi",
    "no",
    "pu",
    "ra",
    "se",
    "ti",
    "vo",
    "zu",
    "han",
    "lor",
    "min",
    "wek",
)


class Texts:
    """Made-up sentences with a natural distribution of words."""

    def __init__(self, seed: int, vocabulary: int = 20_000) -> None:
        self._random = random.Random(seed)
        words: dict[str, None] = {}
        while len(words) < vocabulary:
            words["".join(self._random.choices(_SYLLABLES, k=self._random.randint(2, 4)))] = None
        self.words = list(words)
        self._cumulative = list(accumulate(1.0 / (rank + 1) for rank in range(vocabulary)))

    def sentence(self, length: int = 12) -> list[str]:
        return self._random.choices(self.words, cum_weights=self._cumulative, k=length)

    def query(self, sentence: list[str]) -> str:
        kept = self._random.sample(sentence, 3)
        return " ".join([*kept, *self.sentence(3)])


@contextmanager
def store(backend: str) -> Iterator[str]:
    """The URL of an empty store."""
    if backend == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "memory.db")
    else:
        with postgres_server() as server, fresh_schema(server) as url:
            yield url


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    cuts = quantiles(seconds, n=100)
    return {name: round(cuts[at] * 1e3, 3) for name, at in (("p50_ms", 49), ("p95_ms", 94), ("p99_ms", 98))}


def measure(backend: str, arguments: argparse.Namespace) -> dict[str, Any]:
    texts = Texts(arguments.seed)
    choose = random.Random(arguments.seed)
    users = [f"user {number}" for number in range(arguments.users)]
    sentences: dict[str, list[list[str]]] = {user: [] for user in users}
    kinds = list(MemoryType)
    now = time.time()
    entries: list[MemoryEntry] = []
    for number in range(arguments.entries):
        user = users[number % len(users)]
        sentences[user].append(texts.sentence())
        entries.append(
            MemoryEntry(
                content=" ".join(sentences[user][-1]),
                memory_type=choose.choice(kinds),
                entities=[sentences[user][-1][0].title()],
                importance=choose.random(),
                created_at=now - choose.random() * 365 * 86_400,
                user_id=user,
            )
        )
    with store(backend) as url, Memory(url) as memory:
        began = time.perf_counter()
        for start in range(0, len(entries), 5_000):
            memory.add_many(entries[start : start + 5_000])
        loading = time.perf_counter() - began

        seconds, found, missed = [], 0, 0
        for _ in range(arguments.queries):
            user = choose.choice(users)
            sentence = choose.choice(sentences[user])
            query = texts.query(sentence)
            began = time.perf_counter()
            results = memory.retrieve(query, user)
            seconds.append(time.perf_counter() - began)
            found += len(results)
            missed += " ".join(sentence) not in {entry.content for entry in results}

        adding = []
        for number in range(200):
            began = time.perf_counter()
            memory.add(MemoryEntry(content=f"added {number}", user_id=users[number % len(users)]))
            adding.append(time.perf_counter() - began)

        leaks, foreign, answers, hostile = 0, Counter[str](), 0, []
        for query in hostile_queries(arguments.hostile, [*users, *texts.words[:500]], arguments.seed):
            user = choose.choice([*users, query[:512] or "nobody"])
            began = time.perf_counter()
            try:
                results = memory.retrieve(query, user) + memory.get_by_entity(query, user)
            except HyperfuncError:
                results = []
            except Exception as error:  # counting foreign errors is what this is for
                foreign[type(error).__name__] += 1
                results = []
            hostile.append(time.perf_counter() - began)
            leaks += sum(entry.user_id != user for entry in results)
            answers += len(results)
        return {
            "backend": backend,
            "entries": arguments.entries,
            "users": arguments.users,
            "load_entries_per_second": round(len(entries) / loading),
            "retrieve": {"queries": arguments.queries, **percentiles(seconds), "results": found},
            "sought_entry_in_the_results": round(1 - missed / arguments.queries, 4),
            "add": {"calls": 200, **percentiles(adding)},
            "hostile": {
                "queries": arguments.hostile,
                "results": answers,
                "leaks": leaks,
                "foreign_errors": dict(foreign),
                **percentiles(hostile),
            },
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", choices=("sqlite", "postgres", "both"), default="both")
    arguments = parser.parse_args()
    failed = False
    for backend in ("sqlite", "postgres") if arguments.backend == "both" else (arguments.backend,):
        report = measure(backend, arguments)
        print(json.dumps(report))
        failed |= bool(report["hostile"]["leaks"] or report["hostile"]["foreign_errors"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
