"""What is in flight under a limit, and how long it takes: windows of completions, for whoever sets the limit by them.

Throughput at the limit is ``limit × completions / (seconds that all of them were in flight, added up)``, by Little's
law. That holds while things begin and run out, too, when fewer are in flight than may be: a window can go on over the
pauses between rounds of work, and rounds may be shorter than a window. A window is a multiple of the limit, since
things that take alike long end in waves. After every change of the limit, as many completions as were in flight say
nothing. What never came up to the limit says nothing about it and is dropped.

Knows nothing of what is in flight; the caller brings the clock.
"""

from __future__ import annotations

import math

from hyperfunc.population.throughput_climb import ThroughputClimb

__all__ = ["InFlight"]

_SHORTEST_WINDOW = 32  # completions


class InFlight:
    """Things in flight, and how many may be.

    Args:
        climb: sets the limit by the throughput of each window; ``None`` keeps ``limit``.
        limit: how many may be in flight where nothing is measured.

    Attributes:
        limit: how many may be in flight for now.
        count: how many are.
    """

    def __init__(self, climb: ThroughputClimb | None, limit: int = 0) -> None:
        self.climb = climb
        self.limit = limit if climb is None else climb.size
        self.count = 0
        self._settling = self.limit
        self._completed = 0
        self._seconds = 0.0  # of all that was in flight, added up
        self._last = 0.0
        self._reached = False  # whether as many were in flight as may be

    @property
    def standing(self) -> int:
        """The limit that is best so far; another one may be tried for now."""
        return self.limit if self.climb is None else self.climb.standing

    def stand_at(self, limit: int) -> None:
        """Go on from a limit that was found before, where anything is measured; within the same bounds."""
        if self.climb is not None:
            self.climb.stand_at(limit)
            self._set_limit(self.climb.size)

    @property
    def _window(self) -> int:
        """Completions to judge a limit by."""
        return self.limit * max(2, math.ceil(_SHORTEST_WINDOW / self.limit))

    @property
    def has_room(self) -> bool:
        return self.count < self.limit

    def began(self, now: float) -> None:
        """One more is in flight.

        Args:
            now: seconds of a clock that never goes back.
        """
        if self.climb is None:
            self.count += 1
            return
        self._seconds += self.count * (now - self._last)
        self._last = now
        self.count += 1
        if self.count >= self.limit:
            self._reached = True

    def ended(self, now: float) -> None:
        """One has ended, and the limit may be another one now."""
        if self.climb is None:
            self.count -= 1
            return
        self._seconds += self.count * (now - self._last)
        self._last = now
        self.count -= 1
        if self._settling:
            self._settling -= 1
            self._begin_window()
            return
        self._completed += 1
        if self.count == 0 and not self._reached:
            self._begin_window()
        elif self._reached and self._completed >= self._window and self._seconds > 0:
            self.climb.observe(self.limit * self._completed / self._seconds)
            self._set_limit(self.climb.size)

    def abandoned(self, now: float) -> None:
        """One was cancelled: its time says nothing."""
        self.count -= 1
        self._last = now
        self._begin_window()

    def _set_limit(self, limit: int) -> None:
        if limit != self.limit:
            self.limit = limit
            self._settling = max(self.count, limit)
        self._begin_window()

    def _begin_window(self) -> None:
        self._completed = 0
        self._seconds = 0.0
        self._reached = self.count >= self.limit
