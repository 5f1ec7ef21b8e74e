"""Carries encoded requests to a collector, by gRPC or HTTP. Knows neither spans nor metrics.

A collector that says "not now" is asked again, as the protocol demands
(https://opentelemetry.io/docs/specs/otlp/#failures), until the time for the batch is over.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol
from urllib.parse import unquote, urlsplit

import grpc  # type: ignore[import-untyped]
import requests
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from hyperfunc_otlp.errors import ExportError

__all__ = ["GrpcTransport", "HttpTransport", "Signal", "Transport"]

Signal = Literal["traces", "metrics"]

_METHODS = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
_RESPONSES: dict[str, Any] = {"traces": ExportTraceServiceResponse, "metrics": ExportMetricsServiceResponse}
_TRY_AGAIN_CODES = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
    }
)
_TRY_AGAIN_STATUSES = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S = 0.25


class Transport(Protocol):
    """One way to a collector."""

    def send(self, signal: Signal, request: bytes) -> None:
        """Deliver an encoded request; ExportError where that was not possible in time."""
        ...

    def close(self) -> None:
        """Give the connection up, and end a ``send`` that waits between two attempts."""
        ...


class _TryAgain(Exception):
    """The collector asked for another attempt, ``after_s`` from now if it said when."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class _Patience:
    """Attempts with growing pauses, until the time is over or the transport is closed."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def through(self, attempt: Callable[[float], None]) -> None:
        """Call ``attempt`` with the seconds that are left until it raises no :class:`_TryAgain`."""
        deadline = time.monotonic() + self._timeout_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                attempt(max(0.001, deadline - time.monotonic()))
                return
            except _TryAgain as error:
                # Up to a fifth off, so that many processes do not come back at the same moment.
                wait = error.after_s if error.after_s is not None else pause * random.uniform(0.8, 1.0)
                if time.monotonic() + wait >= deadline or self._closed.wait(wait):
                    raise ExportError(str(error)) from error.__cause__
                pause *= 2


class GrpcTransport:
    """OTLP over gRPC.

    Args:
        endpoint: ``http://host:4317``; ``https`` for TLS.
        insecure: no TLS, whatever a scheme ``http`` may say.
        headers: sent along as metadata.
        timeout_s: longest time for one request, all attempts together.
    """

    def __init__(self, endpoint: str, *, insecure: bool, headers: Mapping[str, str], timeout_s: float) -> None:
        address = urlsplit(endpoint)
        self._endpoint = endpoint
        self._metadata = tuple((name.lower(), value) for name, value in _with_environment(headers).items())
        self._patience = _Patience(timeout_s)
        if insecure and address.scheme != "https":
            self._channel = grpc.insecure_channel(address.netloc)
        else:
            self._channel = grpc.secure_channel(address.netloc, grpc.ssl_channel_credentials(_certificates()))
        # Requests are bytes already: no serializer.
        self._methods = {
            signal: self._channel.unary_unary(path, response_deserializer=_RESPONSES[signal].FromString)
            for signal, path in _METHODS.items()
        }

    def send(self, signal: Signal, request: bytes) -> None:
        def attempt(left_s: float) -> None:
            try:
                _check_accepted(self._methods[signal](request, timeout=left_s, metadata=self._metadata))
            except grpc.RpcError as error:
                reason = f"the collector at {self._endpoint} did not take the {signal}: {_told(error)}"
                if error.code() in _TRY_AGAIN_CODES:
                    raise _TryAgain(reason) from error
                raise ExportError(reason) from error

        self._patience.through(attempt)

    def close(self) -> None:
        self._patience.close()
        self._channel.close()


def _told(error: Any) -> str:
    return f"{error.code().name}, {error.details()}"


class HttpTransport:
    """OTLP over HTTP, protobuf encoding; through the environment's proxy where one is set.

    Args:
        endpoint: ``http://host:4318``; ``/v1/traces`` and ``/v1/metrics`` are added.
        headers: sent along.
        timeout_s: longest time for one request, all attempts together; seconds between two pieces of a slow reply are
            limited by it too.
    """

    def __init__(self, endpoint: str, *, headers: Mapping[str, str], timeout_s: float) -> None:
        self._endpoint = endpoint.rstrip("/")
        for path in ("/v1/traces", "/v1/metrics"):
            self._endpoint = self._endpoint.removesuffix(path)
        self._patience = _Patience(timeout_s)
        self._session = requests.Session()
        self._session.headers.update({**_with_environment(headers), "content-type": "application/x-protobuf"})
        self._certificates = os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE") or None

    def send(self, signal: Signal, request: bytes) -> None:
        url = f"{self._endpoint}/v1/{signal}"

        def attempt(left_s: float) -> None:
            try:
                # Said for each request: REQUESTS_CA_BUNDLE would take precedence over what a session says.
                reply = self._session.post(
                    url, request, timeout=left_s, allow_redirects=False, verify=self._certificates
                )
            except requests.exceptions.SSLError as error:
                raise ExportError(f"the collector at {url} is not trusted: {error}") from error
            except requests.ConnectionError as error:
                raise _TryAgain(f"the collector at {url} cannot be reached: {error}") from error
            except requests.RequestException as error:
                raise ExportError(f"the collector at {url} did not answer: {error}") from error
            if reply.status_code in _TRY_AGAIN_STATUSES:
                raise _TryAgain(f"the collector at {url} answered {reply.status_code}", _retry_after(reply))
            if not reply.ok or reply.is_redirect:
                raise ExportError(f"the collector at {url} answered {reply.status_code} {reply.text[:200]!r}")
            if reply.headers.get("content-type", "").startswith("application/x-protobuf"):
                _check_accepted(_RESPONSES[signal].FromString(reply.content))

        self._patience.through(attempt)

    def close(self) -> None:
        self._patience.close()
        self._session.close()


def _retry_after(reply: Any) -> float | None:
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def _check_accepted(response: Any) -> None:
    """A collector may take a request and reject a part of it."""
    partial = response.partial_success
    rejected = getattr(partial, "rejected_spans", 0) or getattr(partial, "rejected_data_points", 0)
    if rejected:
        raise ExportError(f"the collector rejected {rejected} of a batch: {partial.error_message}")


def _with_environment(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of OTEL_EXPORTER_OTLP_HEADERS (``name=value,name=value``), and over them those given."""
    pairs = [pair.partition("=") for pair in os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",") if "=" in pair]
    return {**{name.strip(): unquote(value.strip()) for name, _, value in pairs}, **headers}


def _certificates() -> bytes | None:
    path = os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()
