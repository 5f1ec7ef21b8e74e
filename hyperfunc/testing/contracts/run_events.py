"""What every plugin that listens to run events must do, as tests: override the fixture ``events_plugin``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from hyperfunc.hookspecs import PROJECT
from hyperfunc.plugins import Plugins, load_plugins
from hyperfunc.testing.contracts._values import copy_of, same

__all__ = ["RunEventsContract", "sample_events"]


def sample_events(run: str = "run", generations: int = 2, finish_reason: str = "completed") -> list[tuple[str, Any]]:
    """The events of one run, as ``(event, arguments)``, in order."""
    record = {"best": 0.5, "mean": 0.25, "worst": -1.0, "center": math.nan, "sigma": 0.1, "dropped": 0}
    summary = {
        "best_fitness": 0.5,
        "generations": generations,
        "evaluations": 20,
        "seconds": 0.1,
        "usage": {"usd": 0.0},
    }
    events: list[tuple[str, Any]] = [
        ("run_started", {"run": run, "configuration": {"strategy": "snes", "population_size": 8, "steps": generations}})
    ]
    for generation in range(generations):
        events.append(("before_call", {"component": "reader.embed", "call_id": 2 * generation}))
        events.append(("before_call", {"component": "judge", "call_id": 2 * generation + 1}))
        failure = TimeoutError("no reply within 30 s")
        after = {"component": "judge", "call_id": 2 * generation + 1, "seconds": 0.01, "error": failure}
        events.append(("after_call", after))
        after = {"component": "reader.embed", "call_id": 2 * generation, "seconds": 0.02, "error": None}
        events.append(("after_call", after))
        numbers = {**record, "index": generation, "evaluations": 10 * (generation + 1)}
        events.append(("generation_finished", {"run": run, "generation": generation, "record": numbers}))
    evidence = {"before": 0.25, "after": 0.5, "test": "paired bootstrap", "accepted": True}
    accepted = {"run": run, "name": "judge.prompt", "before": "Judge.", "after": "Judge 🙂\n", "evidence": evidence}
    events.append(("candidate_accepted", accepted))
    events.append(("run_ended", {"run": run, "finish_reason": finish_reason, "summary": summary}))
    return events


class RunEventsContract:
    """Tests of one plugin that implements run events."""

    @pytest.fixture
    def events_plugin(self) -> object:
        """The plugin: a module, or a new object. Override this."""
        raise NotImplementedError("override the fixture events_plugin with your plugin")

    @pytest.fixture
    def plugins(self, events_plugin: object) -> Plugins:
        """A manager that raises where hyperfunc would only report."""
        return load_plugins([("under test", events_plugin)], entry_points=False, strict=True)

    def test_it_listens_to_something(self, plugins: Plugins) -> None:
        known = {f"{PROJECT}_{event}" for event, _ in sample_events()}
        assert known & set(plugins.infos["under test"].hooks), f"no run event is implemented; there are {sorted(known)}"

    def test_a_run_from_start_to_end(self, plugins: Plugins) -> None:
        for event, arguments in sample_events():
            plugins.emit(event, **arguments)

    @pytest.mark.parametrize("finish_reason", ["error", "cancelled"])
    def test_a_run_that_fails_at_once(self, plugins: Plugins, finish_reason: str) -> None:
        for event, arguments in sample_events(generations=0, finish_reason=finish_reason):
            plugins.emit(event, **arguments)

    def test_several_runs_interleaved(self, plugins: Plugins) -> None:
        for pair in zip(sample_events("one"), sample_events("two"), strict=True):
            for event, arguments in pair:
                plugins.emit(event, **arguments)

    def test_calls_outside_any_run(self, plugins: Plugins) -> None:
        for event, arguments in sample_events():
            if "call_id" in arguments:
                plugins.emit(event, **arguments)

    def test_values_are_left_alone(self, plugins: Plugins) -> None:
        for event, arguments in sample_events():
            values: Mapping[str, Any] = {k: v for k, v in arguments.items() if not isinstance(v, BaseException)}
            before = copy_of(values)
            plugins.emit(event, **arguments)
            assert same(before, values), event
