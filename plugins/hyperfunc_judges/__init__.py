"""Judges: scorers that ask a model, a person or a function of your own. Imports no provider's SDK.

Names are imported at first use (PEP 562), so that loading the plugin does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "CodeCorrectnessJudge": "judge",
    "Complete": "completion",
    "ConversationJudge": "judge",
    "FactualAccuracyJudge": "judge",
    "HumanFeedback": "human",
    "HumanPreference": "human",
    "HumanRanking": "human",
    "HumanRubric": "human",
    "InstructionFollowingJudge": "judge",
    "LLMJudge": "judge",
    "Level": "rubric",
    "Preference": "preference",
    "PreferenceJudge": "preference",
    "RankingJudge": "ranking",
    "Reply": "completion",
    "Rubric": "rubric",
    "RubricJudge": "rubric",
    "SummarizationJudge": "judge",
    "Terminal": "human",
    "UnreadableReplyError": "completion",
    "Verifier": "verifier",
    "scores_of_ranks": "ranking",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
