"""Observations to Langfuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperfunc.lazy import lazy_names

if TYPE_CHECKING:  # what the table below says, for type checkers and editors
    from hyperfunc_langfuse.exporter import LangFuseExporter

__all__ = ["LangFuseExporter"]

__getattr__ = lazy_names(
    __name__,
    {
        "hyperfunc_langfuse.exporter": ("LangFuseExporter",),
    },
)
