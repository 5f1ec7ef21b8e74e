"""The loopback server itself: over plain HTTP, in this process and in one of its own."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from hyperfunc.errors import ConfigurationError
from hyperfunc.testing.llm_server import FAULTS, Rule, Script, ServerProcess


@pytest.fixture(scope="module")
def process() -> Any:
    with ServerProcess() as running:
        yield running


def post(server: ServerProcess, text: str, **body: Any) -> Any:
    data = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **body}).encode()
    with urlopen(Request(f"{server.base_url}/chat/completions", data), timeout=10) as reply:
        return json.load(reply)


def test_echoes_and_counts(process: ServerProcess) -> None:
    process.play(Script())
    reply = post(process, "twelve chars")
    assert reply["choices"][0]["message"]["content"] == "echo: twelve chars"
    assert reply["usage"]["prompt_tokens"] == 3
    counters = process.counters()
    assert (counters["requests"], counters["answered"], counters["tokens"]["prompt"]) == (1, 1, 3)
    assert process.prompts() == {"twelve chars": 1}
    assert json.loads(process.bodies()[0])["model"] == "m"


def test_json_modes(process: ServerProcess) -> None:
    process.play(Script())
    reply = post(process, "x", response_format={"type": "json_object"})
    assert json.loads(reply["choices"][0]["message"]["content"]) == {"echo": "x"}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "kind": {"enum": ["a", "b"]}}}
    reply = post(process, "x", response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert json.loads(reply["choices"][0]["message"]["content"]) == {"n": 1, "kind": "a"}


def test_rules_count_and_choose_by_hash(process: ServerProcess) -> None:
    process.play(Script(rules=(Rule(contains="odd", every=2, fault="status", status=503),)))
    outcomes = []
    for _ in range(4):
        try:
            post(process, "odd")
            outcomes.append(200)
        except HTTPError as error:
            error.close()
            outcomes.append(error.code)
    assert outcomes == [200, 503, 200, 503]

    def failing() -> set[int]:
        process.play(Script(rules=(Rule(fraction=0.3, content="hit"),)))
        replies = [post(process, f"q{i}")["choices"][0]["message"]["content"] for i in range(60)]
        return {i for i, content in enumerate(replies) if content == "hit"}

    first = failing()
    assert first == failing()
    assert 8 <= len(first) <= 30


def test_limits_by_window(process: ServerProcess) -> None:
    process.play(Script(limit=3, limit_window_s=30.0, limit_headers=True))
    for _ in range(3):
        post(process, "x")
    with pytest.raises(HTTPError) as caught:
        post(process, "x")
    assert 0 < float(caught.value.headers["Retry-After"]) <= 30
    caught.value.close()
    assert len(process.arrivals()["rejections"]) == 1


def test_wrong_keys_and_bodies(process: ServerProcess) -> None:
    process.play(Script(api_key="right"))
    with pytest.raises(HTTPError, match="401") as caught:
        post(process, "x")
    caught.value.close()
    with pytest.raises(HTTPError, match="400") as caught:
        urlopen(Request(f"{process.base_url}/chat/completions", b"{no json"), timeout=10)
    caught.value.close()


def test_scripts_survive_json_and_refuse_nonsense() -> None:
    script = Script(rules=(Rule(contains="a", tool_calls=({"name": "t", "arguments": {}},)),), latency_s=0.5)
    assert Script.from_dict(json.loads(json.dumps(script.to_dict()))) == script
    with pytest.raises(ConfigurationError, match="'speed'"):
        Script.from_dict({"speed": 1})
    with pytest.raises(ConfigurationError, match="'contians'"):
        Script.from_dict({"rules": [{"contians": "x"}]})
    with pytest.raises(ConfigurationError, match=FAULTS[0]):
        Rule(fault="explode")
