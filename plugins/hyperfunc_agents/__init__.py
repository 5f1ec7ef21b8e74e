"""Agents that talk and play: the agent types CHAT (one example is one conversation) and GAME (one episode).

A CHAT system is a program ``run(message, history=None, memory_context=None)`` (:mod:`hyperfunc_agents.chat`); a GAME
system is a program ``run(observation)`` (:mod:`hyperfunc_agents.game`).

Names are imported at first use (PEP 562), so that loading the plugin loads neither torch nor gymnasium.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperfunc_agents.chat import ChatAgent, hold_conversations
    from hyperfunc_agents.conversation import (
        ChatResponse,
        Conversation,
        ConversationMemory,
        ConversationResult,
        ConversationTurn,
    )
    from hyperfunc_agents.game import Game, play
    from hyperfunc_agents.game_cartpole import TensorCartPole
    from hyperfunc_agents.game_inputs import episodes
    from hyperfunc_agents.game_results import EpisodeResult, EpisodeStep, GameResponse, ObservationMoments
    from hyperfunc_agents.game_scoring import EpisodeReturn, ReturnSummary, summarize_returns
    from hyperfunc_agents.game_statistics import ObservationStatistics, observation_normalizer
    from hyperfunc_agents.game_tensor import TensorEnvironment, Transition
    from hyperfunc_agents.scoring import ConversationScorer
    from hyperfunc_agents.users import LLMUser, SimulatedUser

__all__ = [
    "ChatAgent",
    "ChatResponse",
    "Conversation",
    "ConversationMemory",
    "ConversationResult",
    "ConversationScorer",
    "ConversationTurn",
    "EpisodeResult",
    "EpisodeReturn",
    "EpisodeStep",
    "Game",
    "GameResponse",
    "LLMUser",
    "ObservationMoments",
    "ObservationStatistics",
    "ReturnSummary",
    "SimulatedUser",
    "TensorCartPole",
    "TensorEnvironment",
    "Transition",
    "episodes",
    "hold_conversations",
    "observation_normalizer",
    "play",
    "summarize_returns",
]

_MODULES = {
    "ChatAgent": "chat",
    "ChatResponse": "conversation",
    "Conversation": "conversation",
    "ConversationMemory": "conversation",
    "ConversationResult": "conversation",
    "ConversationScorer": "scoring",
    "ConversationTurn": "conversation",
    "EpisodeResult": "game_results",
    "EpisodeReturn": "game_scoring",
    "EpisodeStep": "game_results",
    "Game": "game",
    "GameResponse": "game_results",
    "LLMUser": "users",
    "ObservationMoments": "game_results",
    "ObservationStatistics": "game_statistics",
    "ReturnSummary": "game_scoring",
    "SimulatedUser": "users",
    "TensorCartPole": "game_cartpole",
    "TensorEnvironment": "game_tensor",
    "Transition": "game_tensor",
    "episodes": "game_inputs",
    "hold_conversations": "chat",
    "observation_normalizer": "game_statistics",
    "play": "game",
    "summarize_returns": "game_scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
