"""Tools and structured output through ``generateContent``, directly and by litellm, against a server that refuses what
Google refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from hyperfunc.errors import ConfigurationError
from hyperfunc.testing.llm_server import LLMServer, Rule
from hyperfunc_llm import (
    Endpoint,
    InvalidRequestError,
    LLMResponse,
    LLMRuntime,
    OutputValidationError,
    llm_completion,
    llm_stream,
    make_llm_agent,
    use_runtime,
)
from hyperfunc_llm.transports.gemini_format import gemini_body, gemini_completion, gemini_contents

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}


@pytest.fixture(params=["gemini", "litellm"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["gemini-2.5-flash", "gemini-3-pro-preview"])
async def gemini(request: pytest.FixtureRequest, server: LLMServer, transport: str) -> AsyncIterator[LLMRuntime]:
    key = Endpoint.connection(api_key="a-gemini-key", base_url=f"{server.url}/v1beta")
    endpoint = Endpoint(model=f"gemini/{request.param}", transport=transport, backoff_s=0.001).over(key)
    async with LLMRuntime({"g": endpoint}) as runtime:
        with use_runtime(runtime):
            yield runtime


async def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


async def test_a_tool_loop_of_two_rounds(server: LLMServer, play: Callable[..., None], gemini: LLMRuntime) -> None:
    play(
        Rule(
            contains="two sums",
            tool_calls=({"name": "add", "arguments": {"a": 1, "b": 2}}, {"name": "add", "arguments": {"a": 3, "b": 4}}),
        ),
        Rule(contains="7", tool_calls=({"name": "add", "arguments": {"a": 3, "b": 7}},)),
    )
    result = await make_llm_agent("g", [add])("two sums, and the sum of those")
    assert [(call.name, json.loads(call.arguments), text) for call, text in result.tool_calls] == [
        ("add", {"a": 1, "b": 2}, "3"),
        ("add", {"a": 3, "b": 4}, "7"),
        ("add", {"a": 3, "b": 7}, "10"),
    ]
    assert "10" in result.content
    assert result.rounds == server.counters()["statuses"]["200"] == 3


@pytest.mark.parametrize("transport", ["gemini"])
async def test_calls_of_a_reply_are_told_apart_in_a_stream(play: Callable[..., None], gemini: LLMRuntime) -> None:
    play(Rule(tool_calls=({"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": 2}})))
    chunks = [chunk async for chunk in llm_stream("g", "go", tools=[TOOL])]
    whole = chunks[-1].response
    assert whole is not None
    assert [json.loads(call.arguments) for call in whole.tool_calls] == [{"a": 1}, {"a": 2}]
    assert whole.finish_reason == "tool_calls"


class Book(BaseModel):
    title: str
    pages: int
    tags: list[str]


async def test_structured_output(server: LLMServer, play: Callable[..., None], gemini: LLMRuntime) -> None:
    response = await llm_completion("g", "a book", response_model=Book)
    assert isinstance(response, LLMResponse)
    assert response.parsed == Book(title="a book", pages=1, tags=["a book"])
    play(Rule(fault="bad_content", times=1))
    response = await llm_completion("g", "a book", response_model=Book)
    assert isinstance(response, LLMResponse)
    assert isinstance(response.parsed, Book)  # after the complaint was sent back
    assert server.counters()["requests"] == 2
    play(Rule(fault="bad_content"))
    with pytest.raises(OutputValidationError):
        await llm_completion("g", "a book", response_model=Book, retries=1)
    assert server.counters()["requests"] == 2


@pytest.mark.parametrize("transport", ["gemini"])
async def test_the_server_refuses_what_google_refuses(server: LLMServer, gemini: LLMRuntime) -> None:
    """So that the tests above prove something: an unanswered call, and an unsigned one to a model that signs."""
    call: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    called: list[dict[str, Any]] = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    answered = [*called, {"role": "tool", "tool_call_id": "c1", "content": "3"}]
    with pytest.raises(InvalidRequestError, match="number of function response parts"):
        await llm_completion("g", [*called, {"role": "user", "content": "well?"}])
    if "gemini-3" in str(gemini.endpoint("g").model):
        with pytest.raises(InvalidRequestError, match="thought_signature"):
            await llm_completion("g", answered)
    else:
        await llm_completion("g", answered)


def test_a_request_in_googles_words() -> None:
    params = {
        "tools": [TOOL, {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "temperature": 0.5,
    }
    body = gemini_body([{"role": "user", "content": "go"}], params, "g")
    assert body == {
        "contents": [{"role": "user", "parts": [{"text": "go"}]}],
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "add", "description": "Adds.", "parametersJsonSchema": TOOL["function"]["parameters"]},  # type: ignore[index]
                    {"name": "now", "description": "now"},
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["add"]}},
        "generationConfig": {
            "temperature": 0.5,
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
        },
    }


@pytest.mark.parametrize(("choice", "mode"), [("auto", "AUTO"), ("required", "ANY"), ("none", "NONE")])
def test_tool_choice(choice: str, mode: str) -> None:
    assert gemini_body([], {"tool_choice": choice}, "g")["toolConfig"] == {"functionCallingConfig": {"mode": mode}}


def test_a_conversation_there_and_back() -> None:
    parts: list[dict[str, Any]] = [
        {"text": "hm", "thought": True},
        {"functionCall": {"name": "add", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
        {"functionCall": {"name": "add", "args": {"a": 2}}},
    ]
    reply = gemini_completion({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})
    message = reply["choices"][0]["message"]
    assert reply["choices"][0]["finish_reason"] == "tool_calls"
    assert message["reasoning_content"] == "hm"
    first, second = (call["id"] for call in message["tool_calls"])
    history = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": message["tool_calls"]},
        {"role": "tool", "tool_call_id": first, "content": '{"sum": 3}'},
        {"role": "tool", "tool_call_id": second, "content": "seven"},
    ]
    contents = gemini_contents(history)["contents"]
    assert contents[1] == {"role": "model", "parts": parts[1:]}
    assert contents[2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "add", "response": {"sum": 3}}},
            {"functionResponse": {"name": "add", "response": {"result": "seven"}}},
        ],
    }


@pytest.mark.parametrize(
    ("messages", "params", "said"),
    [
        ([{"role": "tool", "tool_call_id": "nobody", "content": "3"}], {}, "nobody"),
        ([], {"tool_choice": "sometimes"}, "sometimes"),
        ([], {"parallel_tool_calls": False}, "parallel_tool_calls"),
    ],
)
def test_what_has_no_equivalent_is_refused(messages: list[Any], params: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        gemini_body(messages, params, "g")
