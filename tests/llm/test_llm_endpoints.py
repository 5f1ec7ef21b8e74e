"""Aliases and what they mean: every level and every field, told by behaviour (acceptance check 22)."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperfunc.errors import ConfigurationError
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.testing.llm_server import LLMServer, Rule
from hyperfunc_llm import Endpoint, Endpoints, LLMRequest, LLMRuntime, UnknownAliasError
from hyperfunc_llm.secrets import SecretKey, find_key, redact

LEVELS = ["file", "environment", "context", "bound", "call"]


def request(text: str = "hi", **params: Any) -> LLMRequest:
    return LLMRequest([{"role": "user", "content": text}], params)


class World:
    """Says one field at one level, and everything else in the file."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: LLMServer) -> None:
        self.file = tmp_path / "hyperfunc.toml"
        self.monkeypatch = monkeypatch
        self.lines = {
            "model": '"openai/from-file"',
            "base_url": f'"{server.base_url}"',
            "transport": '"direct"',
            "backoff_s": "0.001",
        }
        self.levels: dict[str, Endpoint] = {}
        self.context: Endpoints | None = None

    def say(self, level: str, field: str, value: Any) -> None:
        text = '"' + value + '"' if isinstance(value, str) else repr(value).replace("'", '"').replace(": ", " = ")
        match level:
            case "file":
                self.lines[field] = text
            case "environment":
                shown = str(value) if not isinstance(value, dict) else repr(value).replace("'", '"')
                self.monkeypatch.setenv(f"HYPERFUNC_LLM_M_{field.upper()}", shown)
            case _:
                self.levels[level] = Endpoint(**{field: value}).over(self.levels.get(level, Endpoint()))

    async def ask(self, count: int = 1, text: str = "hi") -> list[Any]:
        body = "\n".join(f"{k} = {v}" for k, v in self.lines.items())
        self.file.write_text(f"[llm.endpoints.m]\n{body}\n")
        with Endpoints({"m": self.levels["context"]} if "context" in self.levels else {}):
            async with LLMRuntime() as runtime:
                calls = (
                    runtime.complete(
                        "m", request(f"{text} {i}"), call=self.levels.get("call"), bound=self.levels.get("bound")
                    )
                    for i in range(count)
                )
                return await asyncio.gather(*calls, return_exceptions=True)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: LLMServer) -> World:
    return World(tmp_path, monkeypatch, server)


@pytest.mark.parametrize("top", range(len(LEVELS)))
async def test_precedence(server: LLMServer, world: World, top: int) -> None:
    for level in LEVELS[: top + 1]:
        world.say(level, "model", f"openai/from-{level}")
    (response,) = await world.ask()
    assert response.model == f"from-{LEVELS[top]}"


@pytest.mark.parametrize("level", LEVELS)
class TestEveryField:
    """Each field, said at each level, does something that the default does not."""

    async def test_concurrency(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(latency_s=0.01)
        world.say(level, "concurrency", 2)
        await world.ask(6)
        assert server.counters()["peak_in_flight"] == 2

    async def test_start_window(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(latency_s=0.02)
        world.say(level, "start_window", 1)
        await world.ask(3)
        first, second, *_ = server.arrivals()["arrivals"]
        assert second - first >= 0.015

    async def test_rates(self, server: LLMServer, world: World, level: str) -> None:
        world.say(level, "rpm", 600)
        start = time.perf_counter()
        await world.ask(12)
        assert time.perf_counter() - start > 0.15

    async def test_token_rates(self, server: LLMServer, world: World, level: str) -> None:
        world.say(level, "tpm", 6000)
        start = time.perf_counter()
        await world.ask(2, "x" * 240)  # 65 tokens each, 100 at once, then 100 a second
        assert time.perf_counter() - start > 0.2

    async def test_attempt_timeout(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(latency_s=0.5)
        world.say(level, "attempt_timeout_s", 0.02)
        world.say("file", "transport_retries", 0)
        (error,) = await world.ask()
        assert isinstance(error, TimeoutError)

    async def test_timeout(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(latency_s=0.5)
        world.say(level, "timeout_s", 0.02)
        (error,) = await world.ask()
        assert type(error).__name__ == "DeadlineError"

    async def test_transport_retries(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(Rule(fault="status", status=500))
        world.say(level, "transport_retries", 4)
        await world.ask()
        assert server.counters()["requests"] == 5

    async def test_rate_limit_retries(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(Rule(fault="status", status=429, retry_after="0"))
        world.say(level, "rate_limit_retries", 3)
        await world.ask()
        assert server.counters()["requests"] == 4

    async def test_max_prompts(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(Rule(fault="status", status=500))
        world.say(level, "max_prompts", 2)
        (error,) = await world.ask()
        assert server.counters()["requests"] == 2
        assert type(error).__name__ == "PromptLimitError"

    async def test_backoff(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(Rule(fault="status", status=500, times=1))
        world.say(level, "backoff_s", 0.1)
        await world.ask()
        first, second = server.arrivals()["arrivals"]
        assert second - first >= 0.05

    async def test_fail_fast(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(Rule(fault="status", status=401))
        world.say(level, "fail_fast_s", 0)
        world.say("file", "concurrency", 1)
        await world.ask(3)
        assert server.counters()["requests"] == 3

    async def test_prices(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(Rule(usage={"prompt": 1000, "completion": 100, "cached": 500}))
        for field, value in (("input_usd", 4.0), ("output_usd", 10.0), ("cached_input_usd", 1.0)):
            world.say(level, field, value)
        (response,) = await world.ask()
        assert response.cost == pytest.approx((500 * 4 + 500 * 1 + 100 * 10) / 1e6)

    async def test_key_variable(self, server: LLMServer, world: World, play: Any, level: str) -> None:
        play(api_key="from-variable")
        world.monkeypatch.setenv("TEAM_KEY", "from-variable")
        world.say(level, "api_key_env", "TEAM_KEY")
        (response,) = await world.ask()
        assert response.content == "echo: hi 0"

    async def test_params_and_headers(self, server: LLMServer, world: World, level: str) -> None:
        world.say(level, "params", {"top_k": 7})
        await world.ask()
        assert '"top_k": 7' in server.bodies()[-1]

    async def test_transport(self, server: LLMServer, world: World, level: str) -> None:
        world.say(level, "transport", "gemini")
        (error,) = await world.ask()
        assert isinstance(error, Exception)
        assert "/v1/models/from-file:generateContent" in server.counters()["paths"]


async def test_content_retries_and_output_limit(server: LLMServer, play: Any, make_runtime: Any, ask: Any) -> None:
    runtime = make_runtime(content_retries=4)

    def reject(response: Any) -> Any:
        raise ValueError

    with pytest.raises(ValueError):
        await runtime.complete("m", request(), judge=reject)
    assert server.counters()["requests"] == 3  # an error that nobody knows is repeated as a transport failure


async def test_extra_headers_arrive(server: LLMServer, play: Any, make_runtime: Any, ask: Any, transport: str) -> None:
    runtime = make_runtime(transport, headers={"x-goog-api-key": "mine"})
    play(api_key="mine")
    assert (await ask(runtime, "hi")).content == "echo: hi"


async def test_a_missing_alias_fails_before_anything_is_sent(server: LLMServer, make_runtime: Any) -> None:
    runtime = make_runtime()
    with pytest.raises(UnknownAliasError, match="did you mean 'm'") as caught:
        await runtime.complete("mm", request())
    assert "HYPERFUNC_LLM_MM_MODEL" in str(caught.value)
    with pytest.raises(UnknownAliasError):
        runtime.check("m", "smart")
    runtime.check("m", "openai/gpt-4o-mini", "gpt-4o-mini")
    assert server.counters()["requests"] == 0


def test_errors_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="unknown field 'modle'"):
        Endpoints({"m": {"modle": "x"}})
    with pytest.raises(ConfigurationError, match="does not exist"):
        Endpoints.load(tmp_path / "none.toml", {})
    file = tmp_path / "llm.toml"
    file.write_text("[llm.endpoints.m]\napi_key = 'sk-secret'\n")
    with pytest.raises(ConfigurationError, match="api_key_env") as caught:
        Endpoints.load(file, {})
    assert "sk-secret" not in str(caught.value)
    file.write_text("[llm.endpoints.m\n")
    with pytest.raises(ConfigurationError, match=r"llm\.toml"):
        Endpoints.load(file, {})
    with pytest.raises(ConfigurationError, match="HYPERFUNC_LLM_M_SPEED"):
        Endpoints.load(None, {"HYPERFUNC_LLM_M_SPEED": "9"})
    with pytest.raises(ConfigurationError, match="concurrency='many'"):
        Endpoints.load(None, {"HYPERFUNC_LLM_M_CONCURRENCY": "many"})


@pytest.mark.parametrize(
    ("field", "value"),
    [("concurrency", 0), ("rpm", -1.0), ("attempt_timeout_s", 0), ("content_retries", -1), ("max_prompts", 1.5)],
)
def test_values_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field):
        Endpoint(**{field: value})


def test_the_file_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.toml"
    file.write_text('[llm.endpoints.my-fast]\nmodel = "openai/a"\nrpm = 5\n')
    loaded = Endpoints.load(None, {"HYPERFUNC_LLM_CONFIG": str(file), "HYPERFUNC_LLM_MY_FAST_RPM": "6"})
    assert (loaded["my-fast"].model, loaded["my-fast"].rpm) == ("openai/a", 6.0)


def test_keys_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    key = SecretKey("sk-abcdef123456")
    assert "abcdef" not in f"{key} {key!r} {[key]} {Endpoint(api_key=key)}"
    with pytest.raises(ConfigurationError):
        pickle.dumps(key)
    assert redact("bad key sk-abcdef123456 and plainkey", (SecretKey("plainkey"),)) == "bad key *** and ***"
    assert redact("Incorrect API key provided: sk-ab**********wxyz.") == "Incorrect API key provided: ***"
    monkeypatch.delenv("TEAM_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="TEAM_KEY"):
        find_key("TEAM_KEY", "openai")


async def test_a_usual_key_is_not_sent_to_a_strange_address(
    server: LLMServer, make_runtime: Callable[..., LLMRuntime], ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-precious-key-of-mine")
    for transport in ("direct", "litellm"):
        await ask(make_runtime(transport), "hi")
    assert "sk-precious-key-of-mine" not in server._keys


async def test_ledger_accounts_by_alias(server: LLMServer, make_runtime: Any, ask: Any) -> None:
    with enter_scope(ledger=UsageLedger()) as scope:
        await ask(make_runtime(), "hi")
    assert scope.ledger is not None
    assert set(scope.ledger.by_component()) == {"m"}
