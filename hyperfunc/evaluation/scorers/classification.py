"""Right or wrong class, for labels of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scorers.accuracy import Accuracy
from hyperfunc.evaluation.scoring import BaseScorer, score_members
from hyperfunc.evaluation.tensors import (
    as_tensor,
    has_class_axis,
    is_numeric,
    mean_over_features,
    require_same_features,
    wide,
)

__all__ = ["ClassificationAccuracy"]


@dataclass(frozen=True)
class ClassificationAccuracy(BaseScorer):
    """1 when the predicted class ``==`` the expected one, else 0.

    ``details`` of a wrong one hold ``predicted`` and ``expected``, for a confusion table. Labels may be of any type; a
    tensor of scores per class stands for its largest entry, as in :class:`Accuracy`.
    """

    @property
    def supports_tensors(self) -> bool:
        """True."""
        return True

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Compare one prediction."""
        if isinstance(output, Tensor) and is_numeric(expected):
            score = score_members(self, output.detach()[None, None], as_tensor(expected)[None]).item()
        elif isinstance(expected, Tensor) and is_numeric(output):
            score = score_members(self, as_tensor(output)[None, None], expected.detach()[None]).item()
        else:
            score = float(bool(output == expected))
        if score == 1:
            return ScoreResult(score)
        details = {"predicted": output, "expected": expected}
        return ScoreResult(score, f"predicted {output!r}, expected {expected!r}", details)

    def score_tensor(
        self,
        outputs: Tensor,  # [members, examples, *positions, classes] floating, or [members, examples, *positions]
        expected: Tensor,  # [examples, *positions]
    ) -> Tensor:  # [members, examples], in [0, 1]
        """Share of right classes per example."""
        if has_class_axis(outputs, expected):
            return Accuracy().score_tensor(outputs, expected)
        require_same_features(self, outputs, expected)
        return mean_over_features(wide(outputs == expected))
