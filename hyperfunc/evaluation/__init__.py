"""Examples, scorers, metrics, statistics and gates: how outputs are judged. Knows nothing of how they were made.

Names are imported at first use, so that commands which only read a journal start without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperfunc.lazy import lazy_names

if TYPE_CHECKING:  # what the table below says, for type checkers and editors
    from hyperfunc.evaluation.dataset import Dataset as Dataset
    from hyperfunc.evaluation.dataset import Split as Split
    from hyperfunc.evaluation.example import Example as Example
    from hyperfunc.evaluation.experiment import Evaluation as Evaluation
    from hyperfunc.evaluation.experiment import ExampleScore as ExampleScore
    from hyperfunc.evaluation.experiment import Experiment as Experiment
    from hyperfunc.evaluation.experiment import TagScore as TagScore
    from hyperfunc.evaluation.gate import EvalGate as EvalGate
    from hyperfunc.evaluation.gate import GateCheck as GateCheck
    from hyperfunc.evaluation.gate import GateResult as GateResult
    from hyperfunc.evaluation.metrics import MetricFn as MetricFn
    from hyperfunc.evaluation.metrics import PopulationScores as PopulationScores
    from hyperfunc.evaluation.metrics import metric_over_population as metric_over_population
    from hyperfunc.evaluation.metrics import metric_score as metric_score
    from hyperfunc.evaluation.metrics import split_predictions as split_predictions
    from hyperfunc.evaluation.repeats import Repeats as Repeats
    from hyperfunc.evaluation.repeats import pass_at_k as pass_at_k
    from hyperfunc.evaluation.repeats import pass_hat_k as pass_hat_k
    from hyperfunc.evaluation.repeats import repeat_evaluation as repeat_evaluation
    from hyperfunc.evaluation.results import ScoreResult as ScoreResult
    from hyperfunc.evaluation.results import mean_score as mean_score
    from hyperfunc.evaluation.scorers import MSE as MSE
    from hyperfunc.evaluation.scorers import Accuracy as Accuracy
    from hyperfunc.evaluation.scorers import ClassificationAccuracy as ClassificationAccuracy
    from hyperfunc.evaluation.scorers import CompositeScorer as CompositeScorer
    from hyperfunc.evaluation.scorers import ContainsMatch as ContainsMatch
    from hyperfunc.evaluation.scorers import CrossEntropy as CrossEntropy
    from hyperfunc.evaluation.scorers import ExactMatch as ExactMatch
    from hyperfunc.evaluation.scorers import FunctionScorer as FunctionScorer
    from hyperfunc.evaluation.scorers import MeanSquaredError as MeanSquaredError
    from hyperfunc.evaluation.scorers import NumericDistance as NumericDistance
    from hyperfunc.evaluation.scorers import RegexMatch as RegexMatch
    from hyperfunc.evaluation.scoring import BaseScorer as BaseScorer
    from hyperfunc.evaluation.scoring import Scorer as Scorer
    from hyperfunc.evaluation.scoring import TensorScorer as TensorScorer
    from hyperfunc.evaluation.scoring import as_tensor_scorer as as_tensor_scorer
    from hyperfunc.evaluation.scoring import is_asynchronous as is_asynchronous
    from hyperfunc.evaluation.scoring import score_all as score_all
    from hyperfunc.evaluation.scoring import score_batch as score_batch
    from hyperfunc.evaluation.scoring import score_members as score_members
    from hyperfunc.evaluation.statistics import Comparison as Comparison
    from hyperfunc.evaluation.statistics import Interval as Interval
    from hyperfunc.evaluation.statistics import bootstrap_interval as bootstrap_interval
    from hyperfunc.evaluation.statistics import compare as compare
    from hyperfunc.evaluation.statistics import permutation_test as permutation_test
    from hyperfunc.evaluation.statistics import student_t_interval as student_t_interval
    from hyperfunc.evaluation.tensors import stack_values as stack_values
    from hyperfunc.evaluation.trajectory import Call as Call
    from hyperfunc.evaluation.trajectory import Trajectory as Trajectory
    from hyperfunc.evaluation.trajectory import TrajectoryMetrics as TrajectoryMetrics
    from hyperfunc.evaluation.trajectory import TrajectoryScorer as TrajectoryScorer
    from hyperfunc.evaluation.trajectory import trajectory_metrics as trajectory_metrics

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

__getattr__ = lazy_names(
    __name__,
    {
        "hyperfunc.evaluation.dataset": ["Dataset", "Split"],
        "hyperfunc.evaluation.example": ["Example"],
        "hyperfunc.evaluation.experiment": ["Evaluation", "ExampleScore", "Experiment", "TagScore"],
        "hyperfunc.evaluation.gate": ["EvalGate", "GateCheck", "GateResult"],
        "hyperfunc.evaluation.metrics": [
            "MetricFn",
            "PopulationScores",
            "metric_over_population",
            "metric_score",
            "split_predictions",
        ],
        "hyperfunc.evaluation.repeats": ["Repeats", "pass_at_k", "pass_hat_k", "repeat_evaluation"],
        "hyperfunc.evaluation.results": ["ScoreResult", "mean_score"],
        "hyperfunc.evaluation.scorers": [
            "MSE",
            "Accuracy",
            "ClassificationAccuracy",
            "CompositeScorer",
            "ContainsMatch",
            "CrossEntropy",
            "ExactMatch",
            "FunctionScorer",
            "MeanSquaredError",
            "NumericDistance",
            "RegexMatch",
        ],
        "hyperfunc.evaluation.scoring": [
            "BaseScorer",
            "Scorer",
            "TensorScorer",
            "as_tensor_scorer",
            "is_asynchronous",
            "score_all",
            "score_batch",
            "score_members",
        ],
        "hyperfunc.evaluation.statistics": [
            "Comparison",
            "Interval",
            "bootstrap_interval",
            "compare",
            "permutation_test",
            "student_t_interval",
        ],
        "hyperfunc.evaluation.tensors": ["stack_values"],
        "hyperfunc.evaluation.trajectory": [
            "Call",
            "Trajectory",
            "TrajectoryMetrics",
            "TrajectoryScorer",
            "trajectory_metrics",
        ],
    },
)
