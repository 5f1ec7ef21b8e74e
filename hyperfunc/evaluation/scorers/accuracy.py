"""Share of right classes, from logits, class numbers or probabilities of one class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.scorers._tensor_loss import TensorFunctionScorer
from hyperfunc.evaluation.tensors import has_class_axis, mean_over_features, require_same_features, wide

__all__ = ["Accuracy"]


@dataclass(frozen=True)
class Accuracy(TensorFunctionScorer):
    """1 for a right class, 0 for a wrong one; the share of right ones where an output holds several.

    * floating outputs with one axis more than what is expected are scores per class: the largest wins, the first of
      equals;
    * integer or boolean outputs of the expected shape are class numbers;
    * floating outputs of the expected shape are the probability (or logit) of class 1 and need ``threshold``.

    An output with a NaN is wrong.

    Args:
        threshold: outputs above it mean class 1 (0.5 for probabilities, 0 for logits).
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise EvaluationError(f"threshold must be finite or None, got {self.threshold}")

    def score_tensor(
        self,
        outputs: Tensor,  # [members, examples, *positions, classes] floating, or [members, examples, *positions]
        expected: Tensor,  # [examples, *positions], class numbers (integers, or whole numbers as floats)
    ) -> Tensor:  # [members, examples], in [0, 1]
        """Share of right classes per example.

        Raises:
            EvaluationError: shapes that do not belong together, or floating outputs that need a ``threshold``.
        """
        if self.threshold is not None:
            require_same_features(self, outputs, expected)
            right = ((outputs > self.threshold) == (expected > 0.5)) & ~outputs.isnan()
        elif has_class_axis(outputs, expected):
            right = (outputs.argmax(-1) == expected) & ~outputs.isnan().any(-1)
        elif outputs.is_floating_point():
            raise EvaluationError(
                f"Accuracy got floating outputs {list(outputs.shape)} for expected {list(expected.shape)}: give one "
                "score per class on a last axis, class numbers as integers, or Accuracy(threshold=0.5) for "
                "probabilities"
            )
        else:
            require_same_features(self, outputs, expected)
            right = outputs == expected
        return mean_over_features(wide(right))

    def feedback(self, score: float, output: Any, expected: Any) -> str:
        """What was expected, unless all was right."""
        return "" if score == 1 else f"expected class {expected}, got {output}"
