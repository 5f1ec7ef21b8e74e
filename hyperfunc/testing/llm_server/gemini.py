"""As much of ``generateContent`` and ``cachedContents`` as is needed to check caches, safety ratings, tools and
structured output. Field names are read in both spellings, as Google does. Knows nothing of HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hyperfunc.testing.llm_server.replies import count_tokens, simplest_instance, usage_of
from hyperfunc.testing.llm_server.script import Rule

__all__ = ["CachedContents", "content_text", "generate_reply", "refused"]


def _field(value: Mapping[str, Any], name: str) -> Any:
    """``value[name]``, or the same in snake case."""
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return value.get(name, value.get(snake))


def _part_text(part: Mapping[str, Any]) -> str:
    response = _field(part, "functionResponse")
    return json.dumps(response["response"]) if response else str(part.get("text", ""))


def content_text(contents: Any) -> str:
    """All text of a list of ``Content`` objects (or of one); results of functions are text here, calls are not."""
    items = contents if isinstance(contents, list) else [contents or {}]
    return "\n".join(_part_text(part) for item in items for part in item.get("parts", ()))


def refused(body: Mapping[str, Any], model: str) -> str | None:
    """Why the provider refuses these contents: every turn of function calls must be answered by as many results, and a
    model of the third generation wants its signatures back."""
    contents = body.get("contents") or []
    for turn, following in zip(contents, [*contents[1:], {}], strict=True):
        calls = [part for part in turn.get("parts", ()) if _field(part, "functionCall")]
        results = [part for part in following.get("parts", ()) if _field(part, "functionResponse")]
        if len(calls) != len(results):
            return (
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        if calls and model.startswith("gemini-3") and not _field(calls[0], "thoughtSignature"):
            return "Function call is missing a thought_signature in functionCall parts."
    return None


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class CachedContents:
    """The provider's side of context caching: named contents that expire.

    ``displayName`` is limited to 128 characters as at the provider; ``expireTime`` moves with a PATCH, ``createTime``
    does not.
    """

    def __init__(self, default_ttl_s: float) -> None:
        self._default_ttl_s = default_ttl_s
        self._entries: dict[str, dict[str, Any]] = {}
        self._created = 0
        self.counts = {"create": 0, "list": 0, "renew": 0, "delete": 0}

    def _expiry(self, body: Mapping[str, Any]) -> float:
        return time.time() + float(str(body.get("ttl", f"{self._default_ttl_s}s")).removesuffix("s"))

    def _alive(self) -> dict[str, dict[str, Any]]:
        now = time.time()
        return {name: entry for name, entry in self._entries.items() if entry["expires"] > now}

    def _public(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        shown = {key: entry[key] for key in ("name", "model", "displayName", "createTime", "usageMetadata")}
        return shown | {"expireTime": _stamp(entry["expires"]), "updateTime": _stamp(time.time())}

    def handle(self, method: str, name: str, query: Mapping[str, str], body: Mapping[str, Any]) -> tuple[int, Any]:
        """One request on ``cachedContents``; ``name`` is empty for the collection."""
        if method == "POST" and not name:
            return self._create(body)
        if method == "GET" and not name:
            return self._list(query)
        entry = self._alive().get(name)
        if entry is None:
            return 404, {"error": {"code": 404, "message": f"{name} not found", "status": "NOT_FOUND"}}
        if method == "GET":
            return 200, self._public(entry)
        if method == "PATCH":
            self.counts["renew"] += 1
            entry["expires"] = self._expiry(body)
            return 200, self._public(entry)
        if method == "DELETE":
            self.counts["delete"] += 1
            del self._entries[name]
            return 200, {}
        return 405, {"error": {"code": 405, "message": f"{method} is not supported", "status": "INVALID_ARGUMENT"}}

    def _create(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        if len(body.get("displayName", "")) > 128:
            message = "display_name must be at most 128 characters"
            return 400, {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}
        self.counts["create"] += 1
        self._created += 1
        text = content_text(body.get("contents")) + content_text(body.get("systemInstruction"))
        name = f"cachedContents/{self._created}"
        self._entries[name] = {
            "name": name,
            "model": body.get("model", ""),
            "displayName": body.get("displayName", ""),
            "createTime": _stamp(time.time()),
            "expires": self._expiry(body),
            "usageMetadata": {"totalTokenCount": count_tokens(text)},
        }
        return 200, self._public(self._entries[name])

    def _list(self, query: Mapping[str, str]) -> tuple[int, Any]:
        self.counts["list"] += 1
        size, start = int(query.get("pageSize", "50")), int(query.get("pageToken") or "0")
        entries = list(self._alive().values())
        page: dict[str, Any] = {"cachedContents": [self._public(e) for e in entries[start : start + size]]}
        if start + size < len(entries):
            page["nextPageToken"] = str(start + size)
        return 200, page

    def tokens(self, name: str) -> int | None:
        """Tokens held under ``name``; ``None`` when it does not exist (any more)."""
        entry = self._alive().get(name)
        return None if entry is None else int(entry["usageMetadata"]["totalTokenCount"])


def generate_reply(
    body: Mapping[str, Any], model: str, cached_tokens: int, rule: Rule | None
) -> tuple[dict[str, Any], dict[str, int]]:
    """A ``GenerateContentResponse`` and the usage that it reports."""
    text = content_text((body.get("contents") or [{}])[-1])
    content = rule.content if rule is not None and rule.content is not None else f"echo: {text}"
    settings = _field(body, "generationConfig") or {}
    schema = _field(settings, "responseJsonSchema") or _field(settings, "responseSchema")
    if schema and (rule is None or rule.content is None):
        content = json.dumps(simplest_instance(schema, text))
    if rule is not None and rule.fault in ("empty", "bad_content"):
        content = "" if rule.fault == "empty" else "I would rather not answer in that form."
    parts: list[dict[str, Any]] = [{"text": content}] if content else []
    calls = rule.tool_calls if rule is not None else ()
    if calls:
        content = ""
        parts = [{"functionCall": {"name": call["name"], "args": call["arguments"]}} for call in calls]
        if model.startswith("gemini-3"):
            parts[0]["thoughtSignature"] = f"c2lnbmVk{len(body.get('contents', ()))}"
    prompt = content_text(body.get("systemInstruction")) + content_text(body.get("contents"))
    usage = usage_of(prompt, content, rule)
    if rule is None or rule.usage is None:
        usage["prompt"] += cached_tokens
        usage["cached"] = cached_tokens
    candidate: dict[str, Any] = {
        "content": {"role": "model", "parts": parts},
        "finishReason": (rule.finish_reason if rule is not None else None) or "STOP",
        "index": 0,
    }
    if rule is not None and rule.safety:
        candidate["safetyRatings"] = [{"category": c, "probability": p} for c, p in rule.safety.items()]
    reply = {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": usage["prompt"],
            "candidatesTokenCount": usage["completion"],
            "cachedContentTokenCount": usage["cached"],
            "thoughtsTokenCount": usage["reasoning"],
            "totalTokenCount": usage["prompt"] + usage["completion"] + usage["reasoning"],
        },
        "modelVersion": model,
    }
    return reply, usage
