"""The LLM runtime: every paid call limited, repeated, counted, never paid twice. See docs/llm.md.

Importing this imports no provider's SDK; those come with the first call that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperfunc.lazy import lazy_names

if TYPE_CHECKING:  # what the table below says, for type checkers and editors
    from hyperfunc_llm.classification import ErrorInfo, classify
    from hyperfunc_llm.completion import llm_completion, llm_stream, make_llm_completion
    from hyperfunc_llm.endpoints import Endpoint, Endpoints
    from hyperfunc_llm.errors import (
        AccessError,
        AttemptTimeoutError,
        AuthenticationError,
        BalanceError,
        ContentError,
        DeadlineError,
        EmptyResponseError,
        InvalidRequestError,
        LLMError,
        OutputValidationError,
        PromptLimitError,
        RateLimitedError,
        ToolLoopError,
        TransportError,
        UnknownAliasError,
    )
    from hyperfunc_llm.functions import LLMFunction, llm_hyperfunction
    from hyperfunc_llm.images import image_part, user_message
    from hyperfunc_llm.limits import AdaptiveRateLimiter
    from hyperfunc_llm.provider_cache import GeminiCache, mark_cached
    from hyperfunc_llm.retries import Deadline, RetryBudget
    from hyperfunc_llm.runtime import LLMRuntime, current_runtime, use_runtime
    from hyperfunc_llm.strategies import Attempt, CallStrategy, PrepareOnceMixin, RetryState
    from hyperfunc_llm.structured import OutputType, parse_json
    from hyperfunc_llm.tools import AgentResult, Tool, make_llm_agent, run_tool_loop
    from hyperfunc_llm.types import LLMRequest, LLMResponse, StreamChunk, Timings, TokenUsage, ToolCall

__all__ = [
    "AccessError",
    "AdaptiveRateLimiter",
    "AgentResult",
    "Attempt",
    "AttemptTimeoutError",
    "AuthenticationError",
    "BalanceError",
    "CallStrategy",
    "ContentError",
    "Deadline",
    "DeadlineError",
    "EmptyResponseError",
    "Endpoint",
    "Endpoints",
    "ErrorInfo",
    "GeminiCache",
    "InvalidRequestError",
    "LLMError",
    "LLMFunction",
    "LLMRequest",
    "LLMResponse",
    "LLMRuntime",
    "OutputType",
    "OutputValidationError",
    "PrepareOnceMixin",
    "PromptLimitError",
    "RateLimitedError",
    "RetryBudget",
    "RetryState",
    "StreamChunk",
    "Timings",
    "TokenUsage",
    "Tool",
    "ToolCall",
    "ToolLoopError",
    "TransportError",
    "UnknownAliasError",
    "classify",
    "current_runtime",
    "image_part",
    "llm_completion",
    "llm_hyperfunction",
    "llm_stream",
    "make_llm_agent",
    "make_llm_completion",
    "mark_cached",
    "parse_json",
    "run_tool_loop",
    "use_runtime",
    "user_message",
]

__getattr__ = lazy_names(
    __name__,
    {
        "hyperfunc_llm.classification": ("ErrorInfo", "classify"),
        "hyperfunc_llm.completion": ("llm_completion", "llm_stream", "make_llm_completion"),
        "hyperfunc_llm.endpoints": ("Endpoint", "Endpoints"),
        "hyperfunc_llm.errors": (
            "AccessError",
            "AttemptTimeoutError",
            "AuthenticationError",
            "BalanceError",
            "ContentError",
            "DeadlineError",
            "EmptyResponseError",
            "InvalidRequestError",
            "LLMError",
            "OutputValidationError",
            "PromptLimitError",
            "RateLimitedError",
            "ToolLoopError",
            "TransportError",
            "UnknownAliasError",
        ),
        "hyperfunc_llm.functions": ("LLMFunction", "llm_hyperfunction"),
        "hyperfunc_llm.images": ("image_part", "user_message"),
        "hyperfunc_llm.limits": ("AdaptiveRateLimiter",),
        "hyperfunc_llm.provider_cache": ("GeminiCache", "mark_cached"),
        "hyperfunc_llm.retries": ("Deadline", "RetryBudget"),
        "hyperfunc_llm.runtime": ("LLMRuntime", "current_runtime", "use_runtime"),
        "hyperfunc_llm.strategies": ("Attempt", "CallStrategy", "PrepareOnceMixin", "RetryState"),
        "hyperfunc_llm.structured": ("OutputType", "parse_json"),
        "hyperfunc_llm.tools": ("AgentResult", "Tool", "make_llm_agent", "run_tool_loop"),
        "hyperfunc_llm.types": ("LLMRequest", "LLMResponse", "StreamChunk", "Timings", "TokenUsage", "ToolCall"),
    },
)
