"""Google's ``generateContent``, with cached content by name. Knows nothing of limits, retries or money."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from hyperfunc_llm.transports.base import OutgoingRequest, Reply, ReplyChunk
from hyperfunc_llm.transports.direct import HTTPClient, load_aiohttp
from hyperfunc_llm.transports.gemini_format import gemini_body, gemini_completion, gemini_usage

__all__ = ["GEMINI_URL", "GeminiTransport"]

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta"


class GeminiTransport:
    """A :class:`~hyperfunc_llm.transports.base.Transport` for ``generateContent``."""

    def __init__(self) -> None:
        self.client = HTTPClient("x-goog-api-key", "")

    async def load(self) -> None:
        load_aiohttp()

    async def send(self, request: OutgoingRequest) -> Reply:
        base = (request.base_url or GEMINI_URL).rstrip("/")
        payload, headers = await self.client.call(
            "POST",
            f"{base}/models/{request.provider_model}:generateContent",
            gemini_body(request.messages, request.params, request.endpoint),
            key=request.key,
            headers=request.headers,
            endpoint=request.endpoint,
        )
        usage = gemini_usage(payload.get("usageMetadata") or {})
        candidate: Mapping[str, Any] = (payload.get("candidates") or [{}])[0]
        ratings = {str(r["category"]): str(r["probability"]) for r in candidate.get("safetyRatings") or ()}
        return Reply(gemini_completion(payload), headers, usage, ratings)

    async def stream(self, request: OutgoingRequest) -> AsyncGenerator[ReplyChunk, None]:
        """One piece: the whole reply."""
        reply = await self.send(request)
        message = reply.payload["choices"][0]["message"]
        choice = {"delta": message, "finish_reason": reply.payload["choices"][0]["finish_reason"]}
        usage = {"prompt_tokens": reply.usage.prompt_tokens, "completion_tokens": reply.usage.completion_tokens}
        details = {"prompt_tokens_details": {"cached_tokens": reply.usage.cached_tokens}}
        yield ReplyChunk({**reply.payload, "choices": [choice], "usage": {**usage, **details}}, reply.headers)

    async def aclose(self) -> None:
        await self.client.aclose()
