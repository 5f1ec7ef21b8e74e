"""The trace context as a header, so that spans made in another process hang under the right parent.

Format: W3C Trace Context, https://www.w3.org/TR/trace-context/. Knows no transport: a carrier is a dict of strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hyperfunc.observability.spans import current_span

__all__ = ["TRACEPARENT", "extract", "inject"]

TRACEPARENT = "traceparent"
_FORMAT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")


def inject() -> dict[str, str]:
    """The context of the caller as headers; empty where nothing is traced."""
    span = current_span()
    if span is None:
        return {}
    kept = span.unit is None or span.unit.kept
    return {TRACEPARENT: f"00-{span.trace_id:032x}-{span.span_id:016x}-{'01' if kept else '00'}"}


def extract(carrier: Mapping[str, str]) -> tuple[int, int] | None:
    """(trace id, span id) of the parent, for ``tracing(remote=…)``; ``None`` where there is none or it is malformed,
    as the standard demands."""
    match = _FORMAT.match(carrier.get(TRACEPARENT, "").strip().lower())
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    return (trace_id, span_id) if trace_id and span_id else None
