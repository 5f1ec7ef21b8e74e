"""kill -9 at random moments of optimizations with tensors and paid model calls: the run goes on, ends in the bits of an
uninterrupted one, and no call whose reply was kept is ever made again.

Ten moments in each run; one run in the ordinary suite, ten with ``make reliability``. The model provider is a real HTTP
server in a process of its own, which survives all of this and counts.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperfunc.journal import Journal
from hyperfunc.testing.llm_server import Script, ServerProcess

KILLS = 10
STEPS = 12

_RUNNER = """
import asyncio, json, os, signal, sys, threading, traceback
import torch
from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc_llm import Endpoint, llm_completion

@hyperfunction(hp_type=LoRAWeight.create(2, 3, 1), optimize_hparams=True)
async def choose(x, hp):
    return hp.weight @ x

class Asking(HyperSystem):
    async def run(self, x, word):
        scores = await choose(x)
        level = int((scores[0] * 8).round())
        print("call", flush=True)
        endpoint = Endpoint(base_url=sys.argv[1], transport="direct")
        reply = await llm_completion("openai/loopback", f"{word} {level}", temperature=0.0, endpoint=endpoint)
        print("reply", flush=True)
        return float(scores[1]) + len(reply.content) / 10

async def main(seed, steps, path):
    generator = torch.Generator().manual_seed(seed)
    words = ("to", "be", "or", "not")
    data = [Example({"x": torch.randn(3, generator=generator), "word": word}, 3.0) for word in words]
    optimizer = ESHybridSystemOptimizer(pop_size=8, sigma=0.3, lr=0.1)
    result = await Asking(system_optimizer=optimizer).optimize(
        data[:3], "numeric-distance", data[3:], minibatch=2, seed=seed, steps=steps, only="choose",
        run="r", journal=path, resume=True, callbacks=[lambda view: print("generation", flush=True)])
    print("result", json.dumps([result.theta.content_hash, result.finish_reason, len(result.history)]), flush=True)

class Deadly:
    # Standard output that kills its process: the program itself must be the same in every process.

    def __init__(self, stream, after, spins):
        self.stream, self.after, self.spins = stream, after, spins

    def write(self, text):
        self.stream.write(text)

    def flush(self):
        self.stream.flush()
        self.after -= 1
        if self.after == 0:
            threading.Thread(target=self.kill).start()

    def kill(self):
        for _ in range(self.spins):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

# A process that has imported everything forks the ones to be killed: a hundred imports of torch would take minutes.
while line := sys.stdin.readline():
    child = os.fork()
    if child == 0:
        order = json.loads(line)
        after_and_spins = order.pop("kill")
        if after_and_spins is not None:
            sys.stdout = Deadly(sys.stdout, *after_and_spins)
        try:
            asyncio.run(main(**order))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print("dead", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Runner:
    """Forks processes that optimize, follows what they print, and kills them."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RUNNER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, seed: int, path: Path, kill: tuple[int, int] | None = None) -> tuple[list[str], int]:
        """Begin or resume a run in a new process, and wait until it is dead.

        Args:
            kill: (events, spins): that many events in, and that many turns of an idle loop in another thread later, the
                process kills itself by SIGKILL. A killer outside might come too late on a busy machine.

        Returns:
            What it printed, and how it ended: 0, or minus the signal's number.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"seed": seed, "steps": STEPS, "path": str(path), "kill": kill}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        lines: list[str] = []
        while line := self.process.stdout.readline().rstrip("\n"):
            if line.startswith("dead"):
                return lines, int(line.removeprefix("dead"))
            lines.append(line)
        raise AssertionError("the runner ended by itself")

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


@pytest.fixture(scope="module")
def runner(server: ServerProcess) -> Iterator[Runner]:
    running = Runner(server.base_url)
    yield running
    running.close()


def kept_prompts(path: Path) -> set[str]:
    """The prompts whose replies are in the journal: the server answers each with ``echo: <prompt>``."""
    if not path.exists():
        return set()
    with Journal(path) as journal:
        rows = journal.read(lambda c: c.execute("SELECT result, times_paid FROM paid_calls").fetchall())
    assert {times for _, times in rows} <= {1}
    return {json.loads(result)["content"].removeprefix("echo: ") for result, _ in rows}


def result_of(lines: list[str]) -> list[object]:
    return list(json.loads(next(line for line in lines if line.startswith("result")).removeprefix("result ")))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.reliability) for s in range(1, 10))])
def test_killed_at_ten_random_moments_a_run_ends_in_the_same_bits_and_pays_for_nothing_twice(
    seed: int, server: ServerProcess, runner: Runner, tmp_path: Path
) -> None:
    server.play(Script())
    lines, _ = runner.run(seed, tmp_path / "whole.db")
    whole = result_of(lines)
    events, prompts = len(lines), set(server.prompts())
    assert whole[1:] == ["completed", STEPS]
    assert len(prompts) > 30

    server.play(Script())
    path = tmp_path / "killed.db"
    moments = random.Random(seed)
    kept_when_killed: list[dict[str, int]] = []
    while len(kept_when_killed) < KILLS:
        # The moment falls anywhere: between two events, inside a call, inside a commit.
        moment = moments.randrange(1, events // (2 * KILLS)), moments.randrange(60_000)
        _, ended = runner.run(seed, path, moment)
        assert ended == -signal.SIGKILL
        counts = server.prompts()
        kept_when_killed.append({prompt: counts[prompt] for prompt in kept_prompts(path)})

    lines, _ = runner.run(seed, path)
    assert result_of(lines) == whole
    counts = server.prompts()
    repeated = {p: (then, counts[p]) for kept in kept_when_killed for p, then in kept.items() if counts[p] != then}
    assert repeated == {}
    assert set(counts) == prompts
    assert kept_prompts(path) == prompts
    assert kept_when_killed[-1], "no kill came after a reply was kept"
    with Journal(path) as journal, Journal(tmp_path / "whole.db") as other:
        assert journal.run("r").status == "finished"
        assert journal.best_theta("r") == other.best_theta("r")
        assert [g.number for g in journal.generations("r")] == list(range(STEPS + 1))
