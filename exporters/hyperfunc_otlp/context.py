"""Makes our call the current span of OpenTelemetry, for the instrumentations of other libraries.

``hub.trace(around_calls=opentelemetry_context)``: what an instrumented HTTP client or SDK does inside a call becomes a
child of that call, in the viewer that both send to.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from hyperfunc.errors import MissingDependencyError
from hyperfunc.observability import Span

__all__ = ["opentelemetry_context"]


def opentelemetry_context(span: Span) -> Callable[[], None]:
    """Enter the context of ``span``; the result leaves it.

    Raises:
        MissingDependencyError: the OpenTelemetry API is not installed.
    """
    try:
        context = import_module("opentelemetry.context")
        trace = import_module("opentelemetry.trace")
    except ImportError as error:
        raise MissingDependencyError("opentelemetry-api", "otlp") from error
    kept = trace.TraceFlags.SAMPLED if span.unit is None or span.unit.kept else trace.TraceFlags.DEFAULT
    identity = trace.SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=trace.TraceFlags(kept))
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(identity)))
    return lambda: context.detach(token)
