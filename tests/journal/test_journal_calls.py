"""Paid calls in the journal: kept before they are seen, never blocking the loop, many to a commit."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hyperfunc.calls import CallStore, StoredCall
from hyperfunc.errors import JournalError
from hyperfunc.journal import Journal, fingerprint_data, fingerprint_program
from hyperfunc.journal.worker import DatabaseWorker
from hyperfunc.usage import Usage

NOTHING: dict[str, Any] = {"config": {}, "program": fingerprint_program(), "data": fingerprint_data()}


async def test_a_call_comes_back_as_it_was_put(tmp_path: Path) -> None:
    result = {"text": "grüß dich \ud800 \x00", "n": [1, 2.5, None, True]}
    call = StoredCall("k", "llm", result, Usage(calls=1, usd=0.1), 3.0)
    with Journal(tmp_path / "journal.db") as journal:
        store: CallStore = journal.call_store()
        assert await store.get("k") is None
        await store.put(call)
        assert await store.get("k") == call
    with Journal(tmp_path / "journal.db") as journal:
        assert await journal.call_store().get("k") == call


async def test_the_first_result_stays_and_every_payment_counts(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        run = await journal.start_run("r", **NOTHING)
        store = journal.call_store(run)
        await store.put(StoredCall("k", "llm", "first", Usage(calls=1, usd=0.1)))
        await store.put(StoredCall("k", "llm", "second", Usage(calls=1, usd=0.2)))
        kept = await store.get("k")
        assert kept is not None
        assert kept.result == "first"
        assert kept.usage.calls == 2
        (paid,) = journal.paid_calls("r")
        assert paid.usage == kept.usage


async def test_results_are_shared_between_runs_unless_asked_otherwise(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        one = await journal.start_run("one", **NOTHING)
        two = await journal.start_run("two", **NOTHING)
        await journal.call_store(one).put(StoredCall("k", "llm", 1))
        assert await journal.call_store(two).get("k") is not None
        own = journal.call_store(two, share=False)
        assert await own.get("k") is None
        await own.put(StoredCall("k", "llm", 2))
        assert (await own.get("k")).result == 2  # type: ignore[union-attr]
        assert (await journal.call_store(one).get("k")).result == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("result", [object(), (1, 2), {"x": (1,)}, {1: "a"}, {"a", "b"}, b"bytes"])
async def test_what_would_not_come_back_the_same_is_refused(tmp_path: Path, result: object) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        with pytest.raises(JournalError, match="'tool' call"):
            await journal.call_store().put(StoredCall("k", "tool", result))
        assert await journal.call_store().get("k") is None


async def test_concurrent_calls_share_commits(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        store = journal.call_store()
        before = journal._writer.commits
        await asyncio.gather(*(store.put(StoredCall(f"k{i}", "llm", i)) for i in range(500)))
        assert journal._writer.commits - before < 100
        results = await asyncio.gather(*(store.get(f"k{i}") for i in range(500)))
        assert [call.result for call in results if call] == list(range(500))


async def test_the_loop_runs_while_the_file_is_locked_by_another_process(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        other = sqlite3.connect(journal.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        putting = asyncio.create_task(journal.call_store().put(StoredCall("k", "llm", 1)))
        for _ in range(200):
            await asyncio.sleep(0)
        assert not putting.done()
        assert await journal.call_store().get("k") is None  # readers do not wait for writers
        other.execute("COMMIT")
        other.close()
        await asyncio.wait_for(putting, 30)


async def test_a_cancelled_put_is_kept_all_the_same(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        other = sqlite3.connect(journal.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        putting = asyncio.create_task(journal.call_store().put(StoredCall("k", "llm", 1)))
        await asyncio.sleep(0)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        other.execute("COMMIT")
        other.close()
        await journal.call_store().put(StoredCall("later", "llm", 1))
        assert await journal.call_store().get("k") is not None


def test_loops_in_several_threads_use_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:

        async def work(name: str) -> None:
            store = journal.call_store()
            await asyncio.gather(*(store.put(StoredCall(f"{name}{i}", "llm", i)) for i in range(50)))

        threads = [threading.Thread(target=lambda n=str(t): asyncio.run(work(n))) for t in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.read(lambda c: c.execute("SELECT count(*) FROM paid_calls").fetchone()) == (200,)


def test_two_writers_of_one_file_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    async def work(journal: Journal, name: str) -> None:
        run = await journal.start_run(name, **NOTHING)
        for index in range(40):
            await journal.call_store(run).put(StoredCall(f"{name}{index}", "llm", index))

    with Journal(path) as one, Journal(path) as other:  # two connections, as two processes would have
        threads = [
            threading.Thread(target=lambda j=j, n=n: asyncio.run(work(j, n)))
            for j, n in ((one, "one"), (other, "other"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(one.paid_calls("one")) == len(one.paid_calls("other")) == 40
        assert [run.status for run in one.runs()] == ["running", "running"]


def test_a_job_that_takes_the_connection_down_leaves_nobody_waiting() -> None:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)

    def breaks(connection: sqlite3.Connection) -> None:
        connection.close()

    worker = DatabaseWorker(connect, writes=True, name="test")
    try:
        for job in (breaks, breaks):  # the second comes to a connection that is closed already
            with pytest.raises(JournalError, match="could not be written"):
                worker.call(job)
    finally:
        worker.close()


_READER = """
import os, signal, sys, traceback
from hyperfunc.journal import Journal

def say(line):
    os.write(1, (line + "\\n").encode())  # in one piece; an unbuffered print may be cut by the other one's

def read():
    with Journal(sys.argv[1], create=False) as journal:
        seen = -1
        say("ready")
        while seen < 60:
            count, highest = journal.read(
                lambda c: c.execute("SELECT count(*), max(sequence) FROM paid_calls").fetchone()
            )
            assert count >= seen and (count == 0 or count == highest), (count, highest)
            seen = count
            journal.runs()
    say("done")

os.fork()  # two readers for one import of torch
signal.alarm(120)  # nobody waits for them any more
try:
    read()
except BaseException:
    say(traceback.format_exc().replace("\\n", " | "))
"""


def test_two_processes_read_while_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    async def write(journal: Journal) -> None:
        await journal.start_run("r", **NOTHING)
        for i in range(60):
            await journal.call_store().put(StoredCall(f"k{i}", "llm", i))

    with Journal(path) as journal:
        # A group of their own, since the pipe stays open for as long as one of the two lives.
        command = [sys.executable, "-c", _READER, str(path)]
        readers = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert readers.stdout is not None
            assert [readers.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
            asyncio.run(write(journal))
            assert readers.stdout.read() == "done\ndone\n"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(readers.pid, signal.SIGKILL)
            readers.communicate()
