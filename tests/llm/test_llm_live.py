"""A few calls to a real provider, where HYPERFUNC_LIVE_MODEL names a model (``pytest -m live``): at most
HYPERFUNC_LIVE_USD (default 0.02) are spent. HYPERFUNC_LLM_LIVE_BASE_URL, …_API_KEY_ENV, …_INPUT_USD, … say more of the
endpoint. The same tests always run against the loopback server too, so that their code is known to work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from pydantic import BaseModel

from hyperfunc.budget import Budget
from hyperfunc.errors import BudgetExceededError
from hyperfunc.scope import UsageLedger, current_scope, enter_scope
from hyperfunc.testing.llm_server import LLMServer, Rule, Script, ServerProcess
from hyperfunc_llm import (
    Endpoint,
    Endpoints,
    LLMResponse,
    LLMRuntime,
    llm_completion,
    llm_stream,
    make_llm_agent,
    use_runtime,
)

CAP = Budget(usd=float(os.environ.get("HYPERFUNC_LIVE_USD", "0.02")), name="HYPERFUNC_LIVE_USD")  # for all tests here

PROVIDER = pytest.param(
    "provider",
    marks=[
        pytest.mark.live,
        pytest.mark.skipif(not os.environ.get("HYPERFUNC_LIVE_MODEL"), reason="HYPERFUNC_LIVE_MODEL names no model"),
    ],
)

ANSWERS = Script(
    rules=(
        Rule(contains="capital of France", content='{"country": "France", "capital": "Paris"}'),
        Rule(contains="Count", content="one two three four five"),
        Rule(contains="How warm", tool_calls=({"name": "temperature_in", "arguments": {"city": "Paris"}},)),
    )
)


class Capital(BaseModel):
    country: str
    capital: str


@pytest.fixture(params=[PROVIDER, "loopback"])
async def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LLMRuntime]:
    """A runtime with the endpoint ``live``, configured by the environment, under the cap."""
    async with LLMServer(ANSWERS) as server:
        if request.param == "loopback":
            monkeypatch.setenv("HYPERFUNC_LIVE_MODEL", "openai/gpt-4o-mini")
            monkeypatch.setenv("HYPERFUNC_LLM_LIVE_BASE_URL", server.base_url)
            monkeypatch.setenv("HYPERFUNC_LLM_LIVE_TRANSPORT", "direct")
        async with LLMRuntime(Endpoints.load()) as runtime:
            model = Endpoints({"live": Endpoint(model=os.environ["HYPERFUNC_LIVE_MODEL"])})
            budget = CAP if request.param == "provider" else Budget(usd=0.02)
            with model, use_runtime(runtime), enter_scope(budget=budget, ledger=UsageLedger()):
                assert runtime.endpoint("live").price is not None, "without a price there is no cap in dollars"
                yield runtime
        assert budget.overshoot == {}
        if request.param == "loopback":
            assert server.counters()["requests"] == budget.spent.calls


async def test_a_reply_says_what_it_cost(runtime: LLMRuntime) -> None:
    response = await llm_completion("live", "Say yes.", max_tokens=50)
    assert isinstance(response, LLMResponse)
    assert response.usage.prompt_tokens > 0
    assert response.cost is not None
    assert response.cost > 0
    ledger = current_scope().ledger
    assert ledger is not None
    assert ledger.total.usd == pytest.approx(response.cost)


async def test_structured_output(runtime: LLMRuntime) -> None:
    question = "The capital of France? Answer as JSON with country and capital."
    response = await llm_completion("live", question, response_model=Capital, max_tokens=200)
    assert isinstance(response, LLMResponse)
    assert "Paris" in response.parsed.capital


async def test_a_stream(runtime: LLMRuntime) -> None:
    chunks = [chunk async for chunk in llm_stream("live", "Count from one to five in words.", max_tokens=50)]
    whole = chunks[-1].response
    assert whole is not None
    assert whole.content == "".join(chunk.content for chunk in chunks[:-1])
    assert "three" in whole.content.lower()
    assert whole.usage.completion_tokens > 0


async def test_a_tool_loop(runtime: LLMRuntime) -> None:
    asked: list[str] = []

    async def temperature_in(city: str) -> str:
        """The present temperature in a city."""
        asked.append(city)
        return "21 degrees Celsius"

    agent = make_llm_agent("live", [temperature_in], max_rounds=3, max_tokens=200)
    result = await agent("How warm is it in Paris? Use the tool.")
    assert asked == ["Paris"]
    assert "21" in result.content


async def test_the_cap_stops_what_does_not_fit(runtime: LLMRuntime) -> None:
    ledger = UsageLedger()
    with enter_scope(budget=Budget(usd=1e-9), ledger=ledger), pytest.raises(BudgetExceededError):
        await llm_completion("live", "This would cost something.", max_tokens=10)
    assert ledger.total.calls == 0


@pytest.mark.slow
def test_the_live_run_itself() -> None:
    """``pytest -m live`` as a user starts it, with the loopback server for a provider."""
    with ServerProcess(ANSWERS) as server:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HYPERFUNC_LLM_")},
            "HYPERFUNC_LIVE_MODEL": "openai/gpt-4o-mini",
            "HYPERFUNC_LLM_LIVE_BASE_URL": server.base_url,
            "HYPERFUNC_LLM_LIVE_TRANSPORT": "direct",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-m", "pytest", "-m", "live", "-q", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        served = server.counters()["requests"]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    assert counts == {"passed": 5}, done.stdout[-3000:]
    assert served == 5
