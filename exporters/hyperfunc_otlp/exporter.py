"""Sends spans and metrics over OTLP. Knows what to send; the wire is the transport's."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from hyperfunc.errors import ConfigurationError, MissingDependencyError
from hyperfunc.observability import MetricPoint, ObservationRecord, Span, TraceSummary
from hyperfunc.observability import conventions as names
from hyperfunc_otlp.errors import ExportError

__all__ = ["OTLPExporter"]

_KNOCK_SECONDS = 1.0
_PROTOCOLS = {"grpc": "grpc", "http": "http", "http/protobuf": "http"}


class OTLPExporter:
    """Sends spans to ``/v1/traces`` and metrics to ``/v1/metrics`` of a collector.

    Of the standard environment variables, OTEL_EXPORTER_OTLP_HEADERS and OTEL_EXPORTER_OTLP_CERTIFICATE are read.

    Args:
        endpoint: ``http://host:4317`` for gRPC, ``http://host:4318`` for HTTP (the paths are added).
        protocol: ``"grpc"`` or ``"http"`` (protobuf).
        service_name: how viewers call this program.
        insecure: gRPC without TLS, unless the endpoint says ``https``.
        headers: sent along, for example an authorization.
        timeout_s: longest time for one batch, retries included.
        resource: further attributes of the resource (Phoenix: ``openinference.project.name``).
        metrics: send metrics too; viewers that take only traces answer them with an error.

    Raises:
        ConfigurationError: an unknown protocol, or an endpoint that is no URL.
        MissingDependencyError: the OpenTelemetry messages or a client for the protocol are not installed.
    """

    def __init__(
        self,
        endpoint: str = "http://localhost:4317",
        protocol: str = "grpc",
        service_name: str = "hyperfunc",
        insecure: bool = True,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 5.0,
        resource: Mapping[str, str] | None = None,
        metrics: bool = True,
    ) -> None:
        if protocol not in _PROTOCOLS:
            raise ConfigurationError(f"protocol must be 'grpc' or 'http', got {protocol!r}")
        if urlsplit(endpoint).scheme not in {"http", "https"}:
            raise ConfigurationError(f"endpoint must be a URL such as http://localhost:4317, got {endpoint!r}")
        try:
            encoding: Any = import_module("hyperfunc_otlp.spans")
            self._metrics: Any = import_module("hyperfunc_otlp.metrics")
            transports: Any = import_module(f"hyperfunc_otlp.{_PROTOCOLS[protocol]}_transport")
        except ImportError as error:
            raise MissingDependencyError(error.name or "opentelemetry-proto", "otlp") from error
        self._endpoint = endpoint
        self._reached = False
        self._sends_metrics = metrics
        self._resource = {names.SERVICE_NAME: service_name, **(resource or {})}
        self._encoder = encoding.SpanEncoder(self._resource)
        sent = dict(headers or {})
        if _PROTOCOLS[protocol] == "grpc":
            self._transport = transports.GrpcTransport(endpoint, insecure=insecure, headers=sent, timeout_s=timeout_s)
        else:
            self._transport = transports.HttpTransport(endpoint, headers=sent, timeout_s=timeout_s)

    def export(self, observations: Sequence[ObservationRecord], summary: TraceSummary | None = None) -> None:
        """Send a batch of observations; those that belong to no trace are left out.

        Raises:
            ExportError: the collector did not take it in time.
        """
        traced = [record for record in observations if record.span_id]
        if traced:
            self._knock()
            self._deliver("traces", self._encoder.request(map(self._encoder.record, traced)))

    def export_spans(self, spans: Sequence[Span], *, content: bool) -> None:
        """Send a batch of spans. Raises ExportError as :meth:`export` does."""
        self._knock()
        self._deliver("traces", self._encoder.request([self._encoder.span(span, content) for span in spans]))

    def export_metrics(self, points: list[MetricPoint]) -> None:
        """Send all series. Raises ExportError as :meth:`export` does."""
        if self._sends_metrics and points:
            self._knock()
            self._deliver("metrics", self._metrics.metrics_request(points, self._resource))

    def shutdown(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _deliver(self, signal: str, request: bytes) -> None:
        self._reached = False
        self._transport.send(signal, request)
        self._reached = True

    def _knock(self) -> None:
        """Fail at once where nobody listens; a transport would try again until the time is over."""
        address = urlsplit(self._endpoint)
        if self._reached or address.scheme in getproxies():
            return
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "localhost", port), timeout=_KNOCK_SECONDS).close()
        except OSError as error:
            raise ExportError(f"nobody answers at {self._endpoint}: {error}; is the collector running?") from error
