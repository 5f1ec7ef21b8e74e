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
    "Call": "hyperfunc.tape",
    "CallStore": "hyperfunc.calls",
    "Choice": "hyperfunc.parameters.scalars",
    "ClassificationAccuracy": "hyperfunc.evaluation",
    "CompositeScorer": "hyperfunc.evaluation",
    "ContainsMatch": "hyperfunc.evaluation",
    "CrossEntropy": "hyperfunc.evaluation",
    "ESHybridSystemOptimizer": "hyperfunc.evolution.hybrid",
    "ExactMatch": "hyperfunc.evaluation",
    "Example": "hyperfunc.evaluation",
    "Float": "hyperfunc.parameters.scalars",
    "FlowResponse": "hyperfunc.agents",
    "History": "hyperfunc.history",
    "HyperFunction": "hyperfunc.function",
    "HyperParam": "hyperfunc.parameters.protocol",
    "HyperSystem": "hyperfunc.system",
    "HyperfuncError": "hyperfunc.errors",
    "Integer": "hyperfunc.parameters.scalars",
    "LMParam": "hyperfunc.parameters.lm",
    "LoRAWeight": "hyperfunc.parameters.lora",
    "MSE": "hyperfunc.evaluation",
    "MemoryCallStore": "hyperfunc.calls",
    "NoOpSystemOptimizer": "hyperfunc.evolution.hybrid",
    "NumericDistance": "hyperfunc.evaluation",
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

_PLUGINS: dict[str, str] = {}

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


if TYPE_CHECKING:  # what the table says, for type checkers and editors
    from hyperfunc.agents import AgentType, FlowResponse
    from hyperfunc.calls import CallStore, MemoryCallStore
    from hyperfunc.errors import HyperfuncError
    from hyperfunc.evaluation import (
        MSE,
        Accuracy,
        ClassificationAccuracy,
        CompositeScorer,
        ContainsMatch,
        CrossEntropy,
        ExactMatch,
        Example,
        NumericDistance,
        RegexMatch,
        Scorer,
        ScoreResult,
    )
    from hyperfunc.evolution.eggroll_module import TorchEggrollES
    from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer, NoOpSystemOptimizer
    from hyperfunc.function import HyperFunction, hyperfunction
    from hyperfunc.history import History, OptimizeResult
    from hyperfunc.hookspecs import hookimpl
    from hyperfunc.parameters.files import load_theta, save_theta
    from hyperfunc.parameters.lm import LMParam
    from hyperfunc.parameters.lora import AdapterMeta, LoRAWeight
    from hyperfunc.parameters.protocol import HyperParam, get_hp_default_init, get_hp_noise_rank, get_hp_shape
    from hyperfunc.parameters.scalars import Choice, Float, Integer, Space
    from hyperfunc.parameters.text import TextParam
    from hyperfunc.parameters.theta import Theta
    from hyperfunc.primitives import combine, split
    from hyperfunc.settings import Settings
    from hyperfunc.system import HyperSystem
    from hyperfunc.tape import Call, Tape
    from hyperfunc.usage import Usage
