"""A loopback server and a runtime for each test; ``transport`` runs a test through litellm and directly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hyperfunc.testing.llm_server import LLMServer, Rule, Script
from hyperfunc_llm import Endpoint, LLMRequest, LLMRuntime, use_runtime


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    if request.node.get_closest_marker("live") is not None:
        return
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "HYPERFUNC_LLM_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["direct", "litellm"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer() as running:
        yield running


@pytest.fixture
def play(server: LLMServer) -> Callable[..., None]:
    """``play(Rule(...), Rule(...), latency_s=…)``: forget all counts and play this from now on."""

    def start(*rules: Rule, **script: Any) -> None:
        server.reset(Script(rules=rules, **script))

    return start


@pytest.fixture
async def make_runtime(server: LLMServer) -> AsyncIterator[Callable[..., LLMRuntime]]:
    """``make_runtime(transport="direct", rpm=…)``: a runtime whose endpoint ``m`` is the server."""
    made: list[LLMRuntime] = []

    def make(transport: str = "direct", **settings: Any) -> LLMRuntime:
        defaults = {"model": "openai/loopback", "base_url": server.base_url, "backoff_s": 0.001}
        made.append(LLMRuntime({"m": Endpoint(**{**defaults, "transport": transport, **settings})}))
        return made[-1]

    yield make
    for runtime in made:
        await runtime.aclose()


@pytest.fixture
def runtime(make_runtime: Callable[..., LLMRuntime]) -> Any:
    with use_runtime(make_runtime()) as current:
        yield current


@pytest.fixture
def ask() -> Callable[..., Any]:
    def start(runtime: LLMRuntime, text: str, **arguments: Any) -> Any:
        return runtime.complete("m", LLMRequest([{"role": "user", "content": text}]), **arguments)

    return start
