"""kill -9 at random moments of optimizations with tensors, prompts and paid model calls: the run goes on, ends in the
bits and the texts of an uninterrupted one, and no call whose reply was kept is ever made again.

Ten moments in each run; one run in the ordinary suite, twenty with ``make reliability``. The model provider is a real
HTTP server in a process of its own, which survives all of this and counts. What is run: ``reliability_runner.py``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hyperfunc.journal import Journal
from hyperfunc.testing.llm_server import Rule, Script, ServerProcess

KILLS = 10
HANG_SECONDS = 120
STEPS = {"tensors": 12, "prompts": 5}
TEXTS = ["Answer.", "Answer. Be brief.", "Answer. Be brief. Be kind.", "Answer. Be brief. Be kind. Be exact."]
PROPOSALS = Script(
    tuple(
        Rule(contains=f"<current_text>\n{text}\n</current_text>", content=f"<new_text>{better}</new_text>")
        for text, better in zip(TEXTS, [*TEXTS[1:], f"{TEXTS[-1]} Now."], strict=True)
    )
)
"""How the server answers the model that writes prompts: a function of what it is asked, so that replies are equal."""


class Runner:
    """Forks processes that optimize, follows what they print, and kills them."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("reliability_runner.py")), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, program: str, seed: int, path: Path, kill: tuple[int, int] | None = None) -> tuple[list[str], int]:
        """Begin or resume a run in a new process, and wait until it is dead.

        Args:
            kill: (events, spins): that many events in, and that many turns of an idle loop in another thread later, the
                process kills itself by SIGKILL. A killer outside might come too late on a busy machine.

        Returns:
            What it printed, and how it ended: 0, or minus the signal's number.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"program": program, "seed": seed, "steps": STEPS[program], "path": str(path), "kill": kill}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        lines: list[str] = []
        # All of the group: the pipe stays open for as long as one of them lives.
        guard = threading.Timer(HANG_SECONDS, os.killpg, (self.process.pid, signal.SIGKILL))
        guard.start()
        try:
            for line in self.process.stdout:
                if line.startswith("dead"):
                    return lines, int(line.removeprefix("dead"))
                if line.strip():
                    lines.append(line.strip())
        finally:
            guard.cancel()
        raise AssertionError(f"the runner ended by itself, or hung for {HANG_SECONDS} s; its last lines: {lines[-5:]}")

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


@dataclass(frozen=True)
class Moment:
    """What was known when the run was killed.

    Attributes:
        asked: requests that the server had counted, by the text of their last message.
        echoes: those texts whose replies are in the journal; the server answers each with ``echo: <text>``.
        proposals: how many replies with a new text are in the journal.
    """

    asked: dict[str, int]
    echoes: set[str]
    proposals: int


def look(path: Path, server: ServerProcess) -> Moment:
    asked = server.prompts()
    if not path.exists():
        return Moment(asked, set(), 0)
    with Journal(path) as journal:
        rows = journal.read(lambda c: c.execute("SELECT result, times_paid FROM paid_calls").fetchall())
    assert {times for _, times in rows} <= {1}
    replies = [json.loads(result)["content"] for result, _ in rows]
    echoes = {reply.removeprefix("echo: ") for reply in replies if reply.startswith("echo: ")}
    return Moment(asked, echoes, sum(reply.startswith("<new_text>") for reply in replies))


def result_of(lines: list[str]) -> list[object]:
    return list(json.loads(next(line for line in lines if line.startswith("result")).removeprefix("result ")))


def is_proposal(text: str) -> bool:
    return "<current_text>" in text


RUNS = [
    ("prompts", 0),
    *(pytest.param("prompts", seed, marks=pytest.mark.reliability) for seed in range(1, 10)),
    *(pytest.param("tensors", seed, marks=pytest.mark.reliability) for seed in range(10)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("program", "seed"), RUNS)
def test_killed_at_ten_random_moments_a_run_ends_alike_and_pays_for_nothing_twice(
    program: str, seed: int, server: ServerProcess, runner: Runner, tmp_path: Path
) -> None:
    server.play(PROPOSALS)
    lines, _ = runner.run(program, seed, tmp_path / "whole.db")
    whole = result_of(lines)
    events, wanted = len(lines), set(server.prompts())
    _, finish_reason, steps, texts, kinds, _ = whole
    assert finish_reason == "completed"
    assert len(wanted) > 30
    if program == "prompts":
        assert texts == {"phrase.prompt": TEXTS[-1]}
        assert {"tensors", "texts"} == set(kinds)
    else:
        assert steps == STEPS[program]

    # A moment falls anywhere: between two events, inside a call, inside a commit. A run that ends before its next
    # moment makes room for another one.
    chosen = random.Random(seed)
    moments = [(chosen.randrange(1, events * 3 // 4), chosen.randrange(60_000)) for _ in range(KILLS)]
    killed: list[Moment] = []
    while moments:
        path = tmp_path / f"killed {len(moments)}.db"
        server.play(PROPOSALS)
        killed_here: list[Moment] = []
        ended = -signal.SIGKILL
        while ended == -signal.SIGKILL:
            lines, ended = runner.run(program, seed, path, moments[-1] if moments else None)
            if ended == -signal.SIGKILL:
                moments.pop()
                killed_here.append(look(path, server))
        assert ended == 0
        assert result_of(lines) == whole
        check_nothing_was_paid_twice(killed_here, look(path, server), wanted)
        check_journals_agree(path, tmp_path / "whole.db")
        killed += killed_here
    assert any(then.echoes for then in killed), "no kill came after a reply was kept"
    assert any(then.proposals for then in killed) == (program == "prompts")


def check_nothing_was_paid_twice(killed: list[Moment], end: Moment, wanted: set[str]) -> None:
    assert set(end.asked) == wanted
    assert end.echoes == {text for text in wanted if not is_proposal(text)}
    assert end.proposals == sum(map(is_proposal, wanted))
    for then in killed:
        repeated = {text for text, count in then.asked.items() if end.asked[text] != count}
        assert repeated & then.echoes == set()
        # A proposal does not say what was asked. But each that was asked for and not kept must be asked for again:
        # there are as many kept ones as were not asked for again only if none of the kept ones was.
        settled = {text for text in then.asked if is_proposal(text)} - repeated
        assert then.proposals == len(settled)


def check_journals_agree(path: Path, whole: Path) -> None:
    with Journal(path) as journal, Journal(whole) as other:
        assert journal.run("r").status == "finished"
        assert journal.best_theta("r") == other.best_theta("r")
        assert [g.number for g in journal.generations("r")] == [g.number for g in other.generations("r")]
        candidates = [(c.key, c.parents, c.verdict, c.texts) for c in journal.candidates("r")]
        assert candidates == [(c.key, c.parents, c.verdict, c.texts) for c in other.candidates("r")]
