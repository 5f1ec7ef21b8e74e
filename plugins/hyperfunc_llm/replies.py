"""From a provider's reply to an :class:`LLMResponse`: one reader for all transports, so that they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperfunc_llm.errors import EmptyResponseError, TransportError
from hyperfunc_llm.types import LLMResponse, TokenUsage, ToolCall

__all__ = ["StreamedReply", "read_reply", "read_usage"]


def read_usage(usage: Mapping[str, Any] | None) -> TokenUsage:
    """Usage in OpenAI's form; absent numbers are 0."""
    if not usage:
        return TokenUsage()
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=usage.get("total_tokens") or prompt + completion,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
    )


def read_reply(
    payload: Mapping[str, Any], usage: TokenUsage, safety_ratings: Mapping[str, str], *, endpoint: str
) -> LLMResponse:
    """The response in ``payload``.

    Raises:
        EmptyResponseError: neither text nor tool calls; the message says why, as far as the provider does.
        TransportError: the payload is no chat completion.
    """
    try:
        choice = payload["choices"][0]
        message = choice["message"]
        calls = tuple(
            ToolCall(c.get("id") or f"call_{i}", c["function"]["name"], c["function"].get("arguments") or "{}")
            for i, c in enumerate(message.get("tool_calls") or ())
        )
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise TransportError(
            f"{endpoint} sent a reply that is no chat completion ({error!r})", endpoint=endpoint
        ) from None
    finish = str(choice.get("finish_reason") or "stop")
    if not content and not calls:
        rated = f", safety ratings {dict(safety_ratings)}" if safety_ratings else ""
        why = f"finish_reason {finish!r}{rated}"
        text = f"{endpoint} sent a reply without text ({why}); asking again would be billed again"
        raise EmptyResponseError(text, endpoint=endpoint)
    return LLMResponse(
        content=content,
        usage=usage,
        model=str(payload.get("model") or ""),
        finish_reason=finish,
        tool_calls=calls,
        reasoning=message.get("reasoning_content") or message.get("reasoning"),
        safety_ratings=safety_ratings,
        logprobs=choice.get("logprobs"),
    )


class StreamedReply:
    """Puts streamed pieces together into the payload that a whole reply would have been."""

    def __init__(self) -> None:
        self.usage = TokenUsage()
        self.has_usage = False
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._finish: str | None = None
        self._model = ""

    def add(self, chunk: Mapping[str, Any]) -> tuple[str, str]:
        """Take one piece in; returns its text and its reasoning text."""
        if chunk.get("usage"):
            self.usage, self.has_usage = read_usage(chunk["usage"]), True
        self._model = chunk.get("model") or self._model
        if not chunk.get("choices"):
            return "", ""
        choice = chunk["choices"][0]
        delta = choice.get("delta") or {}
        self._finish = choice.get("finish_reason") or self._finish
        content, reasoning = delta.get("content") or "", delta.get("reasoning_content") or ""
        self._content.append(content)
        self._reasoning.append(reasoning)
        for call in delta.get("tool_calls") or ():
            known = self._calls.setdefault(call.get("index") or 0, {"id": "", "name": "", "arguments": ""})
            function = call.get("function") or {}
            known["id"] = call.get("id") or known["id"]
            known["name"] = function.get("name") or known["name"]
            known["arguments"] += function.get("arguments") or ""
        return content, reasoning

    @property
    def complete(self) -> bool:
        """Whether the provider said why it stopped; otherwise the stream was cut."""
        return self._finish is not None

    def payload(self) -> dict[str, Any]:
        """The whole reply."""
        calls = [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for _, c in sorted(self._calls.items())
        ]
        message = {"content": "".join(self._content), "reasoning_content": "".join(self._reasoning) or None}
        return {
            "model": self._model,
            "choices": [{"message": {**message, "tool_calls": calls}, "finish_reason": self._finish}],
        }
