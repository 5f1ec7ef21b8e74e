"""Observations and metric points as objects of the OpenTelemetry SDK. Imported only where something is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from hyperfunc.observability import MetricPoint, ObservationRecord
from hyperfunc.observability import conventions as names

__all__ = ["to_metrics_data", "to_readable_spans"]

_SCOPE = InstrumentationScope(names.SCOPE_NAME)


def to_readable_spans(observations: Sequence[ObservationRecord], resource: Resource) -> list[ReadableSpan]:
    """Finished spans, with their identifiers, parents, status and events."""
    return [_span(record, resource) for record in observations]


def _span(record: ObservationRecord, resource: Resource) -> ReadableSpan:
    context = _context(record.trace_id, record.span_id)
    events = [Event(name, _attributes(values), timestamp=at) for at, name, values in record.events]
    status = Status(StatusCode.UNSET)
    if not record.success:
        status = Status(StatusCode.ERROR, f"{record.error_type}: {record.error_message}")
        details = {"exception.type": record.error_type or "", "exception.message": record.error_message or ""}
        events.append(Event("exception", details, timestamp=record.end_ns))
    model = record.attributes.get(names.REQUEST_MODEL)
    operation = record.attributes.get(names.OPERATION_NAME, "")
    return ReadableSpan(
        # "{operation} {target}", as the conventions ask; runs and generations keep their own names.
        name=f"{operation} {model or record.fn_name}".lstrip() if record.kind == "call" else record.fn_name,
        context=context,
        parent=_context(record.trace_id, record.parent_id) if record.parent_id else None,
        resource=resource,
        attributes=_attributes({**record.attributes, "hyperfunc.function": record.fn_name}),
        events=events,
        kind=SpanKind.CLIENT if model else SpanKind.INTERNAL,
        status=status,
        start_time=record.start_ns,
        end_time=record.end_ns,
        instrumentation_scope=_SCOPE,
    )


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, (str, bool, int, float, list)) else str(value)
        for key, value in values.items()
        if value is not None
    }


def to_metrics_data(points: Sequence[MetricPoint], resource: Resource) -> MetricsData:
    """All series, cumulative."""
    grouped: dict[tuple[str, str, str], list[MetricPoint]] = {}
    for point in points:
        grouped.setdefault((point.name, point.kind, point.unit), []).append(point)
    metrics = [
        Metric(name, "", unit, _histogram(series) if kind == "histogram" else _gauge(series))
        for (name, kind, unit), series in grouped.items()
    ]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


def _histogram(series: Sequence[MetricPoint]) -> Histogram:
    return Histogram(
        [
            HistogramDataPoint(
                attributes=dict(point.attributes),
                start_time_unix_nano=point.start_ns,
                time_unix_nano=point.time_ns,
                count=point.count,
                sum=point.value,
                bucket_counts=point.bucket_counts,
                explicit_bounds=point.bounds,
                min=point.minimum,
                max=point.maximum,
            )
            for point in series
        ],
        AggregationTemporality.CUMULATIVE,
    )


def _gauge(series: Sequence[MetricPoint]) -> Gauge:
    return Gauge(
        [NumberDataPoint(dict(point.attributes), point.start_ns, point.time_ns, point.value) for point in series]
    )
