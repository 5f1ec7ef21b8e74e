"""Between the OpenAI form, in which requests and replies are kept here, and that of Google's ``generateContent``.

Text, system text, images, tools and their results, structured output. Knows nothing of HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hyperfunc.errors import ConfigurationError
from hyperfunc_llm.types import Message, TokenUsage

__all__ = ["gemini_body", "gemini_completion", "gemini_contents", "gemini_usage"]

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

# Gemini signs the thought behind a function call and refuses a conversation that brings the call back unsigned. The
# call's id is all that survives every way of keeping a conversation, so the signature travels in it.
_SIGNED = "__thought__"


def gemini_contents(messages: Sequence[Message]) -> dict[str, Any]:
    """``contents`` and ``systemInstruction`` for messages in the OpenAI form.

    Raises:
        ConfigurationError: an image that is no data, or the result of a tool that nobody called.
    """
    system: list[dict[str, Any]] = []
    contents: list[dict[str, Any]] = []
    called: dict[str, str] = {}  # id -> name of the tools called so far
    after_tool = False
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer"):
            system += _parts(message.get("content"))
        elif role == "tool":
            result = {"functionResponse": _response(message, called)}
            if after_tool:  # all results of one round belong into one content
                contents[-1]["parts"].append(result)
            else:
                contents.append({"role": "user", "parts": [result]})
        else:
            calls = message.get("tool_calls") or ()
            called |= {call["id"]: call["function"]["name"] for call in calls}
            parts = [*_parts(message.get("content")), *map(_call, calls)]
            contents.append({"role": "model" if role == "assistant" else "user", "parts": parts})
        after_tool = role == "tool"
    return {"contents": contents, **({"systemInstruction": {"parts": system}} if system else {})}


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


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    _, _, signature = str(call["id"]).partition(_SIGNED)
    function = call["function"]
    part = {"functionCall": {"name": function["name"], "args": json.loads(function.get("arguments") or "{}")}}
    return part | ({"thoughtSignature": signature} if signature else {})


def _response(message: Message, called: Mapping[str, str]) -> dict[str, Any]:
    name = called.get(str(message.get("tool_call_id")))
    if name is None:
        raise ConfigurationError(
            f"a message holds the result of tool call {message.get('tool_call_id')!r}, but no message before it made "
            "that call"
        )
    text = "".join(part.get("text", "") for part in _parts(message.get("content")))
    try:
        result = json.loads(text)
    except ValueError:
        result = text
    return {"name": name, "response": result if isinstance(result, dict) else {"result": result}}


def gemini_body(messages: Sequence[Message], params: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    """The body of a ``generateContent`` request.

    Raises:
        ConfigurationError: a parameter that has no equivalent.
    """
    rest = dict(params)
    body = gemini_contents(messages)
    if cached := rest.pop("cached_content", None):
        body["cachedContent"] = cached
    settings = {_SETTINGS[name]: rest.pop(name) for name in list(rest) if name in _SETTINGS}
    form = rest.pop("response_format", None) or {}
    if form.get("type") in ("json_object", "json_schema"):
        settings["responseMimeType"] = "application/json"
        if form["type"] == "json_schema":
            settings["responseJsonSchema"] = form["json_schema"]["schema"]
    if tools := rest.pop("tools", None):
        body["tools"] = [{"functionDeclarations": [_declaration(tool["function"]) for tool in tools]}]
    if choice := rest.pop("tool_choice", None):
        body["toolConfig"] = {"functionCallingConfig": _calling(choice, endpoint)}
    body |= rest.pop("extra_body", None) or {}
    if rest:
        unknown = ", ".join(sorted(rest))
        raise ConfigurationError(f"{endpoint}: the gemini transport does not know {unknown}; use litellm")
    return {**body, **({"generationConfig": settings} if settings else {})}


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    declaration = {"name": function["name"], "description": function.get("description") or function["name"]}
    if (function.get("parameters") or {}).get("properties"):  # a function without parameters may declare none
        declaration["parametersJsonSchema"] = function["parameters"]
    return declaration


def _calling(choice: Any, endpoint: str) -> dict[str, Any]:
    modes = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
    if isinstance(choice, str) and choice in modes:
        return {"mode": modes[choice]}
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return {"mode": "ANY", "allowedFunctionNames": [choice["function"]["name"]]}
    raise ConfigurationError(
        f"{endpoint}: tool_choice: expected one of {', '.join(modes)} or a function in OpenAI's form, got {choice!r}"
    )


def gemini_usage(metadata: Mapping[str, Any]) -> TokenUsage:
    """Usage from ``usageMetadata``; thoughts are part of the output."""
    prompt = metadata.get("promptTokenCount") or 0
    reasoning = metadata.get("thoughtsTokenCount") or 0
    completion = (metadata.get("candidatesTokenCount") or 0) + reasoning
    cached = metadata.get("cachedContentTokenCount") or 0
    return TokenUsage(prompt, completion, prompt + completion, cached, reasoning)


def gemini_completion(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A ``GenerateContentResponse`` as a ``chat.completion``."""
    candidate: Mapping[str, Any] = (payload.get("candidates") or [{}])[0]
    parts = (candidate.get("content") or {}).get("parts") or ()
    text = "".join(part.get("text", "") for part in parts if not part.get("thought"))
    thought = "".join(part.get("text", "") for part in parts if part.get("thought"))
    calls = [_called(i, part) for i, part in enumerate(part for part in parts if "functionCall" in part)]
    finish = str(candidate.get("finishReason") or "STOP")
    finish = "tool_calls" if calls else {"STOP": "stop", "MAX_TOKENS": "length"}.get(finish, finish)
    message = {"role": "assistant", "content": text, "reasoning_content": thought or None, "tool_calls": calls}
    return {"model": payload.get("modelVersion"), "choices": [{"message": message, "finish_reason": finish}]}


def _called(index: int, part: Mapping[str, Any]) -> dict[str, Any]:
    call = part["functionCall"]
    name = str(call.get("id") or f"call_{index}")
    if signature := part.get("thoughtSignature"):
        name += _SIGNED + signature
    function = {"name": call["name"], "arguments": json.dumps(call.get("args") or {}, ensure_ascii=False)}
    return {"index": index, "id": name, "type": "function", "function": function}
