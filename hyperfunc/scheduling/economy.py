"""What a run learns about where its evaluations go. Knows only the settings; each part says how it works."""

from __future__ import annotations

from dataclasses import dataclass, field

from hyperfunc.population.kernel_size import BoundedKernels
from hyperfunc.population.pace import MeasuredPace
from hyperfunc.scheduling.focus import Focus
from hyperfunc.scheduling.minibatch_size import AdaptiveMinibatch
from hyperfunc.scheduling.racing import Racing

__all__ = ["NO_ECONOMY", "Economy"]


@dataclass(frozen=True, kw_only=True)
class Economy:
    """Which savings are on; those that are not named are off.

    Args:
        racing: members whose place is decided stop before all of a generation's examples are run.
        minibatch: the number of examples per generation follows the noise.
        focus: components whose perturbations explain nothing of the fitness pause.
        kernels: lifted programs with large tensors take a few examples at a time.
        pace: the number of gathered runs alive at once follows the measured throughput. It changes no bits, so that it
            is no part of a run's configuration: a resumed run may have another one, or none.
    """

    racing: Racing | None = None
    minibatch: AdaptiveMinibatch | None = None
    focus: Focus | None = None
    kernels: BoundedKernels | None = None
    pace: MeasuredPace | None = field(default=None, repr=False)  # the repr tells which runs are the same


NO_ECONOMY = Economy()
