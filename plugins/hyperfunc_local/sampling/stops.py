"""Stop strings in a text that comes in pieces. Knows nothing of tokens."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Lets text through up to the first stop string, and holds back what may still become one.

    Attributes:
        found: the stop string that ended the text, once there is one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Text that is certainly part of the answer."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        hits = [(place, stop) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if hits:
            place, self.found = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            released, self._held = self._held[:place], ""
            return released
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text with which ``stop`` begins."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)

    def flush(self) -> str:
        """What was held back, at the end."""
        released, self._held = ("" if self.found is not None else self._held), ""
        return released
