"""Agents that play: generations to solve CartPole, wall clock beside EvoTorch's GymNE, environment steps per second.

    python -m benchmarks.game [--seeds 10] [--peer-seeds 3] [--repeats 5]

EvoTorch runs in an environment of its own (``HYPERFUNC_BENCH_PEERS``), in turn with ours: same population, same
episodes per member, same network, PGPE on both sides with the settings that each was found to learn well with. Compared
are the wall clock of a whole run (to a population mean above 475, or 25 generations) and, since the two learn at
different speeds, that of an environment step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import PEER_PACKAGES, PEERS, python_of
from demos.game_agent.agents import GAMES, train
from hyperfunc import AgentType, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc.plugins import current_plugins, load_plugins, use_plugins
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.members import DenseMembers
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc_agents import episodes, plugin

SOLVED = GAMES["cartpole"].solved
EPISODES = GAMES["cartpole"].episodes
MOST_GENERATIONS = 25
HERE = Path(__file__).parent


def ours(seed: int) -> dict[str, Any]:
    """One training of the demonstration's agent: what it took, including the proof and the selection."""
    steps: list[int] = []
    began, cpu = time.perf_counter(), time.process_time()

    def count(view: Any) -> None:  # every action of CartPole brings a reward of 1
        steps.append(round(view.generation.mean * EPISODES * 40))

    _, result = asyncio.run(train(GAMES["cartpole"], seed, count))
    last = result.history[-1].mean
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "steps": sum(steps),
        "generations": len(result.history),
        "mean": last,
        "execution": result.execution,
    }


def theirs(seed: int) -> dict[str, Any]:
    """One training by EvoTorch."""
    command = [python_of(PEERS, PEER_PACKAGES), str(HERE / "peers" / "evotorch_cartpole.py")]
    command += [str(seed), str(EPISODES), str(SOLVED), str(MOST_GENERATIONS)]
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


Two = LoRAWeight.create(2, 4, noise_rank=1)


@hyperfunction(hp_type=Two, optimize_hparams=True)
async def lean(x: Tensor, hp: Any) -> Tensor:
    return x @ hp.weight.T


class Balancer(HyperSystem):
    """A policy that keeps the pole up: episodes last 500 steps, so that every lane works to the end."""

    agent_type = AgentType.GAME

    async def run(self, observation: Tensor) -> Tensor:
        return (await lean(observation)).argmax(-1)


def steps_per_second(env: Any, members: int, seeds: int, workers: int, repeats: int) -> float:
    """Median over ``repeats`` of environment steps per second, the policy in the loop, ``workers`` blocks at a time."""

    async def measure() -> float:
        system = Balancer()
        examples = [e.inputs for e in episodes(env, seeds, max_steps=500)]
        await system.execute(examples[0])
        size = members // workers
        weights = torch.zeros(size, 2, 4)
        weights[:, 1] = torch.tensor([0.1, 0.3, 2.0, 1.0])
        weights += 1e-3 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
        block = {"lean.hp": DenseMembers(weights)}
        figures = []

        def count(_: int, outcome: BlockOutcome) -> int:
            return sum(result.steps for row in outcome for result in row)

        with PopulationRunner(system.program(), resolve_settings(Settings(workers=workers))) as runner:
            for _ in range(repeats + 1):  # the first one proves and warms up
                began = time.perf_counter()
                steps = sum(await runner.run(lambda _: block, range(workers), ExampleBatch(examples), count))
                figures.append(steps / (time.perf_counter() - began))
            assert runner.execution == "lifted", runner.reason
        return statistics.median(figures[1:])

    return asyncio.run(measure())


def report(name: str, runs: list[dict[str, Any]]) -> tuple[float, float]:
    """Print medians; returns seconds of wall clock per run and microseconds per environment step."""
    solved = [run["generations"] if run["mean"] > SOLVED else MOST_GENERATIONS + 1 for run in runs]
    per_step = statistics.median(run["seconds"] / run["steps"] for run in runs) * 1e6
    cpu_per_step = statistics.median(run["cpu_seconds"] / run["steps"] for run in runs) * 1e6
    by_limit = sum(g <= MOST_GENERATIONS for g in solved)
    print(
        f"{name:10} {len(runs)} seeds: mean > {SOLVED:g} at generation {sorted(solved)}, "
        f"median {statistics.median(solved):g}, by {MOST_GENERATIONS} on {by_limit}"
    )
    seconds = statistics.median(run["seconds"] for run in runs)
    print(f"{'':10} {seconds:.2f} s a run, {per_step:.2f} us per environment step ({cpu_per_step:.2f} us of CPU)")
    return seconds, per_step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--peer-seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"$ python -m benchmarks.game {' '.join(sys.argv[1:])}")
    own, peer = [], []
    for seed in range(arguments.seeds):  # in turn: a machine whose speed drifts treats both alike
        own.append(ours(seed))
        if seed < arguments.peer_seeds:
            peer.append(theirs(seed))
    mine = report("hyperfunc", own)
    if peer:
        other = report("EvoTorch", peer)
        run, step = (that / this for that, this in zip(other, mine, strict=True))
        print(f"{'':10} hyperfunc takes {run:.1f} times less wall clock per run, {step:.1f} times less per step")
    table: list[tuple[str, Callable[[], float]]] = [
        (
            "tensor CartPole, 512 members x 16 episodes, two workers",
            lambda: steps_per_second("tensor-cartpole", 512, 16, 2, arguments.repeats),
        ),
        (
            "gymnasium's vectorised CartPole, 512 members x 1 episode",
            lambda: steps_per_second("CartPole-v1", 512, 1, 1, arguments.repeats),
        ),
        (
            "gymnasium's vectorised CartPole, 512 members x 8 episodes",
            lambda: steps_per_second("CartPole-v1", 512, 8, 1, arguments.repeats),
        ),
        (
            "gymnasium's vectorised CartPole, 512 members x 8, two workers",
            lambda: steps_per_second("CartPole-v1", 512, 8, 2, arguments.repeats),
        ),
    ]
    for name, measure in table:
        print(f"{name:62} {measure() / 1e6:6.2f} million environment steps/s")


if __name__ == "__main__":
    with use_plugins(
        current_plugins()
        if "game" in current_plugins().registry("agent_types")
        else load_plugins([("agents", plugin)], entry_points=False)
    ):
        main()
