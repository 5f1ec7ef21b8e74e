"""What is acknowledged stays: processes that are killed, processes that write at once, and a process that forks."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sqlite3
import subprocess
import sys

import pytest

from hyperfunc_memory import Memory, MemoryEntry, MemoryStoreError, RetrievalWeights

_WRITER = """
import sys
from hyperfunc_memory import Memory, MemoryEntry
assert "torch" not in sys.modules, "opening a memory must stay light"
url, worker, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
memory = Memory(url)
for number in range(count):
    entry = MemoryEntry(content=f"acknowledged {worker} {number}", entities=[f"N{number}"], user_id="u")
    entry_id = memory.add(entry)
    memory.add(MemoryEntry(content=f"state {worker} {number}", subject="state", user_id="u"))
    print(entry_id, number, flush=True)
"""


def start_writer(url: str, worker: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, url, str(worker), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_kill_9_loses_no_acknowledged_entry(store_url: str) -> None:
    with start_writer(store_url, 0, 10**9) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(25)]
        writer.send_signal(signal.SIGKILL)
        lines += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert writer.returncode == -signal.SIGKILL
    acknowledged = [tuple(map(int, line.split())) for line in lines]
    assert len(acknowledged) >= 25
    with Memory(store_url) as memory:
        for entry_id, number in acknowledged:
            (entry,) = memory.get_by_entity(f"n{number}", "u")
            assert (entry.id, entry.content) == (entry_id, f"acknowledged 0 {number}")
            assert entry_id in {e.id for e in memory.retrieve(f"acknowledged {number}", "u", limit=5)}
        found = memory.retrieve("state", "u", limit=100)
        assert len(found) == 1  # never two active values, never none: supersession is one transaction
        memory.add(MemoryEntry(content="the store still takes entries", user_id="u"))
    if not store_url.startswith("postgres"):
        with sqlite3.connect(store_url) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            connection.execute("INSERT INTO memory_search (memory_search) VALUES ('integrity-check')")
        connection.close()


@pytest.mark.slow
def test_eight_processes_write_at_once(store_url: str) -> None:
    writers = [start_writer(store_url, worker, 10) for worker in range(8)]
    acknowledged = 0
    for writer in writers:
        out, _ = writer.communicate(timeout=120)
        assert writer.returncode == 0
        acknowledged += len(out.splitlines())
    assert acknowledged == 80
    with Memory(store_url) as memory:
        assert memory.count("u") == 80 + 1
        assert len({entry.content for entry in memory.get_all("u", include_superseded=True)}) == 160
        assert len(memory.history(memory.get_all("u")[0].id or 0, "u")) >= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_shared_store_is_usable_after_fork_and_a_private_one_is_not(store_url: str) -> None:
    with Memory(store_url) as memory, Memory() as private:
        memory.add(MemoryEntry(content="before"))
        asyncio.run(memory.acount())  # threads and connections are there when the child is born
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(memory.aadd(MemoryEntry(content="in the child")))
                assert memory.count() == 2
                with pytest.raises(MemoryStoreError, match="fork"):
                    private.count()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert {entry.content for entry in memory.get_all()} == {"before", "in the child"}


def test_a_shared_store_travels_by_its_url(store_url: str) -> None:
    with Memory(store_url, retrieval_limit=1, weights=RetrievalWeights(text=0.5)) as memory:
        memory.add_many([MemoryEntry(content="tea one"), MemoryEntry(content="tea two")])
        with pickle.loads(pickle.dumps(memory)) as other:
            assert other.weights == memory.weights
            assert len(other.retrieve("tea")) == 1
        with memory.snapshot() as view, pytest.raises(MemoryStoreError, match="own process"):
            pickle.dumps(view)
    with Memory() as private, pytest.raises(MemoryStoreError, match="own process"):
        pickle.dumps(private)
