"""What can go wrong on the way to a collector."""

from __future__ import annotations

from hyperfunc.errors import HyperfuncError

__all__ = ["ExportError"]


class ExportError(HyperfuncError):
    """A collector did not take a batch."""
