"""Observations over OTLP, by gRPC or HTTP, to any OpenTelemetry collector."""

from __future__ import annotations

from hyperfunc_otlp.context import opentelemetry_context
from hyperfunc_otlp.exporter import ExportError, OTLPExporter

__all__ = ["ExportError", "OTLPExporter", "opentelemetry_context"]
