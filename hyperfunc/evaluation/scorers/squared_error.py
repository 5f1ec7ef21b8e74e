"""Mean squared error, negated so that higher is better."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hyperfunc.evaluation.scorers._tensor_loss import TensorFunctionScorer
from hyperfunc.evaluation.tensors import mean_over_features, require_same_features, wide

__all__ = ["MSE", "MeanSquaredError"]


@dataclass(frozen=True)
class MeanSquaredError(TensorFunctionScorer):
    """``-mean((output - expected)²)`` over an output's features: 0 for a perfect output, unbounded below.

    A NaN output scores NaN.
    """

    def score_tensor(
        self,
        outputs: Tensor,  # [members, examples, *features]
        expected: Tensor,  # [examples, *features]
    ) -> Tensor:  # [members, examples]
        """Negated squared error per example; computed in float32 or, where either side is, in float64."""
        require_same_features(self, outputs, expected)
        return mean_over_features((wide(outputs) - wide(expected)).square().neg())


MSE = MeanSquaredError
