"""What a dry run says about learning texts is what the run then does: runs, replies and money, at a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, NoOpSystemOptimizer, hyperfunction
from hyperfunc.budget import Budget
from hyperfunc.scheduling.forecast import average, capped
from hyperfunc.scheduling.text_forecast import Expectation
from hyperfunc.testing.llm_server import Rule, Script, ServerProcess
from hyperfunc.usage import Usage
from hyperfunc_llm import Endpoint, LLMRuntime, llm_completion, use_runtime
from hyperfunc_prompts import BootstrapDemos, NoOpPromptOptimizer, PromptLearningOptimizer, ReflectivePareto

RULES = ("brief", "kind", "exact")
TEXTS = ["Answer.", "Answer. Be brief.", "Answer. Be brief. Be kind.", "Answer. Be brief. Be kind. Be exact."]
WRITTEN = [*TEXTS[1:], f"{TEXTS[-1]} Now."]
PROPOSALS = Script(
    tuple(
        Rule(contains=f"<current_text>\n{text}\n</current_text>", content=f"<new_text>{better}</new_text>")
        for text, better in zip(TEXTS, WRITTEN, strict=True)
    )
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


@pytest.fixture
def endpoints(server: ServerProcess) -> Iterator[dict[str, Endpoint]]:
    server.play(PROPOSALS)
    shared = {"base_url": server.base_url, "transport": "direct"}
    known = {
        "answerer": Endpoint(model="openai/loopback", input_usd=100.0, output_usd=300.0, **shared),
        "writer": Endpoint(model="openai/writer", input_usd=1000.0, output_usd=2000.0, max_output_tokens=64, **shared),
    }
    with use_runtime(LLMRuntime(known)):
        yield known


@hyperfunction(hp_type=LoRAWeight.create(2, 3, 1), optimize_hparams=True)
async def choose(x, hp):
    return hp.weight @ x


@hyperfunction(optimize_prompt=True)
async def phrase(word, level, *, prompt):
    """Answer."""
    return str((await llm_completion("answerer", f"{prompt} {word} {level}", temperature=0.0)).content)


class Phrasing(HyperSystem):
    """A prompt decides what a model is asked; each rule that the reply follows counts."""

    async def run(self, x, word):
        reply = await phrase(word, 0)
        return sum(rule in reply for rule in RULES)


class Choosing(HyperSystem):
    """The same, with tensors beside it."""

    async def run(self, x, word):
        scores = await choose(x)
        reply = await phrase(word, int(scores[0].round()))
        return float(scores[1]) + sum(rule in reply for rule in RULES)


def data(count: int, expected: float = 40.0) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    return [Example({"x": torch.randn(3, generator=generator), "word": f"word{i}"}, expected) for i in range(count)]


def learning(**options):
    return PromptLearningOptimizer("writer", **{"max_iterations": 3, "minibatch": 4, **options})


def replies_of_the_writer(server: ServerProcess) -> int:
    return sum("<current_text>" in body for body in server.bodies())


async def forecast_and_spend(system, train, validation=None, **arguments):
    """What was foreseen, what was paid for, and the result."""
    foreseen = await system.dry_run(train, validation, record=3, **arguments)
    budget = Budget(usd=1e6)
    result = await system.optimize(train, "numeric-distance", validation, budget=budget, **arguments)
    return foreseen, budget.spent, result


def check(foreseen, spent):
    assert foreseen.calls[0] <= spent.calls <= foreseen.calls[1]
    assert foreseen.tokens[0] <= spent.total_tokens <= foreseen.tokens[1]
    assert foreseen.usd[0] <= spent.usd <= foreseen.usd[1]


@pytest.mark.parametrize(
    "prompts", [learning(validation=0.6), learning(max_iterations=1, validation=0.6), ReflectivePareto("writer", 4)]
)
async def test_what_texts_take_lies_within_the_bounds(server, endpoints, prompts):
    system = Phrasing(prompt_optimizer=prompts, system_optimizer=NoOpSystemOptimizer())
    before = replies_of_the_writer(server)
    foreseen, spent, _ = await forecast_and_spend(system, data(20))
    check(foreseen, spent)
    texts = foreseen.texts
    assert texts is not None
    assert texts.search.runs.least <= spent.evaluations <= texts.search.runs.most
    replies = replies_of_the_writer(server) - before
    assert 0 < replies <= texts.search.replies.most
    assert texts.low.usd <= texts.expected.usd <= texts.high.usd
    assert texts.low == foreseen.low
    assert texts.high.calls == foreseen.high.calls - 1  # the first run of all shows which texts there are
    assert f"about {texts.expected.usd:.4f}" in str(foreseen)
    assert not any("not included" in note for note in foreseen.notes)


@pytest.mark.parametrize("schedule", ["alternate", "tensors then texts"])
async def test_so_does_what_tensors_and_texts_take_together(endpoints, schedule):
    system = Choosing(
        prompt_optimizer=learning(validation=data(20)[8:]),
        system_optimizer=ESHybridSystemOptimizer(pop_size=4, sigma=0.3, lr=0.1, steps=3),
    )
    foreseen, spent, result = await forecast_and_spend(
        system, data(20)[:8], minibatch=2, schedule=schedule, only="choose"
    )
    check(foreseen, spent)
    assert foreseen.texts is not None
    assert result.evaluations <= foreseen.evaluations + foreseen.texts.search.runs.most
    assert foreseen.generations == 3


async def test_where_nothing_can_be_gained_the_least_is_paid(endpoints):
    system = Phrasing(prompt_optimizer=learning(), system_optimizer=NoOpSystemOptimizer())
    foreseen, spent, result = await forecast_and_spend(system, data(20, expected=0.0))
    assert result.finish_reason == "no headroom"
    check(foreseen, spent)
    assert foreseen.texts is not None
    assert foreseen.calls[0] == foreseen.texts.search.runs.least == spent.evaluations
    assert spent.calls <= foreseen.calls[0] + 1  # the first run of all


async def test_no_more_is_foreseen_than_a_budget_has_left(endpoints):
    system = Phrasing(prompt_optimizer=learning(), system_optimizer=NoOpSystemOptimizer())
    system.register_hyperfunction(phrase)
    budget = Budget(usd=0.5, calls=30, tokens=900)
    budget.charge(Usage(calls=2, usd=0.1, input_tokens=50))
    foreseen = await system.dry_run(data(20), per_run=Usage(calls=1, usd=0.01, input_tokens=20), budget=budget)
    assert foreseen.high == Usage(calls=28, usd=pytest.approx(0.4), input_tokens=850, output_tokens=0)
    assert foreseen.texts is not None
    assert foreseen.texts.high == foreseen.high
    assert foreseen.texts.search.runs.least == 1  # what is left decides how far it looks


async def test_demos_ask_nobody_and_functions_that_write_do_not_say_what_they_pay(endpoints):
    async def writes(messages):
        return "<new_text>Answer better.</new_text>"

    for prompts, replies, note in (
        (BootstrapDemos(), 0, ""),
        (PromptLearningOptimizer(writes), 9, "the function that writes texts"),
        (ReflectivePareto(writes, component_choice="blame"), 60, "to blame"),
    ):
        system = Phrasing(prompt_optimizer=prompts, system_optimizer=NoOpSystemOptimizer())
        foreseen = await system.dry_run(data(20), record=1)
        assert foreseen.texts is not None
        assert foreseen.texts.search.replies.most == replies
        assert foreseen.high.calls <= foreseen.texts.search.runs.most + 1
        assert note in " ".join(foreseen.notes)


async def test_what_nobody_says_is_noted(endpoints):
    given = {"per_run": Usage(calls=1)}
    unknown = await Phrasing(prompt_optimizer=learning()).dry_run(data(4), **given)
    assert unknown.texts is None
    assert "not known yet" in str(unknown)
    silent = Phrasing(prompt_optimizer=NoOpPromptOptimizer())
    silent.register_hyperfunction(phrase)
    assert "does not say" in str(await silent.dry_run(data(4), **given))
    frozen = Choosing(prompt_optimizer=learning())
    frozen.register_hyperfunction(choose)
    assert (await frozen.dry_run(data(4), steps=1)).texts is None  # no text to learn


def test_averages_and_caps():
    assert average([Usage(calls=1, usd=0.1), Usage(calls=2, usd=0.3)]) == Usage(calls=2, usd=pytest.approx(0.2))
    usage = Usage(calls=9, usd=3.0, input_tokens=60, output_tokens=60)
    assert capped(usage, {}) == usage
    assert capped(usage, {"tokens": 80.0, "calls": 4.0, "usd": 1.0, "seconds": 3.0}) == Usage(
        calls=4, usd=1.0, input_tokens=60, output_tokens=20
    )
    assert str(Expectation(1, 2, 3)) == "1 to 3, about 2"
