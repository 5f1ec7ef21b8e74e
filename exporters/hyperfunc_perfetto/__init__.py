"""Observations as a Chrome trace, for ui.perfetto.dev and chrome://tracing."""

from __future__ import annotations

from hyperfunc_perfetto.exporter import PerfettoExporter

__all__ = ["PerfettoExporter"]
