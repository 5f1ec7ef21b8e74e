"""What the transports to a collector share. Knows neither gRPC nor HTTP, neither spans nor metrics.

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
from urllib.parse import unquote

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from hyperfunc_otlp.errors import ExportError

__all__ = ["RESPONSES", "Patience", "Signal", "Transport", "TryAgain", "check_accepted", "with_environment"]

Signal = Literal["traces", "metrics"]

RESPONSES: dict[str, Any] = {"traces": ExportTraceServiceResponse, "metrics": ExportMetricsServiceResponse}
_FIRST_PAUSE_S = 0.25


class Transport(Protocol):
    """One way to a collector."""

    def send(self, signal: Signal, request: bytes) -> None:
        """Deliver an encoded request; ExportError where that was not possible in time."""
        ...

    def close(self) -> None:
        """Give the connection up, and end a ``send`` that waits between two attempts."""
        ...


class TryAgain(Exception):
    """The collector asked for another attempt, ``after_s`` from now if it said when."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Patience:
    """Attempts with growing pauses, until the time is over or the transport is closed."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._jitter = random.Random()  # one of its own: the program's random numbers stay as they are

    def close(self) -> None:
        self._closed.set()

    def through(self, attempt: Callable[[float], None]) -> None:
        """Call ``attempt`` with the seconds that are left until it raises no :class:`TryAgain`."""
        deadline = time.monotonic() + self._timeout_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                attempt(max(0.001, deadline - time.monotonic()))
                return
            except TryAgain as error:
                # Up to a fifth off, so that many processes do not come back at the same moment.
                wait = error.after_s if error.after_s is not None else pause * self._jitter.uniform(0.8, 1.0)
                if time.monotonic() + wait >= deadline or self._closed.wait(wait):
                    raise ExportError(str(error)) from error.__cause__
                pause *= 2


def check_accepted(response: Any) -> None:
    """A collector may take a request and reject a part of it."""
    partial = response.partial_success
    rejected = getattr(partial, "rejected_spans", 0) or getattr(partial, "rejected_data_points", 0)
    if rejected:
        raise ExportError(f"the collector rejected {rejected} of a batch: {partial.error_message}")


def with_environment(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of OTEL_EXPORTER_OTLP_HEADERS (``name=value,name=value``), and over them those given."""
    pairs = [pair.partition("=") for pair in os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",") if "=" in pair]
    return {**{name.strip(): unquote(value.strip()) for name, _, value in pairs}, **headers}
