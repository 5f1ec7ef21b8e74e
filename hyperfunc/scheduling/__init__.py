"""Where a run's effort goes: what it will cost, and what of its scheduling learns from it."""

from __future__ import annotations

from hyperfunc.scheduling.focus import Focus
from hyperfunc.scheduling.forecast import Forecast
from hyperfunc.scheduling.minibatch_size import AdaptiveMinibatch
from hyperfunc.scheduling.racing import Racing
from hyperfunc.scheduling.schedule import Schedule

__all__ = ["AdaptiveMinibatch", "Focus", "Forecast", "Racing", "Schedule"]
