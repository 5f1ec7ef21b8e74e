"""Agents that talk: the CHAT agent type, its users and its scores.

A system with ``agent_type = "chat"`` is a program ``run(message, history=None, memory_context=None)``; one example is
one conversation (see :mod:`hyperfunc_agents.chat`).
"""

from __future__ import annotations

from hyperfunc_agents.chat import ChatAgent, hold_conversations
from hyperfunc_agents.conversation import (
    ChatResponse,
    Conversation,
    ConversationMemory,
    ConversationResult,
    ConversationTurn,
)
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
    "LLMUser",
    "SimulatedUser",
    "hold_conversations",
]
