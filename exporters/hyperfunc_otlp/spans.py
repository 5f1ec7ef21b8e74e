"""Spans and observations as the bytes of an ``ExportTraceServiceRequest``. Imported only where something is exported.

Every message is made by the official protobuf classes, but the same few attributes (the model, the operation, …) recur
in thousands of spans: each is encoded once and its bytes are copied. Protobuf allows that: the encoding of a message is
that of its fields, one after another (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from hyperfunc.observability import ObservationRecord, Span, attributes_of, error_of
from hyperfunc.observability import conventions as names

__all__ = ["SpanEncoder", "key_values"]

_RESOURCE_SPANS = b"\x0a"  # field 1 of ExportTraceServiceRequest, and so on; 2 says: length, then bytes
_SCOPE_SPANS = b"\x12"
_SPANS = b"\x12"
_FLAGS = 0x101  # sampled; the parent is known not to be remote
_KNOWN_ATTRIBUTES = 4096
_PLAIN = (str, int, float, bool)
_LONGEST_KNOWN = 100  # characters; longer strings are contents, which do not recur


class SpanEncoder:
    """Encodes spans of one resource. For one thread.

    Args:
        resource: attributes of the resource, ``service.name`` among them.
    """

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._head = ResourceSpans(resource=Resource(attributes=key_values(resource))).SerializeToString()
        self._scope = ScopeSpans(scope=InstrumentationScope(name=names.SCOPE_NAME)).SerializeToString()
        self._known: dict[tuple[str, Any, type, type], bytes] = {}

    def request(self, spans: Iterable[bytes]) -> bytes:
        """The request that carries these encoded spans."""
        parts = [self._scope]
        for span in spans:
            parts += (_SPANS, _length(span), span)
        scope = b"".join(parts)
        resource = b"".join((self._head, _SCOPE_SPANS, _length(scope), scope))
        return b"".join((_RESOURCE_SPANS, _length(resource), resource))

    def span(self, span: Span, content: bool) -> bytes:
        """A finished span; ``content`` includes inputs and outputs of its call."""
        return self._encode(
            span.kind,
            span.name,
            {
                "trace_id": span.trace_id.to_bytes(16, "big"),
                "span_id": span.span_id.to_bytes(8, "big"),
                "parent_span_id": span.parent_id.to_bytes(8, "big") if span.parent_id else b"",
                "start_time_unix_nano": span.start_ns,
                "end_time_unix_nano": span.end_ns,
            },
            attributes_of(span, content),
            span.events,
            None if span.error is None else error_of(span),
        )

    def record(self, record: ObservationRecord) -> bytes:
        """An observation that belongs to a trace."""
        return self._encode(
            record.kind,
            record.fn_name,
            {
                "trace_id": bytes.fromhex(record.trace_id),
                "span_id": bytes.fromhex(record.span_id),
                "parent_span_id": bytes.fromhex(record.parent_id),
                "start_time_unix_nano": record.start_ns,
                "end_time_unix_nano": record.end_ns,
            },
            record.attributes,
            record.events,
            None if record.success else (record.error_type, record.error_message),
        )

    def _encode(
        self,
        kind: str,
        function: str,
        identity: dict[str, Any],
        attributes: Mapping[str, Any],
        events: Iterable[tuple[int, str, Mapping[str, Any]]],
        error: tuple[str | None, str | None] | None,
    ) -> bytes:
        model = attributes.get(names.REQUEST_MODEL)
        name = function
        if kind == "call":  # "{operation} {target}", as the conventions ask; runs and generations keep their own names
            name = f"{attributes.get(names.OPERATION_NAME, '')} {model or function}".lstrip()
        message = SpanMessage(
            name=name,
            kind=SpanMessage.SPAN_KIND_CLIENT if model else SpanMessage.SPAN_KIND_INTERNAL,
            flags=_FLAGS,
            **identity,
        )
        for at, event, values in events:
            message.events.add(time_unix_nano=at, name=event, attributes=key_values(values))
        if error is not None:
            what, why = error
            message.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=f"{what}: {why}"))
            details = {"exception.type": what or "", "exception.message": why or ""}
            message.events.add(
                time_unix_nano=identity["end_time_unix_nano"], name="exception", attributes=key_values(details)
            )
        parts = [message.SerializeToString(), self._attribute("hyperfunc.function", function)]
        for key, value in attributes.items():
            parts.append(self._attribute(key, value))
        return b"".join(parts)

    def _attribute(self, key: str, value: Any) -> bytes:
        kind = type(value)
        same = value[0] if kind is list and len(value) == 1 else value
        inner = type(same)
        if inner not in _PLAIN or (inner is str and len(same) > _LONGEST_KNOWN):
            return _attribute(key, value)
        known = self._known.get((key, same, kind, inner))  # the types, since 1 == True
        if known is None:
            if len(self._known) >= _KNOWN_ATTRIBUTES:
                self._known.clear()
            known = self._known[key, same, kind, inner] = _attribute(key, value)
        return known


def _attribute(key: str, value: Any) -> bytes:
    """The field ``attributes`` of a span with this one pair; empty for ``None``."""
    encoded: bytes = SpanMessage(attributes=key_values({key: value})).SerializeToString()
    return encoded


def key_values(values: Mapping[str, Any]) -> list[KeyValue]:
    """The pairs as OpenTelemetry has them; ``None`` is left out, what is no attribute value is told as text."""
    return [KeyValue(key=key, value=_any_value(value)) for key, value in values.items() if value is not None]


def _any_value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[_any_value(item) for item in value]))
    # A lone surrogate is no Unicode text; rather a question mark than no span.
    return AnyValue(string_value=str(value).encode("utf-8", "replace").decode())


def _length(payload: bytes) -> bytes:
    """The length as a base-128 varint."""
    left = len(payload)
    encoded = bytearray()
    while left > 0x7F:
        encoded.append(0x80 | left & 0x7F)
        left >>= 7
    encoded.append(left)
    return bytes(encoded)
