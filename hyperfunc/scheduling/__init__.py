"""Where a run's effort goes: what it will cost."""

from __future__ import annotations

from hyperfunc.scheduling.forecast import Forecast

__all__ = ["Forecast"]
