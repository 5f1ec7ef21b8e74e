"""Prompt learning: signatures, proposers of better texts, and the one test by which a proposal is accepted.

Names are imported at first use (PEP 562), so that loading the plugin imports neither torch nor a provider's SDK.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperfunc_prompts.acceptance import AcceptanceTest, check_form
    from hyperfunc_prompts.adapters import Adapter, ChatAdapter, JSONAdapter
    from hyperfunc_prompts.ascent import Feedback, FeedbackAscent, RecordedRun, TextualLoss
    from hyperfunc_prompts.backward import BackwardContext, CallFeedback
    from hyperfunc_prompts.errors import (
        ProposalRefusedError,
        ReflectorOutageError,
        SignatureError,
        UnusableProposalError,
    )
    from hyperfunc_prompts.learning import PromptLearningOptimizer
    from hyperfunc_prompts.noop import NoOpPromptOptimizer
    from hyperfunc_prompts.optimizer import PromptOptimizer
    from hyperfunc_prompts.pareto import ReflectivePareto
    from hyperfunc_prompts.pool import Candidate, CandidatePool
    from hyperfunc_prompts.predict import Predict, Prediction
    from hyperfunc_prompts.reflection import Complete, Reply
    from hyperfunc_prompts.search import PromptSearchResult
    from hyperfunc_prompts.signatures import InputField, OutputField, Signature
    from hyperfunc_prompts.steps import PromptSearch, PromptStep, Proposer

__all__ = [
    "AcceptanceTest",
    "Adapter",
    "BackwardContext",
    "CallFeedback",
    "Candidate",
    "CandidatePool",
    "ChatAdapter",
    "Complete",
    "Feedback",
    "FeedbackAscent",
    "InputField",
    "JSONAdapter",
    "NoOpPromptOptimizer",
    "OutputField",
    "Predict",
    "Prediction",
    "PromptLearningOptimizer",
    "PromptOptimizer",
    "PromptSearch",
    "PromptSearchResult",
    "PromptStep",
    "ProposalRefusedError",
    "Proposer",
    "RecordedRun",
    "ReflectivePareto",
    "ReflectorOutageError",
    "Reply",
    "Signature",
    "SignatureError",
    "TextualLoss",
    "UnusableProposalError",
    "check_form",
]

_HOMES = {
    "AcceptanceTest": "acceptance",
    "check_form": "acceptance",
    "Adapter": "adapters",
    "ChatAdapter": "adapters",
    "JSONAdapter": "adapters",
    "Feedback": "ascent",
    "FeedbackAscent": "ascent",
    "RecordedRun": "ascent",
    "TextualLoss": "ascent",
    "BackwardContext": "backward",
    "CallFeedback": "backward",
    "ProposalRefusedError": "errors",
    "ReflectorOutageError": "errors",
    "SignatureError": "errors",
    "UnusableProposalError": "errors",
    "PromptLearningOptimizer": "learning",
    "NoOpPromptOptimizer": "noop",
    "PromptOptimizer": "optimizer",
    "ReflectivePareto": "pareto",
    "Candidate": "pool",
    "CandidatePool": "pool",
    "Predict": "predict",
    "Prediction": "predict",
    "Complete": "reflection",
    "Reply": "reflection",
    "PromptSearchResult": "search",
    "InputField": "signatures",
    "OutputField": "signatures",
    "Signature": "signatures",
    "PromptSearch": "steps",
    "PromptStep": "steps",
    "Proposer": "steps",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
