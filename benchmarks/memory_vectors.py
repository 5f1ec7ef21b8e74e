"""How long it takes to find the nearest memories of one scope, by numpy and by an extension of the database.

    python benchmarks/memory_vectors.py [--entries 10000 100000] [--dimensions 384] [--searches 15] [--backend sqlite]

Both backends by default: SQLite in a temporary file, PostgreSQL on what ``hyperfunc.testing.postgres`` finds, whose
database must have pgvector to be compared. Vectors are drawn from a normal distribution; the search is exact, so that
it does not matter which. Both ways run in turn in one process, on the same store; what is timed is the whole search,
entries included. Prints one JSON object per backend and size; ends with status 1 if the two ways find different ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psycopg

from hyperfunc.testing.postgres import fresh_schema, postgres_server
from hyperfunc_memory import Memory, MemoryEntry
from hyperfunc_memory.backend import ReadFilter
from hyperfunc_memory.embedding import Meaning

_LIMIT = 50  # what Memory.retrieve ranks


@contextmanager
def store(backend: str) -> Iterator[str]:
    if backend == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "memory.db")
        return
    with postgres_server() as server, fresh_schema(server) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        yield url


def measure(url: str, backend: str, entries: int, dimensions: int, searches: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)

    def embed(texts: list[str]) -> np.ndarray:
        return generator.normal(size=(len(texts), dimensions)).astype(np.float32)

    with Memory(url, embed=embed, vector_search="extension") as memory:
        began = time.perf_counter()
        for start in range(0, entries, 1000):
            memory.add_many([MemoryEntry(content=f"memory {n}") for n in range(start, min(start + 1000, entries))])
        filled = time.perf_counter() - began
        if backend == "postgres":  # as autovacuum does within a minute of such a load; plans are poor before
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("ANALYZE")
        assert memory.vector_search is not None
        name = memory.vector_search.name
        scope, query = MemoryEntry().scope, generator.normal(size=(1, dimensions))
        # Cosines of random vectors have deviation dimensions**-½; one entry in a hundred counts as found.
        least = 2.33 / dimensions**0.5
        ways = {way: Meaning(lambda _: query, "default", least, way) for way in ("numpy", "extension")}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        found: dict[str, list[Any]] = {}
        for _ in range(searches):
            for way, meaning in ways.items():
                began = time.perf_counter()
                found[way] = meaning.neighbours(memory.backend, "query", scope, ReadFilter(), _LIMIT)
                seconds[way].append(time.perf_counter() - began)
    return {
        "backend": backend,
        "entries": entries,
        "dimensions": dimensions,
        "seconds to add": round(filled, 2),
        "numpy ms": round(1000 * median(seconds["numpy"]), 1),
        f"{name} ms": round(1000 * median(seconds["extension"]), 1),
        "ratio": round(median(seconds["numpy"]) / median(seconds["extension"]), 2),
        "same": found["numpy"] == found["extension"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--searches", type=int, default=15)
    parser.add_argument("--backend", choices=["sqlite", "postgres"])
    arguments = parser.parse_args()
    same = True
    for backend in [arguments.backend] if arguments.backend else ["sqlite", "postgres"]:
        for entries in arguments.entries:
            with store(backend) as url:
                row = measure(url, backend, entries, arguments.dimensions, arguments.searches)
            print(json.dumps(row), flush=True)
            same = same and row["same"]
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
