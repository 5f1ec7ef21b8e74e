"""Judges: scorers that ask a model, a person or a function of your own. Imports no provider's SDK."""

from __future__ import annotations

from hyperfunc_judges.completion import Complete, Reply, UnreadableReplyError
from hyperfunc_judges.human import HumanFeedback, HumanPreference, HumanRanking, HumanRubric, Terminal
from hyperfunc_judges.judge import (
    CodeCorrectnessJudge,
    ConversationJudge,
    FactualAccuracyJudge,
    InstructionFollowingJudge,
    LLMJudge,
    SummarizationJudge,
)
from hyperfunc_judges.preference import Preference, PreferenceJudge
from hyperfunc_judges.ranking import RankingJudge, scores_of_ranks
from hyperfunc_judges.rubric import Level, Rubric, RubricJudge
from hyperfunc_judges.verifier import Verifier

__all__ = [
    "CodeCorrectnessJudge",
    "Complete",
    "ConversationJudge",
    "FactualAccuracyJudge",
    "HumanFeedback",
    "HumanPreference",
    "HumanRanking",
    "HumanRubric",
    "InstructionFollowingJudge",
    "LLMJudge",
    "Level",
    "Preference",
    "PreferenceJudge",
    "RankingJudge",
    "Reply",
    "Rubric",
    "RubricJudge",
    "SummarizationJudge",
    "Terminal",
    "UnreadableReplyError",
    "Verifier",
    "scores_of_ranks",
]
