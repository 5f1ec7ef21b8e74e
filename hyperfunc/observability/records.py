"""What observers get: one flat record per span, and summaries of many. Knows spans, but no exporter.

``ObservationRecord``, ``CallRecord``, ``TraceSummary`` and ``HyperFunctionStats`` carry the names of hyperfunc 0.3,
with further fields after those.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from hyperfunc.errors import HyperfuncError
from hyperfunc.observability import conventions as names
from hyperfunc.observability.preview import preview
from hyperfunc.observability.spans import Span
from hyperfunc.usage import Usage

__all__ = [
    "CallRecord",
    "HyperFunctionStats",
    "ObservationRecord",
    "TraceSummary",
    "attributes_of",
    "error_of",
    "summarize",
]


@dataclass
class CallRecord:
    """One call of a hyperfunction.

    Attributes:
        example_index: the example that was being run, where known.
        error: what it raised, if it did; without traceback.
        extra_metrics: numbers noted with the call.
    """

    fn_name: str
    example_index: int | None
    elapsed_s: float
    error: BaseException | None
    extra_metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class ObservationRecord:
    """One span, flat.

    Attributes:
        fn_name: the component, or the name of the run, generation or evaluation.
        timestamp: when it began, ISO 8601, UTC.
        kind: ``"run"``, ``"generation"``, ``"evaluation"`` or ``"call"``.
        trace_id, span_id, parent_id: 32, 16 and 16 hex digits; ``parent_id`` is empty at the root.
        start_ns, end_ns: nanoseconds since the epoch.
        attributes: by the names of :mod:`hyperfunc.observability.conventions`.
        events: (time in ns, name, attributes).
    """

    fn_name: str
    timestamp: str
    elapsed_s: float
    example_index: int | None = None
    success: bool = True
    error_type: str | None = None
    error_message: str | None = None
    gen_ai_system: str | None = None
    gen_ai_request_model: str | None = None
    gen_ai_response_model: str | None = None
    gen_ai_request_temperature: float | None = None
    gen_ai_request_top_p: float | None = None
    gen_ai_usage_input_tokens: int | None = None
    gen_ai_usage_output_tokens: int | None = None
    gen_ai_usage_total_tokens: int | None = None
    cost_usd: float | None = None
    extra_metrics: dict[str, float] = field(default_factory=dict)
    kind: str = "call"
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""
    start_ns: int = 0
    end_ns: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All fields; those that are ``None`` or empty are left out."""
        return {
            name: value.copy() if isinstance(value, (dict, list)) else value
            for name, value in vars(self).items()
            if value not in (None, "", {}, [])
        }

    @classmethod
    def from_call_record(cls, record: CallRecord, timestamp: str | None = None) -> ObservationRecord:
        """A record of a call that was not traced."""
        error = record.error
        return cls(
            fn_name=record.fn_name,
            timestamp=timestamp or datetime.now(UTC).isoformat(),
            elapsed_s=record.elapsed_s,
            example_index=record.example_index,
            success=error is None,
            error_type=None if error is None else type(error).__name__,
            error_message=None if error is None else str(error),
            extra_metrics=dict(record.extra_metrics),
        )

    @classmethod
    def from_span(cls, span: Span, *, content: bool = False) -> ObservationRecord:
        """The record of a finished span; ``content`` includes inputs and outputs of calls."""
        attributes = attributes_of(span, content)
        usage = span.call.usage if span.call is not None else Usage()
        error_type, error_message = error_of(span)
        example = attributes.get("hyperfunc.example")
        model_call = names.USAGE_INPUT_TOKENS in attributes or names.RESPONSE_MODEL in attributes
        return cls(
            fn_name=span.name,
            timestamp=datetime.fromtimestamp(span.start_ns / 1e9, UTC).isoformat(),
            elapsed_s=span.seconds,
            example_index=example if isinstance(example, int) else None,
            success=span.error is None,
            error_type=error_type,
            error_message=error_message,
            gen_ai_system=attributes.get(names.PROVIDER_NAME),
            gen_ai_request_model=attributes.get(names.REQUEST_MODEL),
            gen_ai_response_model=attributes.get(names.RESPONSE_MODEL),
            gen_ai_request_temperature=attributes.get(names.REQUEST_TEMPERATURE),
            gen_ai_request_top_p=attributes.get(names.REQUEST_TOP_P),
            gen_ai_usage_input_tokens=usage.input_tokens if model_call else None,
            gen_ai_usage_output_tokens=usage.output_tokens if model_call else None,
            gen_ai_usage_total_tokens=usage.total_tokens if model_call else None,
            cost_usd=usage.usd if usage.usd or model_call else None,
            extra_metrics=_numbers(span),
            kind=span.kind,
            trace_id=f"{span.trace_id:032x}",
            span_id=f"{span.span_id:016x}",
            parent_id=f"{span.parent_id:016x}" if span.parent_id else "",
            start_ns=span.start_ns,
            end_ns=span.end_ns,
            attributes=attributes,
            events=[(at, name, dict(values)) for at, name, values in span.events],
        )


def attributes_of(span: Span, content: bool) -> dict[str, Any]:
    """A finished span's attributes, by the names of :mod:`hyperfunc.observability.conventions`; with ``content`` also
    the inputs and outputs of its call. Values are strings, numbers, booleans, or lists of strings."""
    attributes = {key: _simple(value) for key, value in span.attributes.items()}
    call = span.call
    attributes["hyperfunc.kind"] = span.kind
    attributes[names.OPENINFERENCE_KIND] = names.SPAN_KINDS[span.kind]
    if call is None:
        attributes[names.OPERATION_NAME] = "invoke_workflow"
        if span.kind == "run":
            attributes[names.WORKFLOW_NAME] = span.name
        return attributes
    for key, value in call.metadata.items():
        name = names.CALL_METADATA.get(key)
        if name is None:
            known = key.startswith((names.GEN_AI_PREFIX, names.HYPERFUNC_PREFIX))
            name = key if known else f"hyperfunc.call.{key}"
        attributes[name] = _simple(value)
    finish = attributes.get(names.RESPONSE_FINISH_REASONS)
    if isinstance(finish, str):
        attributes[names.RESPONSE_FINISH_REASONS] = [finish]
    if call.usage.total_tokens or names.RESPONSE_MODEL in attributes:
        attributes.setdefault(names.OPERATION_NAME, "chat")
        if names.RESPONSE_MODEL in attributes:
            attributes.setdefault(names.REQUEST_MODEL, attributes[names.RESPONSE_MODEL])
        attributes[names.OPENINFERENCE_KIND] = names.SPAN_KINDS["llm"]
        attributes[names.USAGE_INPUT_TOKENS] = call.usage.input_tokens
        attributes[names.USAGE_OUTPUT_TOKENS] = call.usage.output_tokens
        if call.usage.cached_tokens:
            attributes[names.USAGE_CACHE_READ_INPUT_TOKENS] = call.usage.cached_tokens
        if call.usage.reasoning_tokens:
            attributes[names.USAGE_REASONING_OUTPUT_TOKENS] = call.usage.reasoning_tokens
    else:
        attributes.setdefault(names.OPERATION_NAME, "execute_tool")
        attributes.setdefault(names.TOOL_NAME, call.function)
    if call.usage.usd:
        attributes["hyperfunc.cost.usd"] = call.usage.usd
    if call.attempts > 1:
        attributes["hyperfunc.attempts"] = call.attempts
    if span.error is not None:
        attributes[names.ERROR_TYPE] = error_of(span)[0]
    if content:
        arguments = ", ".join([*map(preview, call.args), *(f"{k}={preview(v)}" for k, v in call.kwargs.items())])
        attributes[names.INPUT_VALUE] = arguments
        if span.error is None:
            attributes[names.OUTPUT_VALUE] = preview(call.output)
    return attributes


def error_of(span: Span) -> tuple[str | None, str | None]:
    """Type and message of the exception that ended the span."""
    if span.error is None:
        return None, None
    if type(span.error) is HyperfuncError and ": " in str(span.error):  # stands for one that could not be copied
        kind, _, message = str(span.error).partition(": ")
        return kind, message
    return type(span.error).__name__, str(span.error)


def _numbers(span: Span) -> dict[str, float]:
    source: Mapping[str, Any] = span.call.metadata if span.call is not None else span.attributes
    numbers = {k: float(v) for k, v in source.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {k: v for k, v in numbers.items() if math.isfinite(v)}


def _simple(value: Any) -> Any:
    """A value that every exporter can carry: string, number, boolean, or a list of strings or numbers."""
    kind = type(value)
    if kind is str or kind is int or kind is bool:
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # not every format has a NaN
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(value)
    return preview(value)


@dataclass
class HyperFunctionStats:
    """The calls of one component in numbers; durations in seconds, quantiles by linear interpolation."""

    fn_name: str
    call_count: int
    success_count: int
    error_count: int
    total_elapsed_s: float
    min_elapsed_s: float
    max_elapsed_s: float
    mean_elapsed_s: float
    p50_elapsed_s: float
    p95_elapsed_s: float
    p99_elapsed_s: float
    error_rate: float
    total_input_tokens: int | None = None
    total_output_tokens: int | None = None
    total_cost_usd: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class TraceSummary:
    """All calls of a session in numbers.

    Attributes:
        start_time, end_time: ISO 8601, UTC; empty without calls.
        total_elapsed_s: from the first beginning to the last end.
        by_function: by component.
        dropped: observations that no longer fitted into the history or a queue; they are missing here.
    """

    session_id: str
    start_time: str
    end_time: str
    total_calls: int
    total_errors: int
    total_elapsed_s: float
    by_function: dict[str, HyperFunctionStats]
    total_input_tokens: int | None = None
    total_output_tokens: int | None = None
    total_cost_usd: float | None = None
    dropped: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self, indent: int = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    def to_markdown(self) -> str:
        """A heading, the totals, and a table of components, slowest in sum first."""
        money = "" if self.total_cost_usd is None else f", ${self.total_cost_usd:.4f}"
        lines = [
            f"# Trace {self.session_id}",
            "",
            f"{self.total_calls} calls, {self.total_errors} errors, {self.total_elapsed_s:.3f} s{money}",
            "",
            "| function | calls | errors | mean ms | p50 ms | p95 ms | p99 ms | tokens in | tokens out | USD |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for stats in sorted(self.by_function.values(), key=lambda s: -s.total_elapsed_s):
            times = (stats.mean_elapsed_s, stats.p50_elapsed_s, stats.p95_elapsed_s, stats.p99_elapsed_s)
            cells = [
                stats.fn_name.replace("|", "\\|"),
                str(stats.call_count),
                str(stats.error_count),
                *(f"{seconds * 1000:.2f}" for seconds in times),
                "–" if stats.total_input_tokens is None else str(stats.total_input_tokens),
                "–" if stats.total_output_tokens is None else str(stats.total_output_tokens),
                "–" if stats.total_cost_usd is None else f"{stats.total_cost_usd:.4f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def summarize(observations: Sequence[ObservationRecord], session_id: str = "", dropped: int = 0) -> TraceSummary:
    """Summarize the calls among ``observations``."""
    calls = [record for record in observations if record.kind == "call"]
    grouped: dict[str, list[ObservationRecord]] = {}
    for record in calls:
        grouped.setdefault(record.fn_name, []).append(record)
    first = min(calls, key=lambda r: r.timestamp, default=None)
    begin = min((record.start_ns for record in calls), default=0)
    end = max((record.end_ns for record in calls), default=0)
    return TraceSummary(
        session_id=session_id,
        start_time=first.timestamp if first else "",
        end_time=datetime.fromtimestamp(end / 1e9, UTC).isoformat() if end else "",
        total_calls=len(calls),
        total_errors=sum(not record.success for record in calls),
        total_elapsed_s=max(0, end - begin) / 1e9,
        by_function={name: _stats(name, records) for name, records in sorted(grouped.items())},
        total_input_tokens=_total([record.gen_ai_usage_input_tokens for record in calls]),
        total_output_tokens=_total([record.gen_ai_usage_output_tokens for record in calls]),
        total_cost_usd=_total([record.cost_usd for record in calls]),
        dropped=dropped,
    )


def _stats(name: str, records: Sequence[ObservationRecord]) -> HyperFunctionStats:
    times = sorted(record.elapsed_s for record in records)
    errors = sum(not record.success for record in records)
    return HyperFunctionStats(
        fn_name=name,
        call_count=len(records),
        success_count=len(records) - errors,
        error_count=errors,
        total_elapsed_s=sum(times),
        min_elapsed_s=times[0],
        max_elapsed_s=times[-1],
        mean_elapsed_s=sum(times) / len(times),
        p50_elapsed_s=_quantile(times, 0.50),
        p95_elapsed_s=_quantile(times, 0.95),
        p99_elapsed_s=_quantile(times, 0.99),
        error_rate=errors / len(records),
        total_input_tokens=_total([record.gen_ai_usage_input_tokens for record in records]),
        total_output_tokens=_total([record.gen_ai_usage_output_tokens for record in records]),
        total_cost_usd=_total([record.cost_usd for record in records]),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _total(values: Sequence[Any]) -> Any:
    present = [value for value in values if value is not None]
    return sum(present) if present else None
