"""Observations as JSON or JSON lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperfunc.lazy import lazy_names

if TYPE_CHECKING:  # what the table below says, for type checkers and editors
    from hyperfunc_json.exporter import JSONExporter

__all__ = ["JSONExporter"]

__getattr__ = lazy_names(
    __name__,
    {
        "hyperfunc_json.exporter": ("JSONExporter",),
    },
)
