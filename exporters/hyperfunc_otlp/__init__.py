"""Observations over OTLP, by gRPC or HTTP, to any OpenTelemetry collector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperfunc.lazy import lazy_names

if TYPE_CHECKING:  # what the table below says, for type checkers and editors
    from hyperfunc_otlp.context import opentelemetry_context
    from hyperfunc_otlp.errors import ExportError
    from hyperfunc_otlp.exporter import OTLPExporter

__all__ = ["ExportError", "OTLPExporter", "opentelemetry_context"]

__getattr__ = lazy_names(
    __name__,
    {
        "hyperfunc_otlp.context": ("opentelemetry_context",),
        "hyperfunc_otlp.errors": ("ExportError",),
        "hyperfunc_otlp.exporter": ("OTLPExporter",),
    },
)
