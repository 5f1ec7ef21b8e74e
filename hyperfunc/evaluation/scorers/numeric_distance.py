"""How near a number is to the expected one, from 1 (within tolerance) down to 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scoring import BaseScorer, score_members
from hyperfunc.evaluation.tensors import as_tensor, is_numeric, mean_over_features, require_same_features, wide

__all__ = ["NumericDistance"]


@dataclass(frozen=True)
class NumericDistance(BaseScorer):
    """1 within ``tolerance`` of what was expected, else ``1 - distance / max_distance``, never below 0.

    The mean over its elements where an output holds several. An output that is NaN, or is no number, scores 0.

    Args:
        tolerance: largest absolute distance of a perfect score, ≥ 0.
        max_distance: distance from which on the score is 0, > 0; ``abs(expected) + 1`` without it.
    """

    tolerance: float = 0.01
    max_distance: float | None = None

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise EvaluationError(f"tolerance must be ≥ 0, got {self.tolerance}")
        if self.max_distance is not None and not self.max_distance > 0:
            raise EvaluationError(f"max_distance must be > 0 or None, got {self.max_distance}")

    @property
    def supports_tensors(self) -> bool:
        """True."""
        return True

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Score one number, a text that holds one, or several numbers.

        Raises:
            EvaluationError: ``expected`` is no number, which no output can come near to.
        """
        target = _numbers(expected)
        if target is None:
            raise EvaluationError(f"NumericDistance needs a number to compare with, got expected={expected!r}")
        value = _numbers(output)
        if value is None:
            return ScoreResult(0.0, f"not a number: {output!r}", {"error": f"not a number: {output!r}"})
        score = score_members(self, value[None, None], target[None]).item()
        if target.numel() != 1:
            return ScoreResult(score, "" if score == 1 else f"expected {expected}, got {output}")
        actual, wanted = value.item(), target.item()
        distance = abs(actual - wanted)
        if score == 1:
            return ScoreResult(score, details={"diff": distance})
        words = f"off by {distance:.4f}" if math.isfinite(distance) else "not finite"
        details = {"diff": distance, "expected": wanted, "actual": actual}
        return ScoreResult(score, f"{words} (expected {wanted}, got {actual})", details)

    def score_tensor(
        self,
        outputs: Tensor,  # [members, examples, *features]
        expected: Tensor,  # [examples, *features]
    ) -> Tensor:  # [members, examples], in [0, 1]
        """Mean over features of each element's nearness."""
        require_same_features(self, outputs, expected)
        target = wide(expected)
        distance = (wide(outputs) - target).abs()
        reach = target.abs() + 1 if self.max_distance is None else self.max_distance
        nearness = (1 - distance / reach).clamp(min=0).nan_to_num(nan=0.0)
        return mean_over_features(torch.where(distance <= self.tolerance, 1.0, nearness))


def _numbers(value: Any) -> Tensor | None:
    """``value`` as a tensor (Python floats keep their 64 bits), or ``None`` where it is no number."""
    if isinstance(value, (bool, int, float, str)):
        try:
            return torch.tensor(float(value), dtype=torch.float64)
        except ValueError:
            return None
    if is_numeric(value) or isinstance(value, (list, tuple)):
        try:
            return as_tensor(value)
        except EvaluationError:
            return None
    return None
