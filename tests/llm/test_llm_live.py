"""A few calls to a real provider, where a key is set: at most HYPERFUNC_LIVE_USD (default 0.02) are spent."""

from __future__ import annotations

import os

import pytest
from pydantic import BaseModel

from hyperfunc.errors import BudgetExceededError
from hyperfunc.scope import UsageLedger, enter_scope
from hyperfunc.usage import Usage
from hyperfunc_llm import LLMResponse, LLMRuntime, llm_completion, llm_stream, use_runtime

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get("HYPERFUNC_LIVE_MODEL"), reason="HYPERFUNC_LIVE_MODEL names no model"),
]

MODEL = os.environ.get("HYPERFUNC_LIVE_MODEL", "")


class Cap:
    """A budget in dollars, shared by the tests of this file."""

    def __init__(self, usd: float) -> None:
        self.left = usd

    def reserve(self, worst_case: Usage) -> Reserved:
        if worst_case.usd > self.left:
            raise BudgetExceededError(f"{worst_case.usd} USD do not fit into {self.left}", limit="usd")
        self.left -= worst_case.usd
        return Reserved(self, worst_case.usd)


class Reserved:
    def __init__(self, cap: Cap, usd: float) -> None:
        self._cap, self._usd = cap, usd

    def settle(self, actual: Usage) -> None:
        self._cap.left += self._usd - actual.usd

    def release(self) -> None:
        self._cap.left += self._usd


CAP = Cap(float(os.environ.get("HYPERFUNC_LIVE_USD", "0.02")))


class Capital(BaseModel):
    country: str
    capital: str


async def test_a_few_calls() -> None:
    async with LLMRuntime() as runtime:
        with use_runtime(runtime), enter_scope(budget=CAP, ledger=UsageLedger()) as scope:
            short = await llm_completion(MODEL, "Say yes.", max_tokens=50)
            assert isinstance(short, LLMResponse)
            assert short.usage.prompt_tokens > 0
            typed = await llm_completion(MODEL, "The capital of France?", response_model=Capital, max_tokens=200)
            assert isinstance(typed, LLMResponse)
            assert "Paris" in typed.parsed.capital
            chunks = [c async for c in llm_stream(MODEL, "Count to five.", max_tokens=50)]
            assert chunks[-1].response is not None
    assert scope.ledger is not None
    assert scope.ledger.total.calls >= 3
