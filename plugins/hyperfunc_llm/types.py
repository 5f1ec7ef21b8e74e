"""Requests and responses as values. Knows nothing of providers, limits or retries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hyperfunc.usage import Usage

__all__ = ["LLMRequest", "LLMResponse", "Message", "StreamChunk", "Timings", "TokenUsage", "ToolCall", "as_messages"]

Message = Mapping[str, Any]
"""One chat message in the OpenAI form: ``{"role": …, "content": text or parts, …}``."""


def as_messages(messages: str | Sequence[Message]) -> list[Message]:
    """A plain text as one user message."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


@dataclass(frozen=True, slots=True)
class LLMRequest:
    """One request, complete but for the connection.

    Attributes:
        messages: the conversation.
        params: sampling and format parameters in the OpenAI vocabulary (``temperature``, ``tools``,
            ``response_format``, ``seed``, ``extra_body``, …).
        theta: parameter values of the calling component that are not visible in the request; part of the cache key.
    """

    messages: Sequence[Message]
    params: Mapping[str, Any] = field(default_factory=dict)
    theta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenUsage:
    """Tokens of one reply. ``cached_tokens`` are part of ``prompt_tokens``, ``reasoning_tokens`` of
    ``completion_tokens``."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def effective_input_tokens(self, cached_rate: float) -> int:
        """Input tokens in full-price equivalents, when a cached one costs ``cached_rate`` (0 to 1) of a fresh one."""
        return self.prompt_tokens - int(self.cached_tokens * (1.0 - cached_rate))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool. ``arguments`` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: waiting for admission, until the first streamed chunk, and in the attempts."""

    admission_s: float = 0.0
    first_chunk_s: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class LLMResponse:
    """A model's reply.

    Attributes:
        content: its text (``""`` when it only calls tools).
        usage: its tokens (of the last, successful attempt).
        model: the model that answered.
        finish_reason: ``stop``, ``length``, ``tool_calls``, ``SAFETY``, … as the provider says it.
        cost: US dollars, ``None`` where no price is known.
        tool_calls: tools that the model asks for.
        reasoning: the model's visible reasoning, if any.
        safety_ratings: category -> probability, as plain strings.
        logprobs: as the provider sends them.
        timings: where the time went.
        attempts: requests sent for this reply; 0 for a hit of the call store.
        spent: everything that this call cost, failed attempts included; nothing for a hit.
        replayed: came from the call store, or from an equal call in flight: free.
        parsed: the validated object, when structured output was asked for.
        raw: the provider's reply, when ``raw=True`` was asked for.
    """

    content: str
    usage: TokenUsage
    model: str
    finish_reason: str
    cost: float | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    safety_ratings: Mapping[str, str] = field(default_factory=dict)
    logprobs: Any = None
    timings: Timings = field(default_factory=Timings)
    attempts: int = 1
    spent: Usage = field(default_factory=Usage)
    replayed: bool = False
    parsed: Any = None
    raw: Any = None

    def __str__(self) -> str:
        return self.content

    def message(self) -> dict[str, Any]:
        """This reply as an assistant message, to continue the conversation with."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or None}
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.tool_calls
            ]
        return message

    def to_dict(self) -> dict[str, Any]:
        """JSON values of what a store keeps: everything but ``parsed``, ``raw``, timings and bookkeeping."""
        return {
            "content": self.content,
            "usage": asdict(self.usage),
            "model": self.model,
            "finish_reason": self.finish_reason,
            "cost": self.cost,
            "tool_calls": [asdict(c) for c in self.tool_calls],
            "reasoning": self.reasoning,
            "safety_ratings": dict(self.safety_ratings),
            "logprobs": self.logprobs,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LLMResponse:
        """Inverse of :meth:`to_dict`; the result is marked as replayed."""
        fields = dict(data)
        fields["usage"] = TokenUsage(**fields["usage"])
        fields["tool_calls"] = tuple(ToolCall(**c) for c in fields["tool_calls"])
        return cls(**fields, attempts=0, replayed=True)


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """A piece of a streamed reply; the last one carries the whole ``response``."""

    content: str = ""
    reasoning: str = ""
    response: LLMResponse | None = None
