"""Small implementations of extension points, for tests that need one and care for another thing.

Each does its work for real, in this process, and keeps its contract; none patches anything. A model provider is faked
over real HTTP by :mod:`hyperfunc.testing.llm_server`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperfunc.hookspecs import hookimpl

if TYPE_CHECKING:  # the rest of core imports torch; these fakes are useful without
    from hyperfunc.evaluation.example import Example
    from hyperfunc.observability.records import ObservationRecord, TraceSummary
    from hyperfunc.population.members import MemberBlock
    from hyperfunc.population.outcomes import BlockOutcome
    from hyperfunc.program import Program
    from hyperfunc.settings import Settings
    from hyperfunc.system import HyperSystem

__all__ = [
    "BlockingEngine",
    "ChoicePromptOptimizer",
    "CountdownEnvironment",
    "RecordingEvents",
    "RecordingExporter",
    "RecordingTracker",
]


class RecordingExporter:
    """An exporter that keeps what it is given.

    Attributes:
        observations: in order of arrival.
        summaries: as they came.
        closed: whether it was shut down.
    """

    def __init__(self) -> None:
        self.observations: list[ObservationRecord] = []
        self.summaries: list[TraceSummary] = []
        self.closed = False

    def export(self, observations: Sequence[ObservationRecord], summary: TraceSummary | None = None) -> None:
        """Keep a batch."""
        self.observations += observations
        if summary is not None:
            self.summaries.append(summary)

    def shutdown(self) -> None:
        """Note that this is the end."""
        self.closed = True


class RecordingTracker:
    """An experiment tracker that keeps what it is given.

    Attributes:
        runs: ``(name, configuration)`` of every run started.
        points: ``(step, values)`` of the last run.
        result: what the last run ended with; ``None`` while it goes on.
    """

    def __init__(self) -> None:
        self.runs: list[tuple[str, dict[str, Any]]] = []
        self.points: list[tuple[int, dict[str, float]]] = []
        self.result: dict[str, Any] | None = None

    def start(self, run: str, configuration: Mapping[str, Any] | None = None) -> None:
        """Begin a run; the points of the one before are forgotten."""
        self.runs.append((run, dict(configuration or {})))
        self.points, self.result = [], None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a point."""
        self.points.append((step, dict(values)))

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        """End the run."""
        self.result = dict(result or {})

    def curve(self, name: str) -> list[tuple[int, float]]:
        """The points of one metric."""
        return [(step, values[name]) for step, values in self.points if name in values]


class RecordingEvents:
    """A plugin that listens to every run event.

    Attributes:
        events: ``(event, arguments)`` in order.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def names(self) -> list[str]:
        """The events' names in order."""
        return [name for name, _ in self.events]

    @hookimpl
    def hyperfunc_run_started(self, run: str, configuration: Mapping[str, Any]) -> None:
        self.events.append(("run_started", {"run": run, "configuration": dict(configuration)}))

    @hookimpl
    def hyperfunc_generation_finished(self, run: str, generation: int, record: Mapping[str, Any]) -> None:
        self.events.append(("generation_finished", {"run": run, "generation": generation, "record": dict(record)}))

    @hookimpl
    def hyperfunc_candidate_accepted(
        self, run: str, name: str, before: Any, after: Any, evidence: Mapping[str, Any]
    ) -> None:
        arguments = {"run": run, "name": name, "before": before, "after": after, "evidence": dict(evidence)}
        self.events.append(("candidate_accepted", arguments))

    @hookimpl
    def hyperfunc_before_call(self, component: str, call_id: int) -> None:
        self.events.append(("before_call", {"component": component, "call_id": call_id}))

    @hookimpl
    def hyperfunc_after_call(self, component: str, call_id: int, seconds: float, error: BaseException | None) -> None:
        arguments = {"component": component, "call_id": call_id, "seconds": seconds, "error": error}
        self.events.append(("after_call", arguments))

    @hookimpl
    def hyperfunc_run_ended(self, run: str, finish_reason: str, summary: Mapping[str, Any]) -> None:
        arguments = {"run": run, "finish_reason": finish_reason, "summary": dict(summary)}
        self.events.append(("run_ended", arguments))


class CountdownEnvironment:
    """A game of gymnasium's form: take 1, 2 or 3 from a pile; whoever ends it exactly gets 1, else it costs 1.

    Args:
        seed: decides the pile's size, 5 to 20; 0 is a seed like any other.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._left = 0

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """A new pile; the observation is what is left."""
        self._seed = self._seed if seed is None else seed
        self._left = 5 + (self._seed * 2_654_435_761 >> 8) % 16
        return self._left, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Take ``action`` (1 to 3; another number is moved into that range) away."""
        self._left -= min(3, max(1, int(action)))
        done = self._left <= 0
        return self._left, (1.0 if self._left == 0 else -1.0) if done else 0.0, done, False, {}


class ChoicePromptOptimizer:
    """A prompt optimizer that tries given texts, one parameter after the other, and keeps what scores higher.

    Args:
        choices: texts to try for every trainable text.
    """

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = tuple(choices)

    async def optimize(
        self,
        system: HyperSystem,
        train_data: Sequence[Example],
        metric_fn: Any,
        feedback_fn: Callable[..., str] | None = None,
    ) -> None:
        """Set the best choice of each text. ``feedback_fn`` is not needed for this."""
        names = [entry.name for entry in system.registry.text_entries() if entry.text.trainable]
        found: dict[str, Any] = {}
        best = await system.evaluate(train_data, metric_fn) if names else 0.0
        for name in names:
            for choice in self.choices:
                score = await system.evaluate(train_data, metric_fn, theta={**found, name: choice})
                if score > best:
                    best, found[name] = score, choice
        await asyncio.sleep(0)  # a cancellation that came during the last evaluation is heard before anything is set
        system.set_theta(found)


class BlockingEngine:
    """An engine that runs every block as the plain loop does, in this process: slow, and right by definition."""

    async def run_block(
        self, program: Program, block: MemberBlock, inputs: Sequence[Mapping[str, Any]], settings: Settings
    ) -> BlockOutcome:
        """One member after the other, one example after the other."""
        from hyperfunc.population.sequential import run_sequential  # imports torch

        return await run_sequential(program, block, inputs)
