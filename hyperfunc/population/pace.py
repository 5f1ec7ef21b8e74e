"""How many runs of a population are alive at once, by their measured throughput; bits do not depend on it.

What was found by measuring which sizes may vary (torch 2.13, CPU, one intra-op thread; ``python -m
benchmarks.scheduling bits``; factored and dense members of layers from 2 x 1 to 256 x 200, and other operations):

- runs alive at once, and blocks open at once: no bits change, by construction. A call's row in its kernel follows from
  its member and example, rows nobody needs hold copies, and every block has kernels of its own
  (:mod:`hyperfunc.population.gathered_kernel`). This is what is measured and varied here.
- the number of rows of a gathered kernel: matrix products kept their bits in all of 576 cases, but ``tanh``, ``exp``
  and the like did not in 47 of 288. It stays a function of sizes.
- the number of examples in a lifted kernel: 93 of 1 152 cases changed bits, products and elementwise operations both;
  the number of members: 19 of 288. Those stay what the configuration says
  (:mod:`hyperfunc.population.kernel_size`).

That outputs agree for the sizes of one generation would not prove it for the next: an output that is rounded, averaged
or counted hides the last bits of what it is made of. So sizes that can change bits are never chosen by the clock.

Knows nothing of programs; how the number is found is :mod:`hyperfunc.population.throughput_climb`.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperfunc.errors import ConfigurationError
from hyperfunc.population.in_flight import InFlight
from hyperfunc.population.run_window import RunWindow
from hyperfunc.population.throughput_climb import ThroughputClimb

__all__ = ["MeasuredPace"]


@dataclass(frozen=True, kw_only=True)
class MeasuredPace:
    """How many gathered runs are alive at once: as many as complete more per second, up to ``Settings(window=…)``.

    Args:
        first: runs alive before anything was measured.
        least: the fewest, at least 1.
        step: the greatest factor of a change, above 1.
        worthwhile: share of the ideal gain that a step up must bring, above 0 and below 1.

    Raises:
        ConfigurationError: a number out of range.
    """

    first: int = 32
    least: int = 1
    step: float = 2.0
    worthwhile: float = 0.1

    def __post_init__(self) -> None:
        for name in ("first", "least"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name}: expected a whole number of runs >= 1, got {value!r}")
        if self.least > self.first:
            raise ConfigurationError(f"expected least <= first, got least={self.least} and first={self.first}")
        if not self.step > 1:
            raise ConfigurationError(f"step: expected a factor above 1, got {self.step}")
        if not 0 < self.worthwhile < 1:
            raise ConfigurationError(f"worthwhile: expected a share above 0 and below 1, got {self.worthwhile}")

    def window(self, most: int, first: int | None = None) -> RunWindow:
        """A window for all blocks of a run.

        Args:
            most: the most runs alive; it goes before ``first`` and ``least``.
            first: what an earlier part of the run found.
        """
        start = min(max(self.first if first is None else first, self.least), most)
        climb = ThroughputClimb(start, min(self.least, most), most, step=self.step, worthwhile=self.worthwhile)
        return RunWindow(InFlight(climb))
