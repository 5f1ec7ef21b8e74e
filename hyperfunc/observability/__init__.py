"""Traces, metrics and summaries of what a system does; off, and free, until a session is opened."""

from __future__ import annotations

from hyperfunc.observability.call_metrics import CallContext, CallMetric, CallMetrics
from hyperfunc.observability.delivery import Delivery, Exporter, SpanExporter
from hyperfunc.observability.hub import ObservabilityHub
from hyperfunc.observability.metrics import MetricPoint, Metrics, MetricsExporter
from hyperfunc.observability.propagation import extract, inject
from hyperfunc.observability.records import (
    CallRecord,
    HyperFunctionStats,
    ObservationRecord,
    TraceSummary,
    attributes_of,
    error_of,
    summarize,
)
from hyperfunc.observability.spans import Sampling, Span, Tracer, current_span, current_tracer, span, tracing
from hyperfunc.observability.tracing import TracingTape, trace_calls_with
from hyperfunc.observability.trackers import Tracker, TrackerThread

__all__ = [
    "CallContext",
    "CallMetric",
    "CallMetrics",
    "CallRecord",
    "Delivery",
    "Exporter",
    "HyperFunctionStats",
    "MetricPoint",
    "Metrics",
    "MetricsExporter",
    "ObservabilityHub",
    "ObservationRecord",
    "Sampling",
    "Span",
    "SpanExporter",
    "TraceSummary",
    "Tracer",
    "TracingTape",
    "Tracker",
    "TrackerThread",
    "attributes_of",
    "current_span",
    "current_tracer",
    "error_of",
    "extract",
    "inject",
    "span",
    "summarize",
    "trace_calls_with",
    "tracing",
]
