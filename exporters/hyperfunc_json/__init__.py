"""Observations as JSON or JSON lines."""

from __future__ import annotations

from hyperfunc_json.exporter import JSONExporter

__all__ = ["JSONExporter"]
