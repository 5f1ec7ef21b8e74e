"""The built-in scorers, one idea per file. Higher is better everywhere; losses are negated."""

from __future__ import annotations

from hyperfunc.evaluation.scorers.accuracy import Accuracy
from hyperfunc.evaluation.scorers.classification import ClassificationAccuracy
from hyperfunc.evaluation.scorers.composite import CompositeScorer
from hyperfunc.evaluation.scorers.cross_entropy import CrossEntropy
from hyperfunc.evaluation.scorers.exact_match import ExactMatch
from hyperfunc.evaluation.scorers.function_scorer import FunctionScorer
from hyperfunc.evaluation.scorers.numeric_distance import NumericDistance
from hyperfunc.evaluation.scorers.squared_error import MSE, MeanSquaredError
from hyperfunc.evaluation.scorers.text_match import ContainsMatch, RegexMatch

__all__ = [
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
]
