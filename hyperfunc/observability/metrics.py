"""Histograms and gauges by the GenAI conventions, counted as calls end, before sampling and without an SDK."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from hyperfunc.observability import conventions as names
from hyperfunc.observability.records import error_of
from hyperfunc.observability.spans import Span

__all__ = ["MetricPoint", "Metrics", "MetricsExporter"]

_STATISTICS = ("best", "mean", "worst", "center", "validation")


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One series at one moment, cumulative since ``start_ns``.

    Attributes:
        value: of a gauge; the sum of a histogram.
        bucket_counts: one more than ``bounds``: up to and including each bound, and beyond the last.
    """

    name: str
    kind: Literal["histogram", "gauge"]
    unit: str
    attributes: Mapping[str, str]
    start_ns: int
    time_ns: int
    value: float
    count: int = 0
    minimum: float = 0.0
    maximum: float = 0.0
    bounds: tuple[float, ...] = ()
    bucket_counts: tuple[int, ...] = ()


@runtime_checkable
class MetricsExporter(Protocol):
    """An exporter that takes metrics too."""

    def export_metrics(self, points: list[MetricPoint]) -> None:
        """Send all series; called in the exporter's own thread."""
        ...


class _Histogram:
    __slots__ = ("bounds", "counts", "maximum", "minimum", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.minimum = float("inf")
        self.maximum = float("-inf")

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value
        if value < self.minimum:
            self.minimum = value
        if value > self.maximum:
            self.maximum = value


@dataclass(frozen=True, slots=True)
class _CallSeries:
    """Where calls of one kind are counted; ``tokens`` is empty for what is no model."""

    duration: _Histogram
    tokens: tuple[_Histogram, ...]


class Metrics:
    """Token usage and duration of calls, and the fitness of generations. Safe from several threads."""

    def __init__(self) -> None:
        self._start_ns = time.time_ns()
        self._lock = threading.Lock()
        self._histograms: dict[tuple[str, str, tuple[tuple[str, str], ...]], _Histogram] = {}
        self._of_calls: dict[tuple[str, ...], _CallSeries] = {}
        self._gauges: dict[tuple[tuple[str, str], ...], float] = {}

    def observe(self, span: Span) -> None:
        """Count a finished span."""
        call = span.call
        if call is not None:
            metadata = call.metadata
            model = metadata.get("model") or metadata.get("request_model") or ""
            kind = (
                call.function,
                str(model),
                str(metadata.get("request_model", model)),
                str(metadata.get("provider", "unknown")),
                str(metadata.get("operation", "chat" if model else "execute_tool")),
                "" if span.error is None else error_of(span)[0] or "",
            )
            with self._lock:
                series = self._of_calls.get(kind) or self._series(*kind)
                series.duration.add(span.seconds)
                if series.tokens:
                    series.tokens[0].add(call.usage.input_tokens)
                    series.tokens[1].add(call.usage.output_tokens)
        elif span.kind == "generation":
            with self._lock:
                for statistic in _STATISTICS:
                    value = span.attributes.get(f"{names.HYPERFUNC_PREFIX}{statistic}")
                    if isinstance(value, (int, float)) and value == value:
                        self._gauges[(("hyperfunc.statistic", statistic),)] = float(value)

    def snapshot(self) -> list[MetricPoint]:
        """All series as they are now."""
        now = time.time_ns()
        with self._lock:
            points = [
                MetricPoint(
                    name=name,
                    kind="histogram",
                    unit=unit,
                    attributes=dict(series),
                    start_ns=self._start_ns,
                    time_ns=now,
                    value=histogram.total,
                    count=sum(histogram.counts),
                    minimum=histogram.minimum,
                    maximum=histogram.maximum,
                    bounds=histogram.bounds,
                    bucket_counts=tuple(histogram.counts),
                )
                for (name, unit, series), histogram in self._histograms.items()
            ]
            points += [
                MetricPoint(names.FITNESS, "gauge", "{fitness}", dict(series), self._start_ns, now, value)
                for series, value in self._gauges.items()
            ]
        return points

    def _series(
        self, function: str, model: str, request: str, provider: str, operation: str, error: str
    ) -> _CallSeries:
        keys = [(names.OPERATION_NAME, operation)]
        if model:
            keys += [(names.REQUEST_MODEL, request), (names.RESPONSE_MODEL, model), (names.PROVIDER_NAME, provider)]
        else:  # a plain function is a tool to the conventions
            keys += [(names.TOOL_NAME, function)]
        failed = [(names.ERROR_TYPE, error)] if error else []
        duration = self._histogram(names.CLIENT_OPERATION_DURATION, "s", [*keys, *failed])
        tokens = [
            self._histogram(names.CLIENT_TOKEN_USAGE, "{token}", [*keys, (names.TOKEN_TYPE, kind)])
            for kind in (("input", "output") if model else ())
        ]
        made = self._of_calls[function, model, request, provider, operation, error] = _CallSeries(
            duration, tuple(tokens)
        )
        return made

    def _histogram(self, name: str, unit: str, keys: list[tuple[str, str]]) -> _Histogram:
        known = self._histograms.get((name, unit, tuple(keys)))
        if known is None:
            bounds = names.BUCKETS_SECONDS if unit == "s" else names.BUCKETS_TOKENS
            known = self._histograms[name, unit, tuple(keys)] = _Histogram(tuple(map(float, bounds)))
        return known
