"""Who runs in the simulated worlds: this project's optimizers in this process, peers in environments of their own.

All get the same 40 training and 20 validation examples, the same score and feedback, the same provider, the same budget
of program runs, and the world's seed. The test score is computed outside and never paid for; what counts is the
provider's own count of requests when the text that would be returned first reaches the target.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, python_of
from benchmarks.prompts.simulated import Counts, SimulatedProvider
from benchmarks.prompts.worlds import Row, World
from hyperfunc.budget import Budget
from hyperfunc.errors import OptimizationError
from hyperfunc.evaluation import Example, ScoreResult
from hyperfunc.hookspecs import hookimpl
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.scope import enter_scope
from hyperfunc.system import HyperSystem
from hyperfunc_llm import Endpoint, LLMRuntime, make_llm_completion, use_runtime
from hyperfunc_prompts import PromptLearningOptimizer, ReflectivePareto

__all__ = ["CONTENDERS", "OURS", "PEERS", "TARGET", "Outcome", "Peer", "run_ours"]

TARGET = 0.9
TRAIN, VALIDATION = 40, 20
PEER_ENVIRONMENT = Path(os.environ.get("HYPERFUNC_BENCH_PROMPT_PEERS", ROOT / ".venv-prompts"))
PEER_PACKAGES = ["gepa==0.1.4", "dspy==3.4.1", "litellm==1.106.2"]

OURS: dict[str, Callable[..., Any]] = {
    "prompt-learning": lambda **given: PromptLearningOptimizer("reflect", max_iterations=45, **given),
    "reflective-pareto": lambda **given: ReflectivePareto("reflect", max_iterations=200, **given),
}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gepa": ("benchmarks.peers.gepa_prompts", {}),
    # As much evidence per reflection as our default shows, and nothing evaluated twice.
    "gepa-8": ("benchmarks.peers.gepa_prompts", {"reflection_minibatch_size": 8, "cache_evaluation": True}),
    "dspy-gepa": ("benchmarks.peers.dspy_prompts", {}),
}
CONTENDERS = (*OURS, *PEERS)


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        reached: requests until the text that would be returned reached the target; ``None``: it never did.
        counts: requests of the whole run.
        texts: what was returned.
        evaluations: program runs charged to the budget (a peer's: the most that it was allowed).
        error: what ended the run early.
    """

    reached: int | None
    counts: Counts
    texts: dict[str, str]
    evaluations: int
    error: str = ""


class WorldScorer:
    """The world's score and feedback."""

    def __init__(self, world: World) -> None:
        self.world = world

    def score(self, output: Any, expected: Row, inputs: Any = None) -> ScoreResult:
        return ScoreResult(*self.world.score(expected, output))


class Watch:
    """Follows the texts that the system has."""

    def __init__(self, world: World, calls: Callable[[], int]) -> None:
        self.world, self.calls = world, calls
        self.texts = dict(world.texts)
        self.reached: int | None = None

    @hookimpl
    def hyperfunc_candidate_accepted(self, run: str, name: str, before: Any, after: Any, evidence: Any) -> None:
        self.texts[name.removesuffix(".prompt")] = after
        if self.reached is None and self.world.expected_score(self.texts) >= TARGET:
            self.reached = self.calls()


def program(world: World) -> HyperSystem:
    """The world's components in a row, each asking the task model under its own text."""
    components = [
        make_llm_completion("task", system_prompt=text, optimize_hparams=False, name=name)
        for name, text in world.texts.items()
    ]

    class Program(HyperSystem):
        async def run(self, request: str) -> str:
            for component in components:
                request = (await component(request)).content
            return request

    return Program()


def examples(world: World, part: str, count: int) -> list[Example]:
    """Rows as examples."""
    return [Example({"request": row.request}, row, id=row.request) for row in world.rows(count, part)]


@asynccontextmanager
async def connected(url: str, world: World, owner: str) -> AsyncIterator[None]:
    """The world's models as the aliases ``task`` and ``reflect``."""

    def endpoint(role: str) -> Endpoint:
        model = f"openai/{role}/{world.family}/{world.seed}/{owner}"
        connection: dict[str, Any] = {"base_url": url, "transport": "direct", "limited": False, "backoff_s": 0}
        return Endpoint(model=model, transport_retries=3, **connection)  # as often as the peers try again

    async with LLMRuntime({"task": endpoint("task"), "reflect": endpoint("reflect")}) as runtime:
        with use_runtime(runtime):
            yield


async def run_ours(
    provider: SimulatedProvider, world: World, contender: str, budget: int, *, owner: str = "", **options: Any
) -> Outcome:
    """One run of one of :data:`OURS`; ``options`` go to the optimizer."""
    owner = owner or contender
    watch = Watch(world, lambda: provider.counts(world, owner).calls)
    limit, error = Budget(evaluations=budget), ""
    async with connected(provider.url, world, owner):
        with use_plugins(load_plugins([("watch", watch)])), enter_scope(budget=limit):
            given = {"validation": examples(world, "validation", VALIDATION), "seed": world.seed, **options}
            optimizer = OURS[contender](**given)
            try:
                await optimizer.optimize(program(world), examples(world, "train", TRAIN), WorldScorer(world))
            except OptimizationError as failed:  # what was accepted before stays
                error = f"{type(failed).__name__}: {failed}"
    return Outcome(watch.reached, provider.counts(world, owner), watch.texts, limit.spent.evaluations, error)


class Peer:
    """A peer's process: one world per line."""

    def __init__(self, contender: str) -> None:
        self.contender = contender
        python = python_of(PEER_ENVIRONMENT, PEER_PACKAGES)
        self._process = subprocess.Popen(
            [python, "-m", PEERS[contender][0]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        if self._read() != "ready":
            raise RuntimeError(f"{contender} did not start; try {python} -m {PEERS[contender][0]}")

    def run(self, provider: SimulatedProvider, world: World, budget: int, whole: bool) -> Outcome:
        """One run; it ends at the target unless ``whole``."""
        job: dict[str, Any] = {"family": world.family, "seed": world.seed, "url": provider.url}
        job |= {"owner": self.contender, "options": PEERS[self.contender][1]}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**job, "target": TARGET, "budget": budget, "whole": whole}) + "\n")
        self._process.stdin.flush()
        result = json.loads(self._read())
        counts = provider.counts(world, self.contender)
        return Outcome(result["reached"], counts, result["texts"], budget, result["error"])

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self.contender} ended early (exit code {self._process.wait()})")
        return line

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            print(f"{self.contender} does not end; killed", file=sys.stderr)
            self._process.kill()
            self._process.wait()
