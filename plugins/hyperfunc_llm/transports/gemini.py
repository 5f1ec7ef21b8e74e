"""Google's ``generateContent``, with cached content by name. Text, system text and images; no tools (use litellm).

Knows nothing of limits, retries or money.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from hyperfunc.errors import ConfigurationError
from hyperfunc_llm.transports.base import OutgoingRequest, Reply, ReplyChunk
from hyperfunc_llm.transports.direct import HTTPClient, load_aiohttp
from hyperfunc_llm.types import Message, TokenUsage

__all__ = ["GEMINI_URL", "GeminiTransport", "gemini_contents"]

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta"

_SETTINGS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "max_tokens": "maxOutputTokens",
    "stop": "stopSequences",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}]
    parts: list[dict[str, Any]] = []
    for part in content or ():
        if part.get("type") == "image_url":
            url = part["image_url"]["url"]
            if not url.startswith("data:"):
                raise ConfigurationError("generateContent takes images as data, not as URLs; see image_part()")
            kind, _, data = url.removeprefix("data:").partition(";base64,")
            parts.append({"inlineData": {"mimeType": kind, "data": data}})
        else:
            parts.append({"text": part.get("text", "")})
    return parts


def gemini_contents(messages: Sequence[Message]) -> dict[str, Any]:
    """``contents`` and ``systemInstruction`` for messages in the OpenAI form."""
    system = [part for m in messages if m.get("role") in ("system", "developer") for part in _parts(m.get("content"))]
    contents = [
        {"role": "model" if m.get("role") == "assistant" else "user", "parts": _parts(m.get("content"))}
        for m in messages
        if m.get("role") not in ("system", "developer")
    ]
    return {"contents": contents, **({"systemInstruction": {"parts": system}} if system else {})}


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
            _body(request),
            key=request.key,
            headers=request.headers,
            endpoint=request.endpoint,
        )
        usage = _usage(payload.get("usageMetadata") or {})
        candidate: Mapping[str, Any] = (payload.get("candidates") or [{}])[0]
        ratings = {str(r["category"]): str(r["probability"]) for r in candidate.get("safetyRatings") or ()}
        return Reply(_as_completion(payload, candidate), headers, usage, ratings)

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


def _usage(metadata: Mapping[str, Any]) -> TokenUsage:
    prompt = metadata.get("promptTokenCount") or 0
    reasoning = metadata.get("thoughtsTokenCount") or 0
    completion = (metadata.get("candidatesTokenCount") or 0) + reasoning
    cached = metadata.get("cachedContentTokenCount") or 0
    return TokenUsage(prompt, completion, prompt + completion, cached, reasoning)


def _as_completion(payload: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, Any]:
    parts = (candidate.get("content") or {}).get("parts") or ()
    text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
    thought = "".join(part.get("text", "") for part in parts if part.get("thought"))
    finish = str(candidate.get("finishReason") or "STOP")
    finish = {"STOP": "stop", "MAX_TOKENS": "length"}.get(finish, finish)
    message = {"role": "assistant", "content": text, "reasoning_content": thought or None}
    return {"model": payload.get("modelVersion"), "choices": [{"message": message, "finish_reason": finish}]}


def _body(request: OutgoingRequest) -> dict[str, Any]:
    params = dict(request.params)
    body = gemini_contents(request.messages)
    if cached := params.pop("cached_content", None):
        body["cachedContent"] = cached
    form = params.pop("response_format", None) or {}
    settings = {_SETTINGS[name]: params.pop(name) for name in list(params) if name in _SETTINGS}
    if form.get("type") in ("json_object", "json_schema"):
        settings["responseMimeType"] = "application/json"
        if form["type"] == "json_schema":
            settings["responseJsonSchema"] = form["json_schema"]["schema"]
    body |= params.pop("extra_body", None) or {}
    if params:
        unknown = ", ".join(sorted(params))
        raise ConfigurationError(f"{request.endpoint}: the gemini transport does not know {unknown}; use litellm")
    return {**body, **({"generationConfig": settings} if settings else {})}
