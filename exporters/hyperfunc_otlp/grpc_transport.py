"""Carries encoded requests to a collector by gRPC. Imported only where that protocol is chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]

from hyperfunc_otlp.errors import ExportError
from hyperfunc_otlp.transport import RESPONSES, Patience, Signal, TryAgain, check_accepted, with_environment

__all__ = ["GrpcTransport"]

_METHODS = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
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
        self._metadata = tuple((name.lower(), value) for name, value in with_environment(headers).items())
        self._patience = Patience(timeout_s)
        if insecure and address.scheme != "https":
            self._channel = grpc.insecure_channel(address.netloc)
        else:
            self._channel = grpc.secure_channel(address.netloc, grpc.ssl_channel_credentials(_certificates()))
        # Requests are bytes already: no serializer.
        self._methods = {
            signal: self._channel.unary_unary(path, response_deserializer=RESPONSES[signal].FromString)
            for signal, path in _METHODS.items()
        }

    def send(self, signal: Signal, request: bytes) -> None:
        def attempt(left_s: float) -> None:
            try:
                check_accepted(self._methods[signal](request, timeout=left_s, metadata=self._metadata))
            except grpc.RpcError as error:
                reason = f"the collector at {self._endpoint} did not take the {signal}: {_told(error)}"
                if error.code() in _TRY_AGAIN_CODES:
                    raise TryAgain(reason) from error
                raise ExportError(reason) from error

        self._patience.through(attempt)

    def close(self) -> None:
        self._patience.close()
        self._channel.close()


def _told(error: Any) -> str:
    return f"{error.code().name}, {error.details()}"


def _certificates() -> bytes | None:
    path = os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE")
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()
