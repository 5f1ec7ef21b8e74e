"""Climbing to the knee of throughput: the smallest number at once that completes about as much as any.

A direct search over one whole number (Hooke and Jeeves 1961, doi:10.1145/321062.321069): from where it stands, the
climb tries a step to one side; if that pays it goes on from there, else it comes back and tries the other side; once
neither pays, steps become shorter and are tried ever more seldom. A step up by a factor g pays if it brings at least
``worthwhile`` of the ideal gain g - 1, a step down if it loses less than that share of the ideal loss; so it stands at
the knee, beyond which a larger number only makes each wait longer.

Adaptive concurrency limits (Netflix's *concurrency-limits*, TCP Vegas) compare latency with the least latency seen;
calls of a model differ in length by far more than by waiting, so the throughput is compared here, which says the same
by Little's law. Knows no clock, and nothing of what is at once.
"""

from __future__ import annotations

import math

__all__ = ["ThroughputClimb"]

_SHORTEST_STEP = 1.2
_LONGEST_REST = 16  # observations
_MEMORY = 0.5  # weight of the past in the throughput where the climb stands


class ThroughputClimb:
    """How many at once: give it the throughput of each window, and it says the size of the next.

    Args:
        first: the size before anything was observed.
        least, most: limits, ``1 <= least <= first <= most``.
        step: the greatest factor from one size to the next, above 1.
        worthwhile: share of the ideal gain that a step up must bring, above 0 and below 1.

    Attributes:
        size: how many at once for now.
        standing: where the climb stands; ``size`` is elsewhere while a step is tried.
    """

    def __init__(self, first: int, least: int, most: int, *, step: float, worthwhile: float) -> None:
        self._least, self._most = least, most
        self.stand_at(first)
        self._longest_step = self._step = step
        self._worthwhile = worthwhile
        self._growing = True
        self._vain = 0  # steps in a row that did not pay
        self._rest = 0  # observations until the next step

    def stand_at(self, size: int) -> None:
        """Go on from ``size``, or the nearest that the limits allow, where nothing is known about it."""
        self.size = self.standing = max(self._least, min(size, self._most))
        self._throughput = math.nan

    def observe(self, throughput: float) -> None:
        """Learn what a window at :attr:`size` completed per second, above 0."""
        if self.size != self.standing:
            self._judge(throughput)
        else:
            known = self._throughput
            self._throughput = throughput if math.isnan(known) else _MEMORY * known + (1 - _MEMORY) * throughput
            self._rest -= 1
        if self.size == self.standing and self._rest <= 0:
            self.size = self._neighbour()

    def _judge(self, throughput: float) -> None:
        ideal = self.size / self.standing - 1  # below 0 for a step down
        if throughput / self._throughput - 1 >= self._worthwhile * ideal:
            self.standing, self._throughput = self.size, throughput
            self._vain = self._rest = 0
            self._step = min(self._longest_step, self._step**2)
            return
        self.size = self.standing
        self._growing = not self._growing
        self._vain += 1
        if self._vain % 2 == 0:  # neither side pays
            self._step = max(min(_SHORTEST_STEP, self._longest_step), math.sqrt(self._step))
            self._rest = min(2 ** (self._vain // 2), _LONGEST_REST)

    def _neighbour(self) -> int:
        """The size to try next; where the climb stands, if there is no other within the limits."""
        for _ in range(2):
            if self._growing:
                wanted = min(max(self.standing + 1, round(self.standing * self._step)), self._most)
            else:
                wanted = max(min(self.standing - 1, round(self.standing / self._step)), self._least)
            if wanted != self.standing:
                return wanted
            self._growing = not self._growing
        return self.standing
