"""How many calls run at once, by what was measured: more while that completes more per second, fewer where it does not.

After every change of size, calls settle; then a window of completions gives a rate. Growing by a factor g ought to
complete g times as much where calls do not hinder each other; once a step up gains less than ``worthwhile`` of that,
the size goes back and tries to shrink, and once a step down loses more than that, it grows again. So it stays around
the knee, the smallest size that completes about as much as any: a larger one only makes each call wait. Windows while
there was too little to do say nothing and are dropped. Which calls are made, and what they return, does not depend on
any of this.

Throughput, not latency, is compared, since calls of a model differ in length by far more than by waiting; the two say
the same by Little's law. Knows nothing of what is called.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

from hyperfunc.errors import ConfigurationError

__all__ = ["MeasuredConcurrency", "Slots"]


@dataclass(frozen=True, kw_only=True)
class MeasuredConcurrency:
    """How many calls run at once, within limits.

    Args:
        first: calls at once before anything was measured.
        least, most: the limits, at least 1.
        step: factor of a change, above 1.
        worthwhile: the share of the ideal gain that a step up must bring, above 0 and below 1.

    Raises:
        ConfigurationError: a number out of range.
    """

    first: int = 8
    least: int = 1
    most: int = 256
    step: float = 1.5
    worthwhile: float = 0.4

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

    Attributes:
        size: most calls at once for now.
        in_flight: calls that run.
    """

    def __init__(self, measured: MeasuredConcurrency) -> None:
        self.size = measured.first
        self.in_flight = 0
        self._measured = measured
        self._free = asyncio.Condition()
        self._settling = measured.first
        self._completed, self._since = 0, 0.0
        self._before: tuple[int, float] | None = None  # the size compared with, and its rate
        self._growing = True

    async def __aenter__(self) -> Slots:
        async with self._free:
            await self._free.wait_for(lambda: self.in_flight < self.size)
            self.in_flight += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._observe(busy=self.in_flight >= self.size)
        self.in_flight -= 1
        async with self._free:
            self._free.notify(max(0, self.size - self.in_flight))

    def _observe(self, *, busy: bool) -> None:
        """One call ended; ``busy``: all slots were taken."""
        if not busy:
            self._settle()
            return
        if self._settling:
            self._settling -= 1
            self._since = asyncio.get_running_loop().time()
            return
        self._completed += 1
        seconds = asyncio.get_running_loop().time() - self._since
        if self._completed >= max(16, 2 * self.size) and seconds > 0:
            self._judge(self._completed / seconds)

    def _judge(self, rate: float) -> None:
        before, self._before = self._before, (self.size, rate)
        if before is not None and before[0] != self.size:
            ideal = self.size / before[0] - 1  # below 0 for a step down
            paid = rate / before[1] - 1 >= self._measured.worthwhile * ideal
            if not paid:  # back, and from there the other way
                self._growing = not self._growing
                self.size, self._before = before[0], before
        self.size = self._next()
        self._settle()

    def _next(self) -> int:
        step, least, most = self._measured.step, self._measured.least, self._measured.most
        wanted = max(self.size + 1, round(self.size * step)) if self._growing else round(self.size / step)
        wanted = max(least, min(wanted, most))
        if wanted == self.size:  # at a limit: the other way
            self._growing = not self._growing
        return wanted

    def _settle(self) -> None:
        """Begin a new window, after the calls in flight."""
        self._settling = self.size
        self._completed = 0
