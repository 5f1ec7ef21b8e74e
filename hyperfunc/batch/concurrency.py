"""How many calls run at once, by what was measured: more while that completes more per second, fewer where it does not.

The size stays around the knee of the throughput (:mod:`hyperfunc.population.throughput_climb`), the smallest that
completes about as much as any: a larger one only makes each call wait. While there is too little to do, nothing is
learned (:mod:`hyperfunc.population.in_flight`). Which calls are made, and what they return, does not depend on any of
this. Knows nothing of what is called.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

from hyperfunc.errors import ConfigurationError
from hyperfunc.population.in_flight import InFlight
from hyperfunc.population.throughput_climb import ThroughputClimb

__all__ = ["MeasuredConcurrency", "Slots"]


@dataclass(frozen=True, kw_only=True)
class MeasuredConcurrency:
    """How many calls run at once, within limits.

    Args:
        first: calls at once before anything was measured.
        least, most: the limits, at least 1.
        step: greatest factor of a change, above 1.
        worthwhile: the share of the ideal gain that a step up must bring, above 0 and below 1.

    Raises:
        ConfigurationError: a number out of range.
    """

    first: int = 8
    least: int = 1
    most: int = 256
    step: float = 1.5
    worthwhile: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.first <= self.most:
            raise ConfigurationError(
                f"expected 1 <= least <= first <= most, got least={self.least}, first={self.first}, most={self.most}"
            )
        if not self.step > 1:
            raise ConfigurationError(f"step: expected a factor above 1, got {self.step}")
        if not 0 < self.worthwhile < 1:
            raise ConfigurationError(f"worthwhile: expected a share above 0 and below 1, got {self.worthwhile}")


class Slots:
    """As many calls at once as was found to be best: ``async with slots: await call()``.

    Args:
        measured: the limits.
    """

    def __init__(self, measured: MeasuredConcurrency) -> None:
        climb = ThroughputClimb(
            measured.first, measured.least, measured.most, step=measured.step, worthwhile=measured.worthwhile
        )
        self._calls = InFlight(climb)
        self._free = asyncio.Condition()

    @property
    def size(self) -> int:
        """Most calls at once for now."""
        return self._calls.limit

    @property
    def in_flight(self) -> int:
        """Calls that run."""
        return self._calls.count

    async def __aenter__(self) -> Slots:
        async with self._free:
            await self._free.wait_for(lambda: self._calls.has_room)
            self._calls.began(asyncio.get_running_loop().time())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(error, asyncio.CancelledError):
            self._calls.abandoned(now)
        else:
            self._calls.ended(now)
        async with self._free:
            self._free.notify(max(0, self.size - self.in_flight))
