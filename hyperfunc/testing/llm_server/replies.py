"""Replies in the OpenAI chat format, made from the request alone. Knows nothing of HTTP or of faults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hyperfunc.testing.llm_server.script import Rule

__all__ = ["chat_chunks", "chat_reply", "count_tokens", "last_message", "simplest_instance", "usage_of"]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return ""


def last_message(body: Mapping[str, Any]) -> tuple[str, str]:
    """Role and text of the last message."""
    messages = body.get("messages") or [{}]
    return str(messages[-1].get("role", "")), _text(messages[-1].get("content"))


def count_tokens(text: str) -> int:
    """One token per started four characters; enough for counts that must agree, no real tokenizer."""
    return (len(text) + 3) // 4


def usage_of(prompt: str, completion: str, rule: Rule | None) -> dict[str, int]:
    """``prompt``, ``completion``, ``cached`` and ``reasoning`` tokens of a reply."""
    usage = {"prompt": count_tokens(prompt), "completion": count_tokens(completion), "cached": 0, "reasoning": 0}
    if rule is not None and rule.usage is not None:
        usage.update(rule.usage)
    return usage


def simplest_instance(schema: Mapping[str, Any], text: str) -> Any:
    """The simplest value that fits a JSON schema (its types in either case); strings in it are ``text``."""
    return _instance(schema, text, schema)


def _instance(schema: Mapping[str, Any], text: str, root: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return _instance(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], text, root)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _instance(schema["anyOf"][0], text, root)
    kind = str(schema.get("type")).lower()
    if kind == "object":
        return {name: _instance(part, text, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_instance(schema.get("items", {}), text, root)]
    return {"integer": 1, "number": 1.0, "boolean": True, "null": None}.get(kind, text)


def _content(body: Mapping[str, Any], text: str, rule: Rule | None) -> str:
    if rule is not None and rule.fault == "empty":
        return ""
    if rule is not None and rule.fault == "bad_content":
        return "I would rather not answer in that form."
    if rule is not None and rule.content is not None:
        return rule.content
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        schema = form["json_schema"]["schema"]
        return json.dumps(simplest_instance(schema, text))
    if form.get("type") == "json_object":
        return json.dumps({"echo": text})
    return f"echo: {text}"


def chat_reply(body: Mapping[str, Any], number: int, rule: Rule | None) -> tuple[dict[str, Any], dict[str, int]]:
    """A whole ``chat.completion`` object and the usage that it reports."""
    _, text = last_message(body)
    content = _content(body, text, rule)
    prompt = "\n".join(_text(message.get("content")) for message in body.get("messages", ()))
    calls = rule.tool_calls if rule is not None else ()
    message: dict[str, Any] = {"role": "assistant", "content": None if calls else content}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{number}_{i}",
                "type": "function",
                "function": {
                    "name": c["name"],
                    "arguments": c["arguments"] if isinstance(c["arguments"], str) else json.dumps(c["arguments"]),
                },
            }
            for i, c in enumerate(calls)
        ]
    if rule is not None and rule.reasoning is not None:
        message["reasoning_content"] = rule.reasoning
    usage = usage_of(prompt, content, rule)
    finish = (rule.finish_reason if rule is not None else None) or ("tool_calls" if calls else "stop")
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    if body.get("logprobs") or (rule is not None and rule.logprobs):
        choice["logprobs"] = {
            "content": [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in content.split()]
        }
    reply = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body.get("model", ""),
        "choices": [choice],
        "usage": openai_usage(usage),
    }
    return reply, usage


def openai_usage(usage: Mapping[str, int]) -> dict[str, Any]:
    """Usage in the form that OpenAI reports."""
    return {
        "prompt_tokens": usage["prompt"],
        "completion_tokens": usage["completion"],
        "total_tokens": usage["prompt"] + usage["completion"],
        "prompt_tokens_details": {"cached_tokens": usage["cached"]},
        "completion_tokens_details": {"reasoning_tokens": usage["reasoning"]},
    }


def chat_chunks(reply: Mapping[str, Any], *, include_usage: bool) -> Iterator[dict[str, Any]]:
    """The same reply as ``chat.completion.chunk`` objects, one per word."""
    base = {key: reply[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    message = reply["choices"][0]["message"]

    def chunk(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        return base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    if "reasoning_content" in message:
        yield chunk({"reasoning_content": message["reasoning_content"]})
    words = (message["content"] or "").split(" ")
    for i, word in enumerate(words):
        if message["content"]:
            yield chunk({"content": word if i == 0 else f" {word}"})
    for i, call in enumerate(message.get("tool_calls", ())):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        opening = {"index": i, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [opening]})
        for start in range(0, len(arguments), 8):
            yield chunk({"tool_calls": [{"index": i, "function": {"arguments": arguments[start : start + 8]}}]})
    yield chunk({}, reply["choices"][0]["finish_reason"])
    if include_usage:
        yield base | {"choices": [], "usage": reply["usage"]}
