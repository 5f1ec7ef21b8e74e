"""Observations as a Chrome trace: slices in lanes, counters, instants.

Concurrent calls get lanes of their own, a call goes into its caller's lane where there is room. Events of spans with a
single number ``value`` become counters (queue depth), those with ``seconds`` slices that end there (a wait for a rate
limit), the others instants. Format: Trace Event Format, JSON object form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperfunc.observability import ObservationRecord, TraceSummary

__all__ = ["PerfettoExporter", "to_trace_events"]

_PROCESS = 1
_WAITS_LANE = 100_000  # numbers below are lanes of spans
_STATISTICS = ("best", "mean", "worst", "center", "validation")


class PerfettoExporter:
    """Collects observations and writes them when it is shut down, or when a summary says that they are all.

    Args:
        path: the file, for example ``run.trace.json``.
    """

    is_local = True

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._observations: list[ObservationRecord] = []
        self._written = 0

    def export(self, observations: Sequence[ObservationRecord], summary: TraceSummary | None = None) -> None:
        """Take a batch; with a summary, write the file."""
        self._observations += observations
        if summary is not None:
            self._write()

    def shutdown(self) -> None:
        """Write what has been taken since the last write."""
        if self._written < len(self._observations) or not self._path.exists():
            self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(
                    {"traceEvents": to_trace_events(self._observations), "displayTimeUnit": "ms"}, file, default=str
                )
            os.replace(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)
        self._written = len(self._observations)


def to_trace_events(observations: Sequence[ObservationRecord]) -> list[dict[str, Any]]:
    """The events, in order of time; times in microseconds after the first observation."""
    ordered = sorted(observations, key=lambda record: (record.start_ns, -record.end_ns))
    if not ordered:
        return []
    zero = ordered[0].start_ns
    lanes = _assign_lanes(ordered)
    events: list[dict[str, Any]] = []
    for record in ordered:
        arguments = {**record.attributes, "trace_id": record.trace_id, "span_id": record.span_id}
        if record.error_type is not None:
            arguments["error"] = f"{record.error_type}: {record.error_message}"
        events.append(
            {
                "name": record.fn_name,
                "cat": record.kind if record.success else f"{record.kind},error",
                "ph": "X",
                "ts": (record.start_ns - zero) / 1000,
                "dur": (record.end_ns - record.start_ns) / 1000,
                "pid": _PROCESS,
                "tid": lanes[record.span_id],
                "args": arguments,
            }
        )
        events += [_event(at, name, values, zero, lanes[record.span_id]) for at, name, values in record.events]
        if record.kind == "generation":
            values = {statistic: record.attributes.get(f"hyperfunc.{statistic}") for statistic in _STATISTICS}
            fitness = {statistic: value for statistic, value in values.items() if isinstance(value, (int, float))}
            if fitness:
                events.append(_counter("fitness", record.end_ns, fitness, zero))
    events += _concurrency(ordered, zero)
    events.sort(key=lambda event: event["ts"])
    names = [(lane, f"lane {lane}") for lane in sorted(set(lanes.values()))]
    if any(event["tid"] == _WAITS_LANE for event in events):
        names.append((_WAITS_LANE, "waits"))
    return [
        {"name": "process_name", "ph": "M", "pid": _PROCESS, "tid": 0, "ts": 0, "args": {"name": "hyperfunc"}},
        *(
            {"name": "thread_name", "ph": "M", "pid": _PROCESS, "tid": lane, "ts": 0, "args": {"name": name}}
            for lane, name in names
        ),
        *events,
    ]


def _assign_lanes(ordered: Sequence[ObservationRecord]) -> dict[str, int]:
    """A lane for each span: its parent's, if the open slice there encloses it, else the first that is free."""
    open_in: list[list[ObservationRecord]] = []  # by lane: the slices that enclose the present moment, outermost first
    lanes: dict[str, int] = {}
    for record in ordered:
        for stack in open_in:
            while stack and stack[-1].end_ns <= record.start_ns:
                stack.pop()
        home = lanes.get(record.parent_id)
        if home is not None and not _fits(open_in[home], record, record.parent_id):
            home = None
        if home is None:
            home = next((lane for lane, stack in enumerate(open_in) if not stack), None)
        if home is None:
            home = len(open_in)
            open_in.append([])
        open_in[home].append(record)
        lanes[record.span_id] = home
    return lanes


def _fits(stack: list[ObservationRecord], record: ObservationRecord, parent: str) -> bool:
    return bool(stack) and stack[-1].span_id == parent and stack[-1].end_ns >= record.end_ns


def _event(at: int, name: str, values: dict[str, Any], zero: int, lane: int) -> dict[str, Any]:
    if set(values) == {"value"} and isinstance(values["value"], (int, float)):
        return _counter(name, at, {name: values["value"]}, zero)
    seconds = values.get("seconds")
    common = {"name": name, "cat": "event", "pid": _PROCESS, "args": values}
    if isinstance(seconds, (int, float)):
        return {**common, "ph": "X", "ts": (at - zero) / 1000 - seconds * 1e6, "dur": seconds * 1e6, "tid": _WAITS_LANE}
    return {**common, "ph": "i", "s": "t", "ts": (at - zero) / 1000, "tid": lane}


def _counter(name: str, at: int, values: dict[str, Any], zero: int) -> dict[str, Any]:
    return {"name": name, "ph": "C", "ts": (at - zero) / 1000, "pid": _PROCESS, "tid": 0, "args": values}


def _concurrency(ordered: Sequence[ObservationRecord], zero: int) -> list[dict[str, Any]]:
    """How many calls were under way, whenever that changed; callers that wait for their callees are not counted."""
    parents = {record.parent_id for record in ordered if record.kind == "call"}
    leaves = [record for record in ordered if record.kind == "call" and record.span_id not in parents]
    changes: dict[int, int] = {}
    for record in leaves:
        changes[record.start_ns] = changes.get(record.start_ns, 0) + 1
        changes[record.end_ns] = changes.get(record.end_ns, 0) - 1
    running = 0
    events = []
    for at in sorted(changes):
        running += changes[at]
        events.append(_counter("calls under way", at, {"calls": running}, zero))
    return events
