"""Prompt learning killed in the middle (SIGKILL) and taken up from its journal: are calls paid for twice?

    python -m benchmarks.prompts.killed --kills 5

One run goes through undisturbed. Another, in the same world, is killed each time the provider has counted so many
further requests, and resumed, until it ends. Both must end with the same texts; the provider counts how many requests
it had answered before. At most those that were in flight at a kill may come again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import ROOT
from benchmarks.prompts.contenders import OURS, TRAIN, VALIDATION, WorldScorer, connected, examples, program
from benchmarks.prompts.simulated import SimulatedProvider, running
from benchmarks.prompts.worlds import World

__all__ = ["compare", "take_up"]

CONCURRENCY = 4


async def take_up(url: str, world: World, owner: str, journal: Path) -> dict[str, str]:
    """Begin or resume the run in ``journal``; the learned texts."""
    async with connected(url, world, owner):
        system = program(world)
        system.prompt_optimizer = OURS["prompt-learning"](concurrency=CONCURRENCY, seed=world.seed)
        train, validation = examples(world, "train", TRAIN), examples(world, "validation", VALIDATION)
        await system.optimize(train, WorldScorer(world), validation, run="killed", resume=True, journal=journal)
    return {name.removesuffix(".prompt"): str(text) for name, text in system.theta.texts.items()}


def _start(provider: SimulatedProvider, world: World, owner: str, journal: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.prompts.killed", "--take-up", provider.url]
    command += [world.family, str(world.seed), owner, str(journal)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def compare(provider: SimulatedProvider, world: World, kills: int, every: int) -> dict[str, object]:
    """Both runs in one world."""
    with tempfile.TemporaryDirectory() as folder:
        whole, _ = _start(provider, world, "whole", Path(folder) / "whole.db").communicate(timeout=300)
        done = 0
        for kill in range(kills):
            process = _start(provider, world, "killed", Path(folder) / "killed.db")
            limit = time.monotonic() + 120
            while provider.counts(world, "killed").calls < (kill + 1) * every and process.poll() is None:
                if time.monotonic() > limit:
                    break
                time.sleep(0.001)
            done += process.poll() is None
            process.kill()
            process.communicate()
        end, _ = _start(provider, world, "killed", Path(folder) / "killed.db").communicate(timeout=300)
    first, second = provider.counts(world, "whole"), provider.counts(world, "killed")
    return {
        "family": world.family,
        "seed": world.seed,
        "kills": done,
        "same texts": json.loads(whole) == json.loads(end),
        "calls undisturbed": first.calls,
        "calls killed": second.calls,
        "paid twice": second.repeated - first.repeated,
        "in flight at most": done * CONCURRENCY,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--every", type=int, default=30, help="requests between two kills")
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--take-up", nargs=5, metavar=("URL", "FAMILY", "SEED", "OWNER", "JOURNAL"))
    arguments = parser.parse_args()
    if arguments.take_up:
        url, family, seed, owner, journal = arguments.take_up
        print(json.dumps(asyncio.run(take_up(url, World(family, int(seed)), owner, Path(journal)))))
        return
    with running() as provider:
        for family in ("additive", "conflicting"):
            for seed in range(200, 200 + arguments.worlds):
                print(json.dumps(compare(provider, World(family, seed), arguments.kills, arguments.every)), flush=True)


if __name__ == "__main__":
    main()
