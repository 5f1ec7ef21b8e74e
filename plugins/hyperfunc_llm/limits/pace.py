"""The sending rate learned from 429s: additive increase, multiplicative decrease. Pure arithmetic on given times.

No 429, no pace: nothing is assumed about a server that never complained. The first 429 gives an estimate of what the
server sustains, from what it accepted since the last cooldown, *including* the wait it asks for (60 requests in 2 s and
then "come back in 58 s" is 1 per second, not 30). The pace starts below that estimate, returns to it within seconds
and then probes beyond it, slowly at first and faster the longer nothing happens, until it stops mattering.
"""

from __future__ import annotations

__all__ = ["AdaptivePace"]

_FLOOR = 0.1  # requests per second; 6 a minute
_RETURN = 0.1  # of the estimate, per second, while below 90 % of it
_PROBE = 0.005  # of the estimate, per second, above that; doubled every twenty quiet seconds
_EVIDENCE = 8  # requests accepted before a 429; fewer say nothing about what a server sustains
_FORGET = 8.0  # times the estimate: the 429 was an accident


class AdaptivePace:
    """Requests per second, or none.

    Args:
        decrease: factor on the estimate after a 429.
    """

    def __init__(self, decrease: float = 0.85) -> None:
        self.rate: float | None = None
        self._decrease = decrease
        self._estimate = 0.0
        self._epoch: float | None = None
        self._sent = self._rejected = 0
        self._accepted = _EVIDENCE
        self._last_sent = self._last_success = self._last_429 = float("-inf")
        self._past: tuple[float, float, int, float | None] | None = None

    def ready_at(self, now: float) -> float:
        """When the next request may be sent."""
        return now if self.rate is None else max(now, self._last_sent + 1.0 / self.rate)

    def sent(self, now: float) -> None:
        """A request leaves."""
        if self._epoch is None:
            self._epoch = now
        self._sent += 1
        self._last_sent = now

    def rejected(self, now: float, wait_s: float) -> None:
        """The first 429 of a generation; sending pauses for ``wait_s``."""
        elapsed = max(now - (self._epoch if self._epoch is not None else now), 1e-3)
        self._past = (elapsed, max(wait_s, 1e-3), self._sent, self.rate)
        self._rejected = 1
        self._last_429 = now
        self._epoch, self._sent = None, 0
        self._estimate_again()

    def rejected_late(self) -> None:
        """One more 429 for a request sent before the pause: the server accepted one fewer than was thought."""
        if self._past is not None:
            self._rejected += 1
            self._estimate_again()

    def _estimate_again(self) -> None:
        assert self._past is not None
        elapsed, wait_s, sent, rate_then = self._past
        accepted = sent - self._rejected
        if rate_then is not None:
            self._estimate = max(_FLOOR, rate_then * elapsed / (elapsed + wait_s))
        elif accepted >= _EVIDENCE:
            self._accepted = accepted
            self._estimate = max(_FLOOR, accepted / (elapsed + wait_s))
        else:
            self.rate = None  # the pause and the slow resume after it are answer enough
            return
        self.rate = max(_FLOOR, self._decrease * self._estimate)

    def succeeded(self, now: float) -> None:
        """A reply came: grow a little."""
        if self.rate is not None:
            # Idle time is no evidence that more would be accepted, hence the cap.
            step = min(now - self._last_success, 2.0 / self.rate)
            if self.rate < 0.9 * self._estimate:
                self.rate += _RETURN * self._estimate * step
            else:
                quiet = min(now - self._last_429, 100.0)
                self.rate += _PROBE * self._estimate * 2.0 ** (quiet / 20.0) * step
            self.rate += self.rate / self._accepted**2  # the fewer requests it rests on, the faster it is given up
            if self.rate > _FORGET * self._estimate:
                self.rate = None
        self._last_success = now
