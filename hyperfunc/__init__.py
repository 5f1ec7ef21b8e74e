"""hyperfunc trains compound AI systems: their tensors by evolution, their texts by prompt learning.

Names are loaded at first use, so that ``import hyperfunc`` costs next to nothing and the command line starts without
torch. The names of well-known plugins are handed on here; this table is the only place where core knows them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "1.0.0.dev0"

_CORE: dict[str, str] = {
    "Accuracy": "hyperfunc.evaluation",
    "AdapterMeta": "hyperfunc.parameters.lora",
    "AgentType": "hyperfunc.agents",
    "Budget": "hyperfunc.budget",
    "Call": "hyperfunc.tape",
    "CallRecord": "hyperfunc.observability",
    "CallStore": "hyperfunc.calls",
    "Choice": "hyperfunc.parameters.scalars",
    "ClassificationAccuracy": "hyperfunc.evaluation",
    "CompositeScorer": "hyperfunc.evaluation",
    "ContainsMatch": "hyperfunc.evaluation",
    "CrossEntropy": "hyperfunc.evaluation",
    "Dataset": "hyperfunc.evaluation",
    "ESHybridSystemOptimizer": "hyperfunc.evolution.hybrid",
    "EvalGate": "hyperfunc.evaluation",
    "ExactMatch": "hyperfunc.evaluation",
    "Example": "hyperfunc.evaluation",
    "Experiment": "hyperfunc.evaluation",
    "FactoredTensor": "hyperfunc.population.factored",
    "Float": "hyperfunc.parameters.scalars",
    "FlowResponse": "hyperfunc.agents",
    "FunctionScorer": "hyperfunc.evaluation",
    "History": "hyperfunc.history",
    "HyperFunction": "hyperfunc.function",
    "HyperFunctionStats": "hyperfunc.observability",
    "HyperParam": "hyperfunc.parameters.protocol",
    "HyperSystem": "hyperfunc.system",
    "HyperfuncError": "hyperfunc.errors",
    "Integer": "hyperfunc.parameters.scalars",
    "Journal": "hyperfunc.journal",
    "LMParam": "hyperfunc.parameters.lm",
    "LoRAWeight": "hyperfunc.parameters.lora",
    "MSE": "hyperfunc.evaluation",
    "MeanSquaredError": "hyperfunc.evaluation",
    "MemoryCallStore": "hyperfunc.calls",
    "NoOpSystemOptimizer": "hyperfunc.evolution.hybrid",
    "NumericDistance": "hyperfunc.evaluation",
    "ObservabilityHub": "hyperfunc.observability",
    "ObservationRecord": "hyperfunc.observability",
    "OptimizeResult": "hyperfunc.history",
    "RegexMatch": "hyperfunc.evaluation",
    "ScoreResult": "hyperfunc.evaluation",
    "Scorer": "hyperfunc.evaluation",
    "Settings": "hyperfunc.settings",
    "Space": "hyperfunc.parameters.scalars",
    "Tape": "hyperfunc.tape",
    "TextParam": "hyperfunc.parameters.text",
    "Theta": "hyperfunc.parameters.theta",
    "TorchEggrollES": "hyperfunc.evolution.eggroll_module",
    "TraceSummary": "hyperfunc.observability",
    "Trajectory": "hyperfunc.evaluation",
    "Usage": "hyperfunc.usage",
    "combine": "hyperfunc.primitives",
    "get_hp_default_init": "hyperfunc.parameters.protocol",
    "get_hp_noise_rank": "hyperfunc.parameters.protocol",
    "get_hp_shape": "hyperfunc.parameters.protocol",
    "hookimpl": "hyperfunc.hookspecs",
    "hyperfunction": "hyperfunc.function",
    "load_theta": "hyperfunc.parameters.files",
    "save_theta": "hyperfunc.parameters.files",
    "split": "hyperfunc.primitives",
}

_PLUGINS: dict[str, str] = {
    "AdaptiveRateLimiter": "hyperfunc_llm",
    "ChatResponse": "hyperfunc_agents",
    "CodeCorrectnessJudge": "hyperfunc_judges",
    "Conversation": "hyperfunc_agents",
    "ConversationJudge": "hyperfunc_judges",
    "ConversationResult": "hyperfunc_agents",
    "ConversationTurn": "hyperfunc_agents",
    "FactualAccuracyJudge": "hyperfunc_judges",
    "InstructionFollowingJudge": "hyperfunc_judges",
    "JSONExporter": "hyperfunc_json",
    "LLMJudge": "hyperfunc_judges",
    "LLMResponse": "hyperfunc_llm",
    "LangFuseExporter": "hyperfunc_langfuse",
    "Memory": "hyperfunc_memory",
    "MemoryEntry": "hyperfunc_memory",
    "MemoryType": "hyperfunc_memory",
    "OTLPExporter": "hyperfunc_otlp",
    "PerfettoExporter": "hyperfunc_perfetto",
    "SummarizationJudge": "hyperfunc_judges",
    "TokenUsage": "hyperfunc_llm",
    "llm_completion": "hyperfunc_llm",
    "make_llm_completion": "hyperfunc_llm",
}

_HOME = {**_CORE, **_PLUGINS}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'hyperfunc' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]


if TYPE_CHECKING:  # what the tables say, for type checkers and editors
    from hyperfunc.agents import AgentType, FlowResponse
    from hyperfunc.budget import Budget
    from hyperfunc.calls import CallStore, MemoryCallStore
    from hyperfunc.errors import HyperfuncError
    from hyperfunc.evaluation import (
        MSE,
        Accuracy,
        ClassificationAccuracy,
        CompositeScorer,
        ContainsMatch,
        CrossEntropy,
        Dataset,
        EvalGate,
        ExactMatch,
        Example,
        Experiment,
        FunctionScorer,
        MeanSquaredError,
        NumericDistance,
        RegexMatch,
        Scorer,
        ScoreResult,
        Trajectory,
    )
    from hyperfunc.evolution.eggroll_module import TorchEggrollES
    from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer, NoOpSystemOptimizer
    from hyperfunc.function import HyperFunction, hyperfunction
    from hyperfunc.history import History, OptimizeResult
    from hyperfunc.hookspecs import hookimpl
    from hyperfunc.journal import Journal
    from hyperfunc.observability import (
        CallRecord,
        HyperFunctionStats,
        ObservabilityHub,
        ObservationRecord,
        TraceSummary,
    )
    from hyperfunc.parameters.files import load_theta, save_theta
    from hyperfunc.parameters.lm import LMParam
    from hyperfunc.parameters.lora import AdapterMeta, LoRAWeight
    from hyperfunc.parameters.protocol import HyperParam, get_hp_default_init, get_hp_noise_rank, get_hp_shape
    from hyperfunc.parameters.scalars import Choice, Float, Integer, Space
    from hyperfunc.parameters.text import TextParam
    from hyperfunc.parameters.theta import Theta
    from hyperfunc.population.factored import FactoredTensor
    from hyperfunc.primitives import combine, split
    from hyperfunc.settings import Settings
    from hyperfunc.system import HyperSystem
    from hyperfunc.tape import Call, Tape
    from hyperfunc.usage import Usage
    from hyperfunc_agents import ChatResponse, Conversation, ConversationResult, ConversationTurn
    from hyperfunc_json import JSONExporter
    from hyperfunc_judges import (
        CodeCorrectnessJudge,
        ConversationJudge,
        FactualAccuracyJudge,
        InstructionFollowingJudge,
        LLMJudge,
        SummarizationJudge,
    )
    from hyperfunc_langfuse import LangFuseExporter
    from hyperfunc_llm import AdaptiveRateLimiter, LLMResponse, TokenUsage, llm_completion, make_llm_completion
    from hyperfunc_memory import Memory, MemoryEntry, MemoryType
    from hyperfunc_otlp import OTLPExporter
    from hyperfunc_perfetto import PerfettoExporter
