"""Examples, scorers, metrics, statistics and gates: how outputs are judged. Knows nothing of how they were made."""

from __future__ import annotations

from hyperfunc.evaluation.example import Example
from hyperfunc.evaluation.metrics import (
    MetricFn,
    PopulationScores,
    metric_over_population,
    metric_score,
    split_predictions,
)
from hyperfunc.evaluation.results import ScoreResult, mean_score
from hyperfunc.evaluation.scorers import (
    MSE,
    Accuracy,
    ClassificationAccuracy,
    CompositeScorer,
    ContainsMatch,
    CrossEntropy,
    ExactMatch,
    FunctionScorer,
    MeanSquaredError,
    NumericDistance,
    RegexMatch,
)
from hyperfunc.evaluation.scoring import (
    BaseScorer,
    Scorer,
    TensorScorer,
    as_tensor_scorer,
    score_all,
    score_batch,
    score_members,
)
from hyperfunc.evaluation.tensors import stack_values

__all__ = [
    "MSE",
    "Accuracy",
    "BaseScorer",
    "ClassificationAccuracy",
    "CompositeScorer",
    "ContainsMatch",
    "CrossEntropy",
    "ExactMatch",
    "Example",
    "FunctionScorer",
    "MeanSquaredError",
    "MetricFn",
    "NumericDistance",
    "PopulationScores",
    "RegexMatch",
    "ScoreResult",
    "Scorer",
    "TensorScorer",
    "as_tensor_scorer",
    "mean_score",
    "metric_over_population",
    "metric_score",
    "score_all",
    "score_batch",
    "score_members",
    "split_predictions",
    "stack_values",
]
