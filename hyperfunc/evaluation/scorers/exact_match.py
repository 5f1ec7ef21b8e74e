"""Equality of an output with what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scoring import BaseScorer
from hyperfunc.evaluation.tensors import as_tensor, is_numeric, require_same_features, wide

__all__ = ["ExactMatch"]

_LONGEST_QUOTE = 100


@dataclass(frozen=True)
class ExactMatch(BaseScorer):
    """1 when output and expected are equal, else 0.

    Numbers, tensors and arrays are compared by value (an expected number in the dtype of an output tensor; a NaN equals
    nothing), mappings and sequences item by item, and everything else as text.

    Args:
        case_sensitive: whether ``"Yes"`` differs from ``"yes"``.
        strip_whitespace: whether white space around texts is ignored.
    """

    case_sensitive: bool = True
    strip_whitespace: bool = False

    @property
    def supports_tensors(self) -> bool:
        """True."""
        return True

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Compare one output."""
        if self._equal(output, expected):
            return ScoreResult(1.0)
        lengths = len(str(output)), len(str(expected))
        if max(lengths) > _LONGEST_QUOTE:
            return ScoreResult(0.0, f"output does not match expected (lengths: {lengths[0]} vs {lengths[1]})")
        return ScoreResult(0.0, f"expected {expected!r}, got {output!r}")

    def score_tensor(
        self,
        outputs: Tensor,  # [members, examples, *features]
        expected: Tensor,  # [examples, *features]
    ) -> Tensor:  # [members, examples], 0 or 1
        """1 where all features of an example are equal."""
        require_same_features(self, outputs, expected)
        equal = (outputs == expected.to(outputs.dtype)) if outputs.is_floating_point() else (outputs == expected)
        return wide(equal.flatten(2).all(-1) if equal.ndim > 2 else equal)

    def _equal(self, output: Any, expected: Any) -> bool:
        if isinstance(output, (int, float)) and isinstance(expected, (int, float)):
            return output == expected
        if is_numeric(output) and is_numeric(expected):
            return _tensors_equal(as_tensor(output), as_tensor(expected))
        if isinstance(output, Mapping) and isinstance(expected, Mapping):
            return output.keys() == expected.keys() and all(self._equal(output[key], expected[key]) for key in expected)
        if _is_list(output) and _is_list(expected):
            return len(output) == len(expected) and all(map(self._equal, output, expected))
        return self._text(output) == self._text(expected)

    def _text(self, value: Any) -> str:
        text = "" if value is None else str(value)
        text = text.strip() if self.strip_whitespace else text
        return text if self.case_sensitive else text.lower()


def _tensors_equal(output: Tensor, expected: Tensor) -> bool:
    if output.numel() == 1 and expected.numel() == 1:  # [1] against a number: one value each
        output, expected = output.reshape(()), expected.reshape(())
    if output.is_floating_point():
        expected = expected.to(output.dtype)
    return output.shape == expected.shape and bool((output == expected.to(output.device)).all())


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
