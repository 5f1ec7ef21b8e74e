"""What authors of plugins, and users, test with: contracts, fakes, loopback servers, a pytest plugin.

* contracts (``StrategyContract``, …): override one fixture, see :mod:`hyperfunc.testing.contracts`;
* fakes (``RecordingExporter``, …): small, real implementations, see :mod:`hyperfunc.testing.fakes`;
* :class:`VirtualLoop`: time that passes without waiting;
* servers: :mod:`hyperfunc.testing.llm_server`, :mod:`hyperfunc.testing.otlp`, :mod:`hyperfunc.testing.postgres`;
* :mod:`hyperfunc.testing.pytest_plugin`: fixtures that are there wherever hyperfunc is installed.

Names are loaded at first use: pytest imports this package in every project where hyperfunc is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "CONTRACTS",
    "HOSTILE_TEXTS",
    "AgentCase",
    "AgentTypeContract",
    "BlockingEngine",
    "CLICommandContract",
    "ChoicePromptOptimizer",
    "ClassifierCase",
    "CountdownEnvironment",
    "EngineContract",
    "EnvironmentContract",
    "ErrorClassifierContract",
    "ExporterCase",
    "ExporterContract",
    "MemoryBackendContract",
    "ModelFamilyCase",
    "ModelFamilyContract",
    "PromptOptimizerContract",
    "RecordingEvents",
    "RecordingExporter",
    "RecordingTracker",
    "RunEventsContract",
    "ScorerCase",
    "ScorerContract",
    "StrategyContract",
    "TensorEnvironmentContract",
    "TrackerCase",
    "TrackerContract",
    "TransportCase",
    "TransportContract",
    "VirtualLoop",
    "hostile_queries",
]

_ELSEWHERE = {
    "BlockingEngine": "hyperfunc.testing.fakes",
    "ChoicePromptOptimizer": "hyperfunc.testing.fakes",
    "CountdownEnvironment": "hyperfunc.testing.fakes",
    "RecordingEvents": "hyperfunc.testing.fakes",
    "RecordingExporter": "hyperfunc.testing.fakes",
    "RecordingTracker": "hyperfunc.testing.fakes",
    "HOSTILE_TEXTS": "hyperfunc.testing.hostile_texts",
    "hostile_queries": "hyperfunc.testing.hostile_texts",
    "VirtualLoop": "hyperfunc.testing.virtual_time",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hyperfunc.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(_ELSEWHERE.get(name, "hyperfunc.testing.contracts")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]


if TYPE_CHECKING:  # what the table says, for type checkers and editors
    from hyperfunc.testing.contracts import (
        CONTRACTS,
        AgentCase,
        AgentTypeContract,
        ClassifierCase,
        CLICommandContract,
        EngineContract,
        EnvironmentContract,
        ErrorClassifierContract,
        ExporterCase,
        ExporterContract,
        MemoryBackendContract,
        ModelFamilyCase,
        ModelFamilyContract,
        PromptOptimizerContract,
        RunEventsContract,
        ScorerCase,
        ScorerContract,
        StrategyContract,
        TensorEnvironmentContract,
        TrackerCase,
        TrackerContract,
        TransportCase,
        TransportContract,
    )
    from hyperfunc.testing.fakes import (
        BlockingEngine,
        ChoicePromptOptimizer,
        CountdownEnvironment,
        RecordingEvents,
        RecordingExporter,
        RecordingTracker,
    )
    from hyperfunc.testing.hostile_texts import HOSTILE_TEXTS, hostile_queries
    from hyperfunc.testing.virtual_time import VirtualLoop
