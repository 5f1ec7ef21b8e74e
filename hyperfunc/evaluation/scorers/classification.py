"""Right or wrong class, for labels of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scorers.accuracy import Accuracy
from hyperfunc.evaluation.scoring import BaseScorer, score_members
from hyperfunc.evaluation.tensors import as_tensor, is_numeric, mean_over_features, require_same_features, wide

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
            right = score_members(self, output.detach()[None, None], as_tensor(expected)[None]).item() == 1
        elif isinstance(expected, Tensor) and is_numeric(output):
            right = score_members(self, as_tensor(output)[None, None], expected.detach()[None]).item() == 1
        else:
            right = bool(output == expected)
        if right:
            return ScoreResult(1.0)
        details = {"predicted": output, "expected": expected}
        return ScoreResult(0.0, f"predicted {output!r}, expected {expected!r}", details)

    def score_tensor(
        self,
        outputs: Tensor,  # [*batch, examples, *positions, classes] floating, or [*batch, examples, *positions]
        expected: Tensor,  # [examples, *positions]
    ) -> Tensor:  # [*batch, examples], in [0, 1]
        """Share of right classes per example."""
        has_class_axis = outputs.ndim > expected.ndim and outputs.shape[-1 - expected.ndim : -1] == expected.shape
        if outputs.is_floating_point() and has_class_axis:
            return Accuracy().score_tensor(outputs, expected)
        require_same_features(self, outputs, expected)
        return mean_over_features(wide(outputs == expected), expected)
