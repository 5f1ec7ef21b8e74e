"""What a request will cost at most, and what it did cost. Knows nothing of how it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperfunc.usage import Usage
from hyperfunc_llm.endpoints import Endpoint
from hyperfunc_llm.prices import Price
from hyperfunc_llm.types import LLMRequest, Message, TokenUsage

__all__ = ["as_usage", "estimate_tokens", "most_tokens", "worst_case"]

_IMAGE_TOKENS = 1000
_MESSAGE_TOKENS = 4


def estimate_tokens(messages: Sequence[Message], params: Mapping[str, Any]) -> int:
    """About how many tokens the model will read: a quarter of the characters, 4 per message, 1 000 per image."""
    texts, images = _content(messages, params)
    return (sum(map(len, texts)) + 3) // 4 + _MESSAGE_TOKENS * len(messages) + _IMAGE_TOKENS * images


def most_tokens(messages: Sequence[Message], params: Mapping[str, Any]) -> int:
    """How many tokens the model can read at most: a token stands for at least one byte of text."""
    texts, images = _content(messages, params)
    return sum(len(text.encode()) for text in texts) + _MESSAGE_TOKENS * len(messages) + _IMAGE_TOKENS * images


def _content(messages: Sequence[Message], params: Mapping[str, Any]) -> tuple[list[str], int]:
    """All texts of a request, and how many images it has."""
    texts, images = [], 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list):
            for part in content:
                images += part.get("type") == "image_url"
                texts.append(part.get("text") or "")
        if message.get("tool_calls"):
            texts.append(str(message["tool_calls"]))
    for name in ("tools", "response_format"):  # schemas are written into the prompt, and billed
        if params.get(name):
            texts.append(str(params[name]))
    return texts, images


def worst_case(request: LLMRequest, endpoint: Endpoint, price: Price | None) -> Usage:
    """What one attempt may use: all input that fits into the text, uncached, and as much output as was allowed."""
    params = request.params
    input_tokens = most_tokens(request.messages, params)
    limit = params.get("max_completion_tokens") or params.get("max_tokens") or endpoint.max_output_tokens or 0
    output_tokens = int(limit) * int(params.get("n") or 1)
    usd = 0.0 if price is None else input_tokens * price.input + output_tokens * price.output
    return Usage(calls=1, input_tokens=input_tokens, output_tokens=output_tokens, usd=usd)


def as_usage(tokens: TokenUsage, price: Price | None, *, calls: int, seconds: float) -> Usage:
    """One attempt's usage in core's terms."""
    return Usage(
        calls=calls,
        input_tokens=tokens.prompt_tokens,
        output_tokens=tokens.completion_tokens,
        cached_tokens=tokens.cached_tokens,
        reasoning_tokens=tokens.reasoning_tokens,
        usd=0.0 if price is None else price.cost(tokens),
        seconds=seconds,
    )
