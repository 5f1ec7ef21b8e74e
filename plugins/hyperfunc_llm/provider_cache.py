"""Caches at the provider: Gemini's cached contents by exact content, and markers for providers that cache prefixes.

A cached content is found by a tag made of its own hash and the user's tags, so that another prompt, or no tags, never
adopts it. Its age is told by the provider's expiry, not by when it was made. Knows nothing of retries or money.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hyperfunc_llm.attempts import AttemptMaker
from hyperfunc_llm.errors import InvalidRequestError
from hyperfunc_llm.runtime import LLMRuntime, current_runtime
from hyperfunc_llm.transports.direct import HTTPClient
from hyperfunc_llm.transports.gemini import GEMINI_URL
from hyperfunc_llm.transports.gemini_format import gemini_contents
from hyperfunc_llm.types import LLMRequest, LLMResponse, Message, as_messages

__all__ = ["GeminiCache", "mark_cached"]

_LONGEST_NAME = 128


def mark_cached(message: Message) -> dict[str, Any]:
    """``message`` with Anthropic's marker: everything up to here is a prefix worth caching. Others ignore or refuse
    it; OpenAI caches prefixes unasked."""
    content = message["content"]
    parts: list[dict[str, Any]] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else [dict(part) for part in content]
    )
    parts[-1]["cache_control"] = {"type": "ephemeral"}
    return {**message, "content": parts}


class GeminiCache:
    """Messages kept by the provider, to be put before others at a tenth of the price.

    Belongs to one event loop. The provider's cache outlives this object: :meth:`delete` removes it.

    Args:
        alias: an endpoint whose model is a Gemini model.
        messages: what to keep.
        tags: the user's own marks; a cache with other tags is another cache.
        ttl_s: how long the provider keeps it, from creation or renewal.
        renew_before_s: renew when less than this is left.
        runtime: default: the current one.
    """

    def __init__(
        self,
        alias: str,
        messages: str | Sequence[Message],
        *,
        tags: Mapping[str, str] | None = None,
        ttl_s: float = 3600.0,
        renew_before_s: float = 300.0,
        runtime: LLMRuntime | None = None,
    ) -> None:
        self._alias = alias
        self._contents = gemini_contents(as_messages(messages))
        self._display_name = _display_name(self._contents, tags or {})
        self._ttl_s, self._renew_before_s = ttl_s, renew_before_s
        self._runtime = runtime if runtime is not None else current_runtime()
        self._lock = asyncio.Lock()
        self._name: str | None = None
        self._expires = 0.0

    @property
    def display_name(self) -> str:
        """The tag under which the provider lists it."""
        return self._display_name

    async def name(self) -> str:
        """The provider's name for it: found, renewed or created as needed, once however many ask.

        Raises:
            LLMError: the provider refuses.
        """
        if not self._fresh():
            async with self._lock:
                if not self._fresh():
                    await self._refresh()
        assert self._name is not None
        return self._name

    async def complete(self, messages: str | Sequence[Message], **params: Any) -> LLMResponse:
        """Ask the endpoint's model with the cached content before ``messages``. If the provider has dropped it
        meanwhile, it is made again, once."""
        try:
            return await self._ask(messages, params)
        except InvalidRequestError as error:
            if "CachedContent" not in str(error):
                raise
        self._name = None
        return await self._ask(messages, params)

    async def _ask(self, messages: str | Sequence[Message], params: Mapping[str, Any]) -> LLMResponse:
        request = LLMRequest(as_messages(messages), {**params, "cached_content": await self.name()})
        return await self._runtime.complete(self._alias, request)

    async def delete(self) -> None:
        """Remove it at the provider, if it is there."""
        async with self._lock:
            entry = await self._find()
            self._name = None
            if entry is not None:
                await self._call("DELETE", f"/{entry['name']}")

    def _fresh(self) -> bool:
        return self._name is not None and self._expires - _now() > self._renew_before_s

    async def _refresh(self) -> None:
        entry = await self._find()
        if entry is None:
            body = {"model": f"models/{self._model}", "displayName": self._display_name, "ttl": f"{self._ttl_s:g}s"}
            entry = await self._call("POST", "/cachedContents", {**body, **self._contents})
        elif _moment(entry["expireTime"]) - _now() <= self._renew_before_s:
            entry = await self._call("PATCH", f"/{entry['name']}?updateMask=ttl", {"ttl": f"{self._ttl_s:g}s"})
        self._name, self._expires = entry["name"], _moment(entry["expireTime"])

    async def _find(self) -> dict[str, Any] | None:
        """The provider's entry with this model and exactly this tag, of several the one that lives longest."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = await self._call("GET", f"/cachedContents?pageSize=100{f'&pageToken={token}' if token else ''}")
            for entry in page.get("cachedContents") or ():
                same_model = entry.get("model", "").rpartition("/")[2] == self._model
                if same_model and entry.get("displayName") == self._display_name:
                    found.append(entry)
            token = page.get("nextPageToken") or ""
            if not token:
                return max(found, key=lambda entry: _moment(entry["expireTime"]), default=None)

    @property
    def _model(self) -> str:
        model = self._runtime.endpoint(self._alias).model or ""
        return model.rpartition("/")[2]

    async def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        endpoint = self._runtime.endpoint(self._alias)
        client: HTTPClient = await self._runtime.state.gemini_client()
        url = (endpoint.base_url or GEMINI_URL).rstrip("/") + path
        payload, _ = await client.call(method, url, body, key=AttemptMaker.key_of(endpoint), endpoint=self._alias)
        return payload


def _display_name(contents: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """``hyperfunc:<content hash>`` and the tags, readable where they fit into the provider's 128 characters."""
    text = json.dumps(contents, sort_keys=True, ensure_ascii=False)
    name = "hyperfunc:" + hashlib.sha256(text.encode()).hexdigest()[:32]
    if not tags:
        return name
    written = json.dumps(dict(tags), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    if len(name) + 1 + len(written) > _LONGEST_NAME:
        written = hashlib.sha256(written.encode()).hexdigest()[:32]
    return f"{name}:{written}"


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _now() -> float:
    return datetime.now(UTC).timestamp()
