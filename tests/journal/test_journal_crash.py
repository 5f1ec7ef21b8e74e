"""kill -9 at any moment: what was acknowledged is there, what was not is absent or whole, and the run goes on."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from hyperfunc.journal import Journal

_WRITER = """
import asyncio, os, sys
import torch
from hyperfunc.calls import StoredCall
from hyperfunc.journal import Journal, fingerprint_data, fingerprint_program
from hyperfunc.parameters.theta import Theta
from hyperfunc.usage import Usage

NOTHING = {"config": {}, "program": fingerprint_program(), "data": fingerprint_data()}

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece: a line is there, or it is not

async def main():
    with Journal(sys.argv[1]) as journal:
        if journal.runs():
            point = await journal.resume_run("r", **NOTHING)
            run, generation = point.run, point.generation
            if generation:
                assert torch.equal(point.theta["w"], torch.full((64, 64), float(generation)))
                assert point.strategy_meta == {"generation": generation}
        else:
            run, generation = await journal.start_run("r", **NOTHING), 0
        store = journal.call_store(run)
        say("ready", os.getpid())
        while True:
            generation += 1
            async def call(index):
                key = f"{generation}.{index}"
                if await store.get(key) is None:
                    await store.put(StoredCall(key, "llm", {"reply": "x" * 2000}, Usage(calls=1)))
                    say("call", key)
            await asyncio.gather(*(call(index) for index in range(8)))
            await journal.record_generation(
                run, generation, theta=Theta({"w": torch.full((64, 64), float(generation))}),
                strategy_tensors={"m": torch.full((64, 64), -float(generation))},
                strategy_meta={"generation": generation}, spend={"f": Usage(calls=8)})
            say("generation", generation)

# A process that has imported everything forks the ones to be killed: ten imports of torch would take half a minute.
while sys.stdin.readline():
    child = os.fork()
    if child == 0:
        asyncio.run(main())
    os.waitpid(child, 0)
    say("dead")
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    moments = random.Random(20261121)
    acknowledged: list[str] = []
    command = [sys.executable, "-c", _WRITER, str(path)]
    # A group of their own, since the pipe stays open for as long as the writer lives.
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert server.stdin is not None
    assert server.stdout is not None
    printed = server.stdout

    def line_of_the_writer() -> str:
        line = printed.readline().rstrip("\n")
        assert line not in ("", "dead"), "the writer ended by itself"
        return line

    try:
        for _ in range(10):
            server.stdin.write("go\n")
            server.stdin.flush()
            child = int(line_of_the_writer().removeprefix("ready "))
            # The moment is a random number of lines and then a random number of spins, so that it falls anywhere.
            for _ in range(moments.randrange(0, 30)):
                acknowledged.append(line_of_the_writer())
            for _ in range(moments.randrange(0, 20_000)):
                pass
            os.kill(child, signal.SIGKILL)
            while (line := printed.readline().rstrip("\n")) != "dead":
                assert line, "the process that forks the writers ended by itself"
                acknowledged.append(line)
            _check(path, acknowledged)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()
    assert len(acknowledged) > 50
    calls = [line for line in acknowledged if line.startswith("call")]
    assert len(calls) == len(set(calls))  # nothing that was acknowledged was ever paid for again


def _check(path: Path, acknowledged: list[str]) -> None:
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()
    with Journal(path) as journal:
        assert journal.run("r").status == "interrupted"
        generations = journal.generations("r")
        keys = {call.key for call in journal.paid_calls("r")}
        assert {line.split()[1] for line in acknowledged if line.startswith("call")} <= keys
        numbers = [generation.number for generation in generations]
        assert numbers == list(range(1, len(numbers) + 1))
        assert {int(line.split()[1]) for line in acknowledged if line.startswith("generation")} <= set(numbers)
        for generation in generations[-2:]:
            assert generation.theta is not None
            theta = journal.load_theta(generation.theta)
            assert torch.equal(theta.tensors["w"], torch.full((64, 64), float(generation.number)))
            assert generation.spend["f"].calls == 8
