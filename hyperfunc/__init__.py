"""hyperfunc trains compound AI systems: their tensors by evolution, their texts by prompt learning.

Names are loaded at first use, so that ``import hyperfunc`` costs next to nothing and the command line starts without
torch. The names of well-known plugins are handed on here; this table is the only place where core knows them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "1.0.0.dev0"

_CORE: dict[str, str] = {
    "Ablation": "hyperfunc.sensitivity",
    "Accuracy": "hyperfunc.evaluation",
    "AdapterMeta": "hyperfunc.parameters.lora",
    "AdaptiveMinibatch": "hyperfunc.scheduling.minibatch_size",
    "AgentType": "hyperfunc.agents",
    "Artifacts": "hyperfunc.batch",
    "BatchResult": "hyperfunc.batch",
    "BoundedKernels": "hyperfunc.population.kernel_size",
    "Budget": "hyperfunc.budget",
    "Call": "hyperfunc.tape",
    "CallContext": "hyperfunc.observability",
    "CallRecord": "hyperfunc.observability",
    "CallStore": "hyperfunc.calls",
    "Choice": "hyperfunc.parameters.scalars",
    "ClassificationAccuracy": "hyperfunc.evaluation",
    "CompositeScorer": "hyperfunc.evaluation",
    "ContainsMatch": "hyperfunc.evaluation",
    "CrossEntropy": "hyperfunc.evaluation",
    "Dataset": "hyperfunc.evaluation",
    "ESHybridSystemOptimizer": "hyperfunc.evolution.hybrid",
    "Economy": "hyperfunc.scheduling.economy",
    "EvalGate": "hyperfunc.evaluation",
    "ExactMatch": "hyperfunc.evaluation",
    "Example": "hyperfunc.evaluation",
    "Experiment": "hyperfunc.evaluation",
    "FactoredTensor": "hyperfunc.population.factored",
    "Float": "hyperfunc.parameters.scalars",
    "FlowResponse": "hyperfunc.agents",
    "Focus": "hyperfunc.scheduling.focus",
    "Forecast": "hyperfunc.scheduling.forecast",
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
    "MeasuredPace": "hyperfunc.population.pace",
    "MemoryCallStore": "hyperfunc.calls",
    "NoOpSystemOptimizer": "hyperfunc.evolution.hybrid",
    "NumericDistance": "hyperfunc.evaluation",
    "ObservabilityHub": "hyperfunc.observability",
    "ObservationRecord": "hyperfunc.observability",
    "OptimizeResult": "hyperfunc.history",
    "ParetoPoint": "hyperfunc.export",
    "Racing": "hyperfunc.scheduling.racing",
    "RegexMatch": "hyperfunc.evaluation",
    "ScoreResult": "hyperfunc.evaluation",
    "Scorer": "hyperfunc.evaluation",
    "Sensitivity": "hyperfunc.sensitivity",
    "Settings": "hyperfunc.settings",
    "Space": "hyperfunc.parameters.scalars",
    "Tape": "hyperfunc.tape",
    "TextParam": "hyperfunc.parameters.text",
    "Theta": "hyperfunc.parameters.theta",
    "TorchEggrollES": "hyperfunc.evolution.eggroll_module",
    "TraceSummary": "hyperfunc.observability",
    "Trajectory": "hyperfunc.evaluation",
    "Usage": "hyperfunc.usage",
    "batch": "hyperfunc.batch",
    "combine": "hyperfunc.primitives",
    "get_hp_default_init": "hyperfunc.parameters.protocol",
    "get_hp_noise_rank": "hyperfunc.parameters.protocol",
    "get_hp_shape": "hyperfunc.parameters.protocol",
    "hookimpl": "hyperfunc.hookspecs",
    "hyperfunction": "hyperfunc.function",
    "injected": "hyperfunc.injection",
    "load_theta": "hyperfunc.parameters.files",
    "save_theta": "hyperfunc.parameters.files",
    "split": "hyperfunc.primitives",
}

_PLUGINS: dict[str, str] = {
    "AdaptiveRateLimiter": "hyperfunc_llm",
    "Blame": "hyperfunc_prompts",
    "BootstrapDemos": "hyperfunc_prompts",
    "ChatResponse": "hyperfunc_agents",
    "CodeCorrectnessJudge": "hyperfunc_judges",
    "Conversation": "hyperfunc_agents",
    "ConversationJudge": "hyperfunc_judges",
    "ConversationResult": "hyperfunc_agents",
    "ConversationTurn": "hyperfunc_agents",
    "DecodingParameters": "hyperfunc_local",
    "Endpoint": "hyperfunc_llm",
    "Endpoints": "hyperfunc_llm",
    "EpisodeResult": "hyperfunc_agents",
    "FactualAccuracyJudge": "hyperfunc_judges",
    "FeedbackAscent": "hyperfunc_prompts",
    "GameResponse": "hyperfunc_agents",
    "InputField": "hyperfunc_prompts",
    "InstructionFollowingJudge": "hyperfunc_judges",
    "JSONExporter": "hyperfunc_json",
    "LLMJudge": "hyperfunc_judges",
    "LLMResponse": "hyperfunc_llm",
    "LLMRuntime": "hyperfunc_llm",
    "LangFuseExporter": "hyperfunc_langfuse",
    "LocalModel": "hyperfunc_local",
    "Memory": "hyperfunc_memory",
    "MemoryEntry": "hyperfunc_memory",
    "MemoryType": "hyperfunc_memory",
    "NoOpPromptOptimizer": "hyperfunc_prompts",
    "OTLPExporter": "hyperfunc_otlp",
    "OutputField": "hyperfunc_prompts",
    "PerfettoExporter": "hyperfunc_perfetto",
    "Predict": "hyperfunc_prompts",
    "PromptLearningOptimizer": "hyperfunc_prompts",
    "ReflectivePareto": "hyperfunc_prompts",
    "Signature": "hyperfunc_prompts",
    "SummarizationJudge": "hyperfunc_judges",
    "TokenUsage": "hyperfunc_llm",
    "assign_blame": "hyperfunc_prompts",
    "llm_completion": "hyperfunc_llm",
    "llm_hyperfunction": "hyperfunc_llm",
    "llm_stream": "hyperfunc_llm",
    "load_model": "hyperfunc_local",
    "make_llm_agent": "hyperfunc_llm",
    "make_llm_completion": "hyperfunc_llm",
    "use_runtime": "hyperfunc_llm",
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
    from hyperfunc.agents import AgentType as AgentType
    from hyperfunc.agents import FlowResponse as FlowResponse
    from hyperfunc.batch import Artifacts as Artifacts
    from hyperfunc.batch import BatchResult as BatchResult
    from hyperfunc.batch import batch as batch
    from hyperfunc.budget import Budget as Budget
    from hyperfunc.calls import CallStore as CallStore
    from hyperfunc.calls import MemoryCallStore as MemoryCallStore
    from hyperfunc.errors import HyperfuncError as HyperfuncError
    from hyperfunc.evaluation import MSE as MSE
    from hyperfunc.evaluation import Accuracy as Accuracy
    from hyperfunc.evaluation import ClassificationAccuracy as ClassificationAccuracy
    from hyperfunc.evaluation import CompositeScorer as CompositeScorer
    from hyperfunc.evaluation import ContainsMatch as ContainsMatch
    from hyperfunc.evaluation import CrossEntropy as CrossEntropy
    from hyperfunc.evaluation import Dataset as Dataset
    from hyperfunc.evaluation import EvalGate as EvalGate
    from hyperfunc.evaluation import ExactMatch as ExactMatch
    from hyperfunc.evaluation import Example as Example
    from hyperfunc.evaluation import Experiment as Experiment
    from hyperfunc.evaluation import FunctionScorer as FunctionScorer
    from hyperfunc.evaluation import MeanSquaredError as MeanSquaredError
    from hyperfunc.evaluation import NumericDistance as NumericDistance
    from hyperfunc.evaluation import RegexMatch as RegexMatch
    from hyperfunc.evaluation import Scorer as Scorer
    from hyperfunc.evaluation import ScoreResult as ScoreResult
    from hyperfunc.evaluation import Trajectory as Trajectory
    from hyperfunc.evolution.eggroll_module import TorchEggrollES as TorchEggrollES
    from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer as ESHybridSystemOptimizer
    from hyperfunc.evolution.hybrid import NoOpSystemOptimizer as NoOpSystemOptimizer
    from hyperfunc.export import ParetoPoint as ParetoPoint
    from hyperfunc.function import HyperFunction as HyperFunction
    from hyperfunc.function import hyperfunction as hyperfunction
    from hyperfunc.history import History as History
    from hyperfunc.history import OptimizeResult as OptimizeResult
    from hyperfunc.hookspecs import hookimpl as hookimpl
    from hyperfunc.injection import injected as injected
    from hyperfunc.journal import Journal as Journal
    from hyperfunc.observability import CallContext as CallContext
    from hyperfunc.observability import CallRecord as CallRecord
    from hyperfunc.observability import HyperFunctionStats as HyperFunctionStats
    from hyperfunc.observability import ObservabilityHub as ObservabilityHub
    from hyperfunc.observability import ObservationRecord as ObservationRecord
    from hyperfunc.observability import TraceSummary as TraceSummary
    from hyperfunc.parameters.files import load_theta as load_theta
    from hyperfunc.parameters.files import save_theta as save_theta
    from hyperfunc.parameters.lm import LMParam as LMParam
    from hyperfunc.parameters.lora import AdapterMeta as AdapterMeta
    from hyperfunc.parameters.lora import LoRAWeight as LoRAWeight
    from hyperfunc.parameters.protocol import HyperParam as HyperParam
    from hyperfunc.parameters.protocol import get_hp_default_init as get_hp_default_init
    from hyperfunc.parameters.protocol import get_hp_noise_rank as get_hp_noise_rank
    from hyperfunc.parameters.protocol import get_hp_shape as get_hp_shape
    from hyperfunc.parameters.scalars import Choice as Choice
    from hyperfunc.parameters.scalars import Float as Float
    from hyperfunc.parameters.scalars import Integer as Integer
    from hyperfunc.parameters.scalars import Space as Space
    from hyperfunc.parameters.text import TextParam as TextParam
    from hyperfunc.parameters.theta import Theta as Theta
    from hyperfunc.population.factored import FactoredTensor as FactoredTensor
    from hyperfunc.population.kernel_size import BoundedKernels as BoundedKernels
    from hyperfunc.population.pace import MeasuredPace as MeasuredPace
    from hyperfunc.primitives import combine as combine
    from hyperfunc.primitives import split as split
    from hyperfunc.scheduling.economy import Economy as Economy
    from hyperfunc.scheduling.focus import Focus as Focus
    from hyperfunc.scheduling.forecast import Forecast as Forecast
    from hyperfunc.scheduling.minibatch_size import AdaptiveMinibatch as AdaptiveMinibatch
    from hyperfunc.scheduling.racing import Racing as Racing
    from hyperfunc.sensitivity import Ablation as Ablation
    from hyperfunc.sensitivity import Sensitivity as Sensitivity
    from hyperfunc.settings import Settings as Settings
    from hyperfunc.system import HyperSystem as HyperSystem
    from hyperfunc.tape import Call as Call
    from hyperfunc.tape import Tape as Tape
    from hyperfunc.usage import Usage as Usage
    from hyperfunc_agents import ChatResponse as ChatResponse
    from hyperfunc_agents import Conversation as Conversation
    from hyperfunc_agents import ConversationResult as ConversationResult
    from hyperfunc_agents import ConversationTurn as ConversationTurn
    from hyperfunc_agents import EpisodeResult as EpisodeResult
    from hyperfunc_agents import GameResponse as GameResponse
    from hyperfunc_json import JSONExporter as JSONExporter
    from hyperfunc_judges import CodeCorrectnessJudge as CodeCorrectnessJudge
    from hyperfunc_judges import ConversationJudge as ConversationJudge
    from hyperfunc_judges import FactualAccuracyJudge as FactualAccuracyJudge
    from hyperfunc_judges import InstructionFollowingJudge as InstructionFollowingJudge
    from hyperfunc_judges import LLMJudge as LLMJudge
    from hyperfunc_judges import SummarizationJudge as SummarizationJudge
    from hyperfunc_langfuse import LangFuseExporter as LangFuseExporter
    from hyperfunc_llm import AdaptiveRateLimiter as AdaptiveRateLimiter
    from hyperfunc_llm import Endpoint as Endpoint
    from hyperfunc_llm import Endpoints as Endpoints
    from hyperfunc_llm import LLMResponse as LLMResponse
    from hyperfunc_llm import LLMRuntime as LLMRuntime
    from hyperfunc_llm import TokenUsage as TokenUsage
    from hyperfunc_llm import llm_completion as llm_completion
    from hyperfunc_llm import llm_hyperfunction as llm_hyperfunction
    from hyperfunc_llm import llm_stream as llm_stream
    from hyperfunc_llm import make_llm_agent as make_llm_agent
    from hyperfunc_llm import make_llm_completion as make_llm_completion
    from hyperfunc_llm import use_runtime as use_runtime
    from hyperfunc_local import DecodingParameters as DecodingParameters
    from hyperfunc_local import LocalModel as LocalModel
    from hyperfunc_local import load_model as load_model
    from hyperfunc_memory import Memory as Memory
    from hyperfunc_memory import MemoryEntry as MemoryEntry
    from hyperfunc_memory import MemoryType as MemoryType
    from hyperfunc_otlp import OTLPExporter as OTLPExporter
    from hyperfunc_perfetto import PerfettoExporter as PerfettoExporter
    from hyperfunc_prompts import Blame as Blame
    from hyperfunc_prompts import BootstrapDemos as BootstrapDemos
    from hyperfunc_prompts import FeedbackAscent as FeedbackAscent
    from hyperfunc_prompts import InputField as InputField
    from hyperfunc_prompts import NoOpPromptOptimizer as NoOpPromptOptimizer
    from hyperfunc_prompts import OutputField as OutputField
    from hyperfunc_prompts import Predict as Predict
    from hyperfunc_prompts import PromptLearningOptimizer as PromptLearningOptimizer
    from hyperfunc_prompts import ReflectivePareto as ReflectivePareto
    from hyperfunc_prompts import Signature as Signature
    from hyperfunc_prompts import assign_blame as assign_blame
