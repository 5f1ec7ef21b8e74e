"""Sends observations and metrics over OTLP. Knows the wire, not the run."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from hyperfunc.errors import ConfigurationError, HyperfuncError, MissingDependencyError
from hyperfunc.observability import MetricPoint, ObservationRecord, TraceSummary
from hyperfunc.observability import conventions as names

__all__ = ["ExportError", "OTLPExporter"]

_KNOCK_SECONDS = 1.0
_PROTOCOLS = {"grpc": "grpc", "http": "http", "http/protobuf": "http"}


class ExportError(HyperfuncError):
    """A collector did not take a batch."""


class OTLPExporter:
    """Sends spans to ``/v1/traces`` and metrics to ``/v1/metrics`` of a collector.

    Args:
        endpoint: ``http://host:4317`` for gRPC, ``http://host:4318`` for HTTP (the paths are added).
        protocol: ``"grpc"`` or ``"http"`` (protobuf).
        service_name: how viewers call this program.
        insecure: gRPC without TLS.
        headers: sent along, for example an authorization.
        timeout_s: longest time for one batch, retries included.
        resource: further attributes of the resource (Phoenix: ``openinference.project.name``).
        metrics: send metrics too; viewers that take only traces answer them with an error.

    Raises:
        ConfigurationError: an unknown protocol, or an endpoint that is no URL.
        MissingDependencyError: the OpenTelemetry SDK or its exporters are not installed.
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
        wire = _PROTOCOLS[protocol]
        try:
            self._convert = import_module("hyperfunc_otlp.convert")
            resources = import_module("opentelemetry.sdk.resources")
            traces = import_module(f"opentelemetry.exporter.otlp.proto.{wire}.trace_exporter")
            metric = import_module(f"opentelemetry.exporter.otlp.proto.{wire}.metric_exporter")
        except ImportError as error:
            raise MissingDependencyError("opentelemetry-exporter-otlp", "otlp") from error
        self._endpoint = endpoint
        self._reached = False
        self._resource = resources.Resource({names.SERVICE_NAME: service_name, **(resource or {})})
        options: dict[str, Any] = {"headers": dict(headers or {}), "timeout": timeout_s}
        if wire == "grpc":
            options |= {"endpoint": endpoint, "insecure": insecure}
            self._spans = traces.OTLPSpanExporter(**options)
            self._metrics = metric.OTLPMetricExporter(**options) if metrics else None
        else:
            self._spans = traces.OTLPSpanExporter(endpoint=_with_path(endpoint, "/v1/traces"), **options)
            self._metrics = (
                metric.OTLPMetricExporter(endpoint=_with_path(endpoint, "/v1/metrics"), **options) if metrics else None
            )

    def export(self, observations: Sequence[ObservationRecord], summary: TraceSummary | None = None) -> None:
        """Send a batch of spans.

        Raises:
            ExportError: the collector did not take it in time.
        """
        traced = [record for record in observations if record.span_id]
        if traced:
            self._knock()
            self._check(self._spans.export(self._convert.to_readable_spans(traced, self._resource)), "spans")

    def export_metrics(self, points: list[MetricPoint]) -> None:
        """Send all series. Raises ExportError as :meth:`export` does."""
        if self._metrics is not None and points:
            self._knock()
            data = self._convert.to_metrics_data(points, self._resource)
            self._check(self._metrics.export(data), "metrics")

    def shutdown(self) -> None:
        """Close the connections."""
        self._spans.shutdown()
        if self._metrics is not None:
            self._metrics.shutdown()

    def _knock(self) -> None:
        """Fail at once where nobody listens: the SDK's exporters would retry until the time is over."""
        address = urlsplit(self._endpoint)
        if self._reached or address.scheme in getproxies():
            return
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "localhost", port), timeout=_KNOCK_SECONDS).close()
        except OSError as error:
            raise ExportError(f"nobody answers at {self._endpoint}: {error}; is the collector running?") from error

    def _check(self, result: Any, what: str) -> None:
        self._reached = result.name == "SUCCESS"
        if not self._reached:
            raise ExportError(f"the collector at {self._endpoint} did not take the {what}; is it running?")


def _with_path(endpoint: str, path: str) -> str:
    known = ("/v1/traces", "/v1/metrics")
    if endpoint.endswith(known):
        endpoint = endpoint[: endpoint.rindex("/v1/")]
    return endpoint.rstrip("/") + path
