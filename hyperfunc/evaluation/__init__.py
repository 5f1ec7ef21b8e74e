"""Examples, scorers, metrics, statistics and gates: how outputs are judged. Knows nothing of how they were made."""

from __future__ import annotations

from hyperfunc.evaluation.dataset import Dataset, Split
from hyperfunc.evaluation.example import Example
from hyperfunc.evaluation.experiment import Evaluation, ExampleScore, Experiment, TagScore
from hyperfunc.evaluation.gate import EvalGate, GateCheck, GateResult
from hyperfunc.evaluation.metrics import (
    MetricFn,
    PopulationScores,
    metric_over_population,
    metric_score,
    split_predictions,
)
from hyperfunc.evaluation.repeats import Repeats, pass_at_k, pass_hat_k, repeat_evaluation
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
    is_asynchronous,
    score_all,
    score_batch,
    score_members,
)
from hyperfunc.evaluation.statistics import (
    Comparison,
    Interval,
    bootstrap_interval,
    compare,
    permutation_test,
    student_t_interval,
)
from hyperfunc.evaluation.tensors import stack_values
from hyperfunc.evaluation.trajectory import Call, Trajectory, TrajectoryMetrics, TrajectoryScorer, trajectory_metrics

__all__ = [
    "MSE",
    "Accuracy",
    "BaseScorer",
    "Call",
    "ClassificationAccuracy",
    "Comparison",
    "CompositeScorer",
    "ContainsMatch",
    "CrossEntropy",
    "Dataset",
    "EvalGate",
    "Evaluation",
    "ExactMatch",
    "Example",
    "ExampleScore",
    "Experiment",
    "FunctionScorer",
    "GateCheck",
    "GateResult",
    "Interval",
    "MeanSquaredError",
    "MetricFn",
    "NumericDistance",
    "PopulationScores",
    "RegexMatch",
    "Repeats",
    "ScoreResult",
    "Scorer",
    "Split",
    "TagScore",
    "TensorScorer",
    "Trajectory",
    "TrajectoryMetrics",
    "TrajectoryScorer",
    "as_tensor_scorer",
    "bootstrap_interval",
    "compare",
    "is_asynchronous",
    "mean_score",
    "metric_over_population",
    "metric_score",
    "pass_at_k",
    "pass_hat_k",
    "permutation_test",
    "repeat_evaluation",
    "score_all",
    "score_batch",
    "score_members",
    "split_predictions",
    "stack_values",
    "student_t_interval",
    "trajectory_metrics",
]
