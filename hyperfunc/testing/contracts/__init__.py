"""Contract tests: one class per extension point, for the authors of plugins.

Subclass one in a test module and override its fixture; every test of the class then runs on what the fixture gives.
The tests are plain functions, so no further pytest plugin is needed. :data:`CONTRACTS` says which hook each is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hyperfunc.testing.contracts.agents import AgentCase, AgentTypeContract
from hyperfunc.testing.contracts.cli_commands import CLICommandContract
from hyperfunc.testing.contracts.engines import EngineContract, EngineProgram
from hyperfunc.testing.contracts.environments import EnvironmentContract
from hyperfunc.testing.contracts.error_classifiers import ClassifierCase, ErrorClassifierContract
from hyperfunc.testing.contracts.exporters import ExporterCase, ExporterContract, sample_observations
from hyperfunc.testing.contracts.memory_backends import MemoryBackendContract
from hyperfunc.testing.contracts.model_families import ModelFamilyCase, ModelFamilyContract
from hyperfunc.testing.contracts.prompt_optimizers import PromptOptimizerContract, PromptProgram
from hyperfunc.testing.contracts.run_events import RunEventsContract, sample_events
from hyperfunc.testing.contracts.scorers import ScorerCase, ScorerContract
from hyperfunc.testing.contracts.strategies import StrategyContract
from hyperfunc.testing.contracts.tensor_environments import TensorEnvironmentContract
from hyperfunc.testing.contracts.trackers import TrackerCase, TrackerContract
from hyperfunc.testing.contracts.transports import TransportCase, TransportContract

__all__ = [
    "CONTRACTS",
    "AgentCase",
    "AgentTypeContract",
    "CLICommandContract",
    "ClassifierCase",
    "EngineContract",
    "EngineProgram",
    "EnvironmentContract",
    "ErrorClassifierContract",
    "ExporterCase",
    "ExporterContract",
    "MemoryBackendContract",
    "ModelFamilyCase",
    "ModelFamilyContract",
    "PromptOptimizerContract",
    "PromptProgram",
    "RunEventsContract",
    "ScorerCase",
    "ScorerContract",
    "StrategyContract",
    "TensorEnvironmentContract",
    "TrackerCase",
    "TrackerContract",
    "TransportCase",
    "TransportContract",
    "sample_events",
    "sample_observations",
]

CONTRACTS: Final[Mapping[str, type]] = {
    "hyperfunc_register_agent_types": AgentTypeContract,
    "hyperfunc_register_strategies": StrategyContract,
    "hyperfunc_register_scorers": ScorerContract,
    "hyperfunc_register_prompt_optimizers": PromptOptimizerContract,
    "hyperfunc_register_memory_backends": MemoryBackendContract,
    "hyperfunc_register_exporters": ExporterContract,
    "hyperfunc_register_trackers": TrackerContract,
    "hyperfunc_register_environments": EnvironmentContract,
    "hyperfunc_register_model_families": ModelFamilyContract,
    "hyperfunc_register_llm_transports": TransportContract,
    "hyperfunc_register_error_classifiers": ErrorClassifierContract,
    "hyperfunc_register_engines": EngineContract,
    "hyperfunc_register_cli_commands": CLICommandContract,
    "hyperfunc_run_started": RunEventsContract,
    "hyperfunc_generation_finished": RunEventsContract,
    "hyperfunc_candidate_accepted": RunEventsContract,
    "hyperfunc_before_call": RunEventsContract,
    "hyperfunc_after_call": RunEventsContract,
    "hyperfunc_run_ended": RunEventsContract,
}
"""Hook -> the contract of what is registered there, or of the plugin that implements it."""
