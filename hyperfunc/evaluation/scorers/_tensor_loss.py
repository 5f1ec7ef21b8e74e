"""Base of the scorers that are tensor functions first: their ``score`` is the tensor path on one example."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scoring import BaseScorer, score_members
from hyperfunc.evaluation.tensors import as_tensor

__all__ = ["TensorFunctionScorer"]


class TensorFunctionScorer(BaseScorer):
    """A scorer defined by :meth:`score_tensor`; numbers, lists, arrays and tensors are scored one by one through it."""

    @property
    def supports_tensors(self) -> bool:
        """True."""
        return True

    @abstractmethod
    def score_tensor(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """Scores ``[members, examples]`` of outputs ``[members, examples, *features]``."""

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Score one output; equal to :meth:`score_tensor` on it."""
        output_tensor = as_tensor(output)
        score = score_members(self, output_tensor[None, None], as_tensor(expected)[None]).item()
        return ScoreResult(score, self.feedback(score, output, expected))

    def feedback(self, score: float, output: Any, expected: Any) -> str:
        """Words for one score; empty for a perfect one."""
        return "" if score == 0 else f"expected {expected}, got {output} (score {score:.6g})"
