"""An OpenTelemetry collector on loopback, for tests: gRPC and HTTP, traces and metrics, with scripted faults.

Needs the extra ``otlp`` (grpcio, opentelemetry-proto). Decodes what arrives with the official protobuf classes.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from types import TracebackType
from typing import Any

from hyperfunc.errors import MissingDependencyError

_PROTOCOL = "opentelemetry.proto.collector"
try:
    grpc: Any = import_module("grpc")
    metrics_service_pb2: Any = import_module(f"{_PROTOCOL}.metrics.v1.metrics_service_pb2")
    metrics_service_pb2_grpc: Any = import_module(f"{_PROTOCOL}.metrics.v1.metrics_service_pb2_grpc")
    trace_service_pb2: Any = import_module(f"{_PROTOCOL}.trace.v1.trace_service_pb2")
    trace_service_pb2_grpc: Any = import_module(f"{_PROTOCOL}.trace.v1.trace_service_pb2_grpc")
except ImportError as error:
    raise MissingDependencyError("opentelemetry-exporter-otlp", "otlp") from error

__all__ = ["OTLPReceiver", "ReceivedMetric", "ReceivedSpan"]


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came over the wire.

    Attributes:
        trace_id, span_id, parent_id: hex; ``parent_id`` is empty at the root.
        status: 0 unset, 1 ok, 2 error.
        events: name -> attributes.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    kind: int
    status: int
    status_message: str
    attributes: Mapping[str, Any]
    events: Mapping[str, Mapping[str, Any]]
    resource: Mapping[str, Any]


@dataclass(frozen=True)
class ReceivedMetric:
    """One data point.

    Attributes:
        value: of a gauge; the sum of a histogram.
    """

    name: str
    unit: str
    attributes: Mapping[str, Any]
    value: float
    count: int = 0
    bucket_counts: tuple[int, ...] = ()
    bounds: tuple[float, ...] = ()


@dataclass
class OTLPReceiver:
    """``with OTLPReceiver() as receiver:``, listening on ``grpc_endpoint`` and ``http_endpoint``.

    Args:
        status: what HTTP requests are answered with (gRPC: anything but 200 is UNAVAILABLE).

    Attributes:
        spans, metrics: what arrived, in order.
        requests: (path, headers with lower-case names) of each HTTP request.
        hold: clear it to let requests wait, until it is set or the receiver is closed.
    """

    status: int = 200
    spans: list[ReceivedSpan] = field(default_factory=list)
    metrics: list[ReceivedMetric] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hold.set()
        self._lock = threading.Lock()

    @property
    def grpc_endpoint(self) -> str:
        return f"http://127.0.0.1:{self._grpc_port}"

    @property
    def http_endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> OTLPReceiver:
        self._grpc = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(self), self._grpc)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(self), self._grpc)
        self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.01,), name="otlp-receiver", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hold.set()
        self._grpc.stop(None).wait()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def span(self, name: str) -> ReceivedSpan:
        """The one span of this name; AssertionError names those that came."""
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, f"{len(found)} spans named {name!r}; got {sorted(s.name for s in self.spans)}"
        return found[0]

    def take_traces(self, request: Any) -> None:
        """Decode an ``ExportTraceServiceRequest``."""
        received = [
            _span(span, _attributes(resource.resource.attributes))
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self.spans += received

    def take_metrics(self, request: Any) -> None:
        """Decode an ``ExportMetricsServiceRequest``."""
        received = [
            point
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in _points(metric)
        ]
        with self._lock:
            self.metrics += received


def _servicer(receiver: OTLPReceiver, take: Any, response: Any, context: Any, request: Any) -> Any:
    receiver.hold.wait()
    if receiver.status != 200:
        context.abort(grpc.StatusCode.UNAVAILABLE, "scripted fault")
    take(request)
    return response


class _Traces:
    def __init__(self, receiver: OTLPReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        response = trace_service_pb2.ExportTraceServiceResponse()
        return _servicer(self._receiver, self._receiver.take_traces, response, context, request)


class _Metrics:
    def __init__(self, receiver: OTLPReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        response = metrics_service_pb2.ExportMetricsServiceResponse()
        return _servicer(self._receiver, self._receiver.take_metrics, response, context, request)


def _handler(receiver: OTLPReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            with receiver._lock:
                receiver.requests.append((self.path, headers))
            receiver.hold.wait()
            if receiver.status == 200:
                if self.path.endswith("/traces"):
                    receiver.take_traces(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
                elif self.path.endswith("/metrics"):
                    receiver.take_metrics(metrics_service_pb2.ExportMetricsServiceRequest.FromString(body))
            try:
                self.send_response(receiver.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()
            except OSError:  # the client has given up
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            return

    return Handler


def _span(span: Any, resource: Mapping[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        kind=span.kind,
        status=span.status.code,
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        events={event.name: _attributes(event.attributes) for event in span.events},
        resource=resource,
    )


def _points(metric: Any) -> list[ReceivedMetric]:
    if metric.HasField("histogram"):
        return [
            ReceivedMetric(
                metric.name,
                metric.unit,
                _attributes(point.attributes),
                point.sum,
                point.count,
                tuple(point.bucket_counts),
                tuple(point.explicit_bounds),
            )
            for point in metric.histogram.data_points
        ]
    return [
        ReceivedMetric(metric.name, metric.unit, _attributes(point.attributes), point.as_double or point.as_int)
        for point in metric.gauge.data_points
    ]


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
