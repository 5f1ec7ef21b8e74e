"""Texts that contain something, or match a pattern."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scoring import BaseScorer

__all__ = ["ContainsMatch", "RegexMatch"]


@dataclass(frozen=True)
class ContainsMatch(BaseScorer):
    """1 when the expected text stands somewhere in the output, else 0.

    Args:
        case_sensitive: whether ``"Paris"`` differs from ``"paris"``.
    """

    case_sensitive: bool = False

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Look for one text.

        Raises:
            EvaluationError: nothing is expected (``None`` or ``""``), which every output would contain.
        """
        wanted = _text(expected)
        if not wanted:
            raise EvaluationError(f"ContainsMatch needs a text to look for, got expected={expected!r}")
        text = _text(output)
        found = wanted in text if self.case_sensitive else wanted.lower() in text.lower()
        return ScoreResult(1.0) if found else ScoreResult(0.0, f"expected to find {wanted!r} in the output")


@dataclass(frozen=True)
class RegexMatch(BaseScorer):
    """1 when the output matches a pattern, else 0; ``details["match"]`` is what matched.

    Args:
        pattern: a regular expression; without it, each example's expected value is its pattern.
        flags: flags of the module ``re``.
        full_match: whether the whole output must match, and not only a part of it.

    Raises:
        EvaluationError: the pattern is no regular expression.
    """

    pattern: str | None = None
    flags: int = re.IGNORECASE
    full_match: bool = False

    def __post_init__(self) -> None:
        if self.pattern is not None:
            self._compile(self.pattern)

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Match one text.

        Raises:
            EvaluationError: the expected value is needed as a pattern and is none.
        """
        source = self.pattern if self.pattern is not None else expected
        if not isinstance(source, str):
            raise EvaluationError(
                f"RegexMatch() takes its pattern from expected, which must be a string; got {source!r}"
            )
        pattern = self._compile(source)
        text = _text(output)
        match = pattern.fullmatch(text) if self.full_match else pattern.search(text)
        if match is None:
            return ScoreResult(0.0, f"pattern {source!r} not found in the output")
        return ScoreResult(1.0, details={"match": match.group()})

    def _compile(self, source: str) -> re.Pattern[str]:
        try:
            return re.compile(source, self.flags)
        except re.error as error:
            raise EvaluationError(f"{source!r} is no regular expression: {error}") from error


def _text(value: Any) -> str:
    return "" if value is None else str(value)
