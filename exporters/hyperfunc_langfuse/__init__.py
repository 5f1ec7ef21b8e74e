"""Observations to Langfuse."""

from __future__ import annotations

from hyperfunc_langfuse.exporter import LangFuseExporter

__all__ = ["LangFuseExporter"]
