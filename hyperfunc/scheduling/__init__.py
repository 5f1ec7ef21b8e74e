"""Where a run's effort goes: what it will cost, and what of its scheduling learns from it."""

from __future__ import annotations

from hyperfunc.population.kernel_size import BoundedKernels
from hyperfunc.population.pace import MeasuredPace
from hyperfunc.scheduling.economy import Economy
from hyperfunc.scheduling.focus import Focus
from hyperfunc.scheduling.forecast import Forecast
from hyperfunc.scheduling.minibatch_size import AdaptiveMinibatch
from hyperfunc.scheduling.racing import Racing

__all__ = ["AdaptiveMinibatch", "BoundedKernels", "Economy", "Focus", "Forecast", "MeasuredPace", "Racing"]
