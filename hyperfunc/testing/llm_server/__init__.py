"""A deterministic OpenAI-compatible model provider on loopback, with scripted faults and counters.

Real HTTP for tests and benchmarks without keys or network: chat, streaming, tools, JSON mode, usage, faults, rate
limits, and enough of ``generateContent`` and ``cachedContents`` for Gemini-style caching.
"""

from __future__ import annotations

from hyperfunc.testing.llm_server.process import ServerProcess
from hyperfunc.testing.llm_server.script import FAULTS, Request, Rule, Script
from hyperfunc.testing.llm_server.server import LLMServer

__all__ = ["FAULTS", "LLMServer", "Request", "Rule", "Script", "ServerProcess"]
