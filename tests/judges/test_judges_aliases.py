"""Judges whose model is an alias of the LLM runtime, against the loopback provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from hyperfunc import Budget, Example, HyperSystem, hyperfunction
from hyperfunc.calls import MemoryCallStore
from hyperfunc.errors import BudgetExceededError
from hyperfunc.evaluation import ScoreResult
from hyperfunc.scope import enter_scope
from hyperfunc.testing.llm_server import LLMServer, Rule, Script
from hyperfunc_judges import Level, LLMJudge, PreferenceJudge, RankingJudge, Rubric, RubricJudge
from hyperfunc_llm import Endpoint, LLMRuntime, UnknownAliasError, use_runtime

MARK = json.dumps({"feedback": "because", "actions": ["be brief"], "score": 4})
RULES = (
    Rule(contains="<output>\nempty", fault="empty"),
    Rule(contains="<output>\nfenced", content=f"Well:\n```json\n{MARK}\n```"),
    Rule(contains="<output>\nmumbled", content="good, I think"),
    Rule(contains="Answer again", content=MARK),
    Rule(contains="<rubric>", content='{"feedback": "why", "actions": [], "score": 1}'),
    Rule(contains="<output_a>", content='{"feedback": "why", "winner": "A"}'),
    Rule(contains="<output_1>", content='{"feedback": "why", "ranking": [0, 1, 2]}'),
    Rule(content=MARK),
)


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer(Script(rules=RULES)) as running:
        endpoint = Endpoint(model="openai/judge-1", base_url=running.base_url, transport="direct", backoff_s=0.001)
        async with LLMRuntime({"smart": endpoint}) as runtime:
            with use_runtime(runtime):
                yield running


async def test_an_alias_is_enough(server: LLMServer) -> None:
    result = await LLMJudge("smart", temperature=0.25, max_tokens=77).score("o", "e")
    assert (result.score, result.feedback) == (0.75, "because\n- be brief")
    assert result.cost is not None
    assert (result.cost.calls, result.cost.input_tokens > 0) == (1, True)
    (sent,) = server.bodies()
    body = json.loads(sent)
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-1", 0.25, 77)


async def test_all_kinds_of_judges_ask_their_alias(server: LLMServer) -> None:
    rubric = Rubric((Level(0, "bad", "wrong"), Level(1, "fair", "half"), Level(2, "good", "right")))
    assert (await RubricJudge(rubric, "smart").score("o", "e")).score == 0.5
    # Always the first on the page: a tie, once both orders were asked.
    assert (await PreferenceJudge("smart").compare("x", "y")).winner == "tie"
    # From 0, best first; averaged with the reversed order all are equal.
    assert [r.score for r in await RankingJudge("smart", both_orders=False).rank(["x", "y", "z"])] == [1.0, 0.5, 0.0]
    assert [r.score for r in await RankingJudge("smart").rank(["x", "y", "z"])] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("output", ["fenced", "mumbled"])
async def test_replies_in_disguise(server: LLMServer, output: str) -> None:
    assert (await LLMJudge("smart").score(output, "e")).score == 0.75


async def test_an_empty_reply_is_no_score_and_was_paid_for(server: LLMServer) -> None:
    result = await LLMJudge("smart", reasks=0).score("empty", "e")
    assert result.score is None
    assert "could not be read" in result.feedback
    assert result.cost is not None
    assert result.cost.calls >= 1


async def test_an_unknown_alias_is_told_before_anything_is_sent(server: LLMServer) -> None:
    with pytest.raises(UnknownAliasError, match="smrt"):
        await LLMJudge("smrt").score("o", "e")
    assert server.counters()["requests"] == 0


async def test_judges_keep_to_the_budget_and_are_paid_once(server: LLMServer) -> None:
    with enter_scope(budget=Budget(calls=1), store=MemoryCallStore()):
        first, again = [await LLMJudge("smart").score("o", "e") for _ in range(2)]
        assert (first.score, again.score) == (0.75, 0.75)
        assert again.cost is not None
        assert again.cost.calls == 0
        with pytest.raises(BudgetExceededError):
            await LLMJudge("smart").score("another", "e")
    assert server.counters()["requests"] == 1


async def test_a_system_is_evaluated_by_a_judge(server: LLMServer) -> None:
    @hyperfunction
    async def answer(question: str) -> str:
        return f"the answer to {question}"

    class Answers(HyperSystem):
        async def run(self, question: str) -> str:
            return await answer(question)

    examples = [Example({"question": f"q{i}"}, "e") for i in range(3)]
    assert await Answers().evaluate(examples, LLMJudge("smart")) == 0.75
    results: list[ScoreResult] = await LLMJudge("smart").score_batch(["a", "b"], ["e", "e"])
    assert [result.score for result in results] == [0.75, 0.75]
