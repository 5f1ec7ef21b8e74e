"""What of a run's scheduling learns from the run. Knows only the settings; each part says how it works."""

from __future__ import annotations

from dataclasses import dataclass

from hyperfunc.scheduling.focus import Focus
from hyperfunc.scheduling.minibatch_size import AdaptiveMinibatch
from hyperfunc.scheduling.racing import Racing

__all__ = ["PLAIN_SCHEDULE", "Schedule"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which parts of the scheduler are on; all are off unless named here.

    Args:
        racing: members whose place is decided stop before all of a generation's examples are run.
        minibatch: the number of examples per generation follows the noise.
        focus: components whose perturbations explain nothing of the fitness pause.
    """

    racing: Racing | None = None
    minibatch: AdaptiveMinibatch | None = None
    focus: Focus | None = None


PLAIN_SCHEDULE = Schedule()
