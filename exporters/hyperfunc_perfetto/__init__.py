"""Observations as a Chrome trace, for ui.perfetto.dev and chrome://tracing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperfunc.lazy import lazy_names

if TYPE_CHECKING:  # what the table below says, for type checkers and editors
    from hyperfunc_perfetto.exporter import PerfettoExporter

__all__ = ["PerfettoExporter"]

__getattr__ = lazy_names(
    __name__,
    {
        "hyperfunc_perfetto.exporter": ("PerfettoExporter",),
    },
)
