"""The scorer ``edit-similarity``: how little has to be typed to correct the output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperfunc import ScoreResult

__all__ = ["EditSimilarity"]


@dataclass(frozen=True)
class EditSimilarity:
    """1 for equal texts, 0 where every character has to be typed anew.

    Args:
        case_sensitive: whether ``"Paris"`` differs from ``"paris"``.
    """

    case_sensitive: bool = False

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """1 minus the Levenshtein distance divided by the longer text's length."""
        found, wanted = str(output), str(expected)
        if not self.case_sensitive:
            found, wanted = found.lower(), wanted.lower()
        distance = _levenshtein(found, wanted)
        longest = max(len(found), len(wanted), 1)
        feedback = "" if distance == 0 else f"expected {expected!r}, got {output!r}: {distance} edits apart"
        return ScoreResult(1.0 - distance / longest, feedback, {"distance": distance})


def _levenshtein(left: str, right: str) -> int:
    """Wagner and Fischer (1974), two rows at a time."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
