"""The pool, the acceptance test and PromptLearningOptimizer, with a task and a reflector that are pure functions."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest

from hyperfunc import Budget, Example, HyperSystem, hyperfunction
from hyperfunc.errors import EvaluationError, ParameterTypeError
from hyperfunc.evaluation import ScoreResult
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.scope import enter_scope
from hyperfunc_prompts import (
    AcceptanceTest,
    CandidatePool,
    NoOpPromptOptimizer,
    PromptLearningOptimizer,
    ProposalRefusedError,
    ReflectorOutageError,
    Reply,
    UnusableProposalError,
    check_form,
)
from hyperfunc_prompts import plugin as prompts_plugin
from hyperfunc_prompts.acceptance import Wealth
from hyperfunc_prompts.evidence import meta_prompt
from hyperfunc_prompts.reflection import Reflector, estimate_tokens
from hyperfunc_prompts.search import Search, trainable_texts
from hyperfunc_prompts.trials import Trial, TrialRunner

RULES = ("upper", "reverse", "double", "quote")


@hyperfunction(optimize_prompt=True)
async def solve(rule: str, *, prompt: str) -> str:
    """Answer."""
    await asyncio.sleep(0)
    return rule if rule in prompt else "?"


class Solver(HyperSystem):
    async def run(self, rule: str) -> str:
        return await solve(rule)


def examples(count: int = 48) -> list[Example]:
    return [Example({"rule": RULES[i % len(RULES)]}, RULES[i % len(RULES)], id=f"e{i}") for i in range(count)]


class Scorer:
    def score(self, output: Any, expected: Any, inputs: Any = None) -> ScoreResult:
        return ScoreResult(float(output == expected), "" if output == expected else f"never does {expected}")


class Imperfect(Scorer):
    """One rule is never found to be followed."""

    def score(self, output: Any, expected: Any, inputs: Any = None) -> ScoreResult:
        return super().score("?" if expected == "quote" else output, expected, inputs)


class Model:
    """A reflector: adds the rule that the feedback names most often."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    async def __call__(self, messages: list[dict[str, Any]]) -> str:
        body = messages[1]["content"]
        self.requests.append(body)
        named = re.findall(r"never does (\w+)", body)
        rule = max(sorted(set(named)), key=named.count)
        current = re.search(r"<current_text>\n(.*?)\n</current_text>", body, re.DOTALL)
        assert current is not None
        return f"Here:\n<new_text>\n```text\n{current.group(1)}\nAlways {rule}.\n```\n</new_text>"


async def test_texts_get_better_and_the_pool_knows_why() -> None:
    system, model = Solver(), Model()
    optimizer = PromptLearningOptimizer(model, max_iterations=8, scorer=Scorer(), false_accept_rate=0.2)
    result = await optimizer.optimize(system, examples(120))
    assert result.finish_reason == "no failures"
    assert system.theta.texts["solve.prompt"] == result.best.texts["solve.prompt"]
    # Each link of the chain was better on its minibatch; only the last came to validation.
    assert [c.verdict for c in result.pool] == ["seed", *["pending"] * 3, "accepted"]
    assert all(rule in result.export()["solve.prompt"] for rule in RULES)  # type: ignore[operator]
    assert "+Always" in result.diff()
    assert [c.id for c in result.pool.lineage(result.best)] == [0, 1, 2, 3, 4]
    assert result.best.evidence["validation"]["wealth"] >= 2 / (0.2 / 2)
    # Nobody is run twice on one example, and nobody on validation for nothing.
    assert result.evaluations == sum(len(c.scores) for c in result.pool) < 3 * 120


async def test_the_same_prompts_at_any_concurrency() -> None:
    found = []
    for concurrency in (1, 64):
        system = Solver()
        optimizer = PromptLearningOptimizer(
            Model(), scorer=Scorer(), concurrency=concurrency, minibatch=12, false_accept_rate=0.2
        )
        result = await optimizer.optimize(system, examples(80))
        found.append(result.pool.to_dict())
    assert found[0] == found[1]
    assert [c["verdict"] for c in found[0]["candidates"]].count("accepted") > 0


async def test_a_worse_proposal_is_rejected_and_remembered() -> None:
    async def forgetful(messages: list[dict[str, Any]]) -> str:
        seen.append(messages[1]["content"])
        return "<new_text>Say nothing.</new_text>"

    seen: list[str] = []
    system = Solver()
    system.register_hyperfunction(solve)
    system.set_prompt("solve", "upper reverse double")
    optimizer = PromptLearningOptimizer(forgetful, scorer=Scorer(), minibatch=None, patience=1)
    result = await optimizer.optimize(system, examples())
    assert [c.verdict for c in result.pool] == ["seed", "rejected", "refused", "refused"]
    assert "the same texts as candidate 1" in result.pool[2].reason
    assert result.pool[2].cost.evaluations == 0
    assert "rejected_text" in seen[1]
    assert "Say nothing." in seen[1]
    assert system.theta.texts["solve.prompt"] == "upper reverse double"


async def test_better_on_the_minibatch_alone_is_not_enough() -> None:
    class Overfits(HyperSystem):
        async def run(self, number: int) -> str:
            return await memory(number)

    @hyperfunction(optimize_prompt=True)
    async def memory(number: int, *, prompt: str) -> str:
        """Knows: ."""
        return "right" if f" {number}," in prompt else "wrong"

    async def copies_answers(messages: list[dict[str, Any]]) -> str:
        numbers = re.findall(r"'number': (\d+)", messages[1]["content"])
        return f"<new_text>Knows: {', '.join(numbers)}, </new_text>"

    data = [Example({"number": i}, "right") for i in range(40)]
    optimizer = PromptLearningOptimizer(copies_answers, max_iterations=1, minibatch=None, patience=1)
    result = await optimizer.optimize(Overfits(), data, lambda got, wanted: float(got == wanted))
    child = result.pool[1]
    assert child.evidence["minibatch"] == {"lead": 28.0, "examples": 28, "of": 28}
    assert (child.verdict, result.improved) == ("rejected", False)


async def test_nothing_failed_nothing_is_asked() -> None:
    system, model = Solver(), Model()
    system.register_hyperfunction(solve)
    system.set_prompt("solve", " ".join(RULES))
    result = await PromptLearningOptimizer(model, scorer=Scorer()).optimize(system, examples())
    assert (result.finish_reason, model.requests, len(result.pool)) == ("no failures", [], 1)


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        ("", "no <new_text>"),
        ("<new_text> </new_text>", "empty"),
        (Reply("<new_text>cut</new_text>", finish_reason="length"), "cut off"),
    ],
)
async def test_replies_that_cannot_be_used_end_with_a_name(reply: Any, complaint: str) -> None:
    asked = []

    async def model(messages: list[dict[str, Any]]) -> Any:
        asked.append(messages)
        return reply

    with pytest.raises(UnusableProposalError, match=complaint) as caught:
        await PromptLearningOptimizer(model, scorer=Scorer(), attempts=2).optimize(Solver(), examples())
    assert (caught.value.parameter_name, caught.value.attempts, len(asked)) == ("solve.prompt", 2, 2)
    assert complaint in asked[1][-1]["content"]


async def test_an_outage_has_its_own_name_and_what_was_accepted_stays() -> None:
    model, system = Model(), Solver()

    async def fails_later(messages: list[dict[str, Any]]) -> str:
        if "Always" in str(system.theta.texts.get("solve.prompt")):
            raise ConnectionError("down")
        return await model(messages)

    optimizer = PromptLearningOptimizer(fails_later, max_iterations=20, scorer=Imperfect(), false_accept_rate=0.2)
    with pytest.raises(ReflectorOutageError, match="ConnectionError: down") as caught:
        await optimizer.optimize(system, examples(120))
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert "Always" in str(system.theta.texts["solve.prompt"])


async def test_cancellation_passes() -> None:
    async def hangs(messages: list[dict[str, Any]]) -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    started = asyncio.Event()
    task = asyncio.create_task(PromptLearningOptimizer(hangs, scorer=Scorer()).optimize(Solver(), examples()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_budget_is_never_overshot() -> None:
    budget, system = Budget(evaluations=26), Solver()
    with enter_scope(budget=budget):
        result = await PromptLearningOptimizer(Model(), scorer=Scorer()).optimize(system, examples(60))
    assert result.finish_reason == "budget:evaluations"
    assert result.evaluations == budget.spent.evaluations <= 26
    assert (result.pool[1].verdict, result.improved) == ("pending", False)
    assert "budget" in result.pool[1].reason


async def test_what_waits_for_validation_is_judged_before_the_budget_ends() -> None:
    system = Solver()
    optimizer = PromptLearningOptimizer(Model(), max_iterations=30, scorer=Imperfect(), false_accept_rate=0.2)
    with enter_scope(budget=Budget(evaluations=120)):
        result = await optimizer.optimize(system, examples(80))
    assert result.finish_reason == "budget:evaluations"
    assert result.improved


async def test_a_closing_tag_in_a_prompt_survives_both_ways() -> None:
    text = "Use </current_text> and </new_text> & {slot}; keep <b>."
    seen = []

    async def echo(messages: list[dict[str, Any]]) -> str:
        body = messages[1]["content"]
        seen.append(body)
        shown = body.split("<current_text>\n")[1].split("\n</current_text>")[0]
        return f"<new_text>\n{shown} More.\n</new_text>"

    messages, _ = _meta(text)
    new = await Reflector(echo).new_text("t", text, messages)
    assert new.value == f"{text} More."
    assert seen[0].count("</current_text>") == 1


def _meta(text: Any, failures: list[Trial] | None = None, size: int = 8000) -> Any:
    rows = failures or [Trial(Example({"q": 1}, 2), 3, 0.0, {"why": "wrong"})]
    return meta_prompt(
        component="c",
        description="d",
        current=text,
        others={},
        failures=rows,
        turned_down=[],
        name="c.prompt",
        mode="rewrite",
        context_size=size,
    )


def test_failures_are_packed_to_the_token_budget() -> None:
    rows = [Trial(Example({"q": "x" * 400}, 2), 3, 0.0, {"why": "wrong", "how": "badly"}) for _ in range(50)]
    messages, shown = _meta("text", rows, 2000)
    assert 5 < shown < 50
    assert estimate_tokens(messages[1]["content"]) <= 2000
    assert 'column="how"' in messages[1]["content"]
    _, first = _meta("text", [Trial(Example({"q": "x" * 90_000}, 2), 3, 0.0)], 600)
    assert first == 1


def _eagerly_packed(rows: list[Trial], size: int) -> str:
    """What the message was when every row was written out before it was known to fit."""
    alone, _ = _meta("text", rows[:1], 10**6)
    whole = [_meta("text", [row], 10**6)[0][1]["content"] for row in rows]
    texts = [text[text.index("<run>") : text.index("</run>") + len("</run>")] for text in whole]
    around = alone[1]["content"].replace(texts[0], "{rows}")
    left = size - estimate_tokens(
        alone[0]["content"] + "\n\n" + around.replace("1 runs that went wrong:\n\n{rows}\n\n", "")
    )
    kept: list[str] = []
    for text in texts:
        if estimate_tokens(text) <= left:
            kept.append(text)
            left -= estimate_tokens(text)
    return around.replace("1 runs", f"{len(kept)} runs").replace("{rows}", "\n\n".join(kept))


def test_rows_are_written_out_only_while_they_may_fit() -> None:
    written = 0

    class Slow:
        def __init__(self, length: int) -> None:
            self.length = length

        def __repr__(self) -> str:
            nonlocal written
            written += 1
            return "x" * self.length

    draw = random.Random(0)
    for _ in range(30):
        rows = [Trial(Example({"q": Slow(draw.randint(1, 900))}, 2), Slow(9), 0.0, {"why": "é" * 9}) for _ in range(20)]
        size = draw.randint(600, 2500)
        assert _meta("text", rows, size)[0][1]["content"] == _eagerly_packed(rows, size)
    written = 0
    rows = [Trial(Example({"q": "x" * 600}, 2), Slow(9), 0.0, {"why": "wrong"}) for _ in range(500)]
    _, shown = _meta("text", rows, 8000)
    assert 20 < shown < 60
    assert written == shown  # of a run whose inputs do not fit, nothing else is asked


async def test_ruleset_mode_keeps_the_baseline() -> None:
    async def lists(messages: list[dict[str, Any]]) -> str:
        return "<new_text>\nMy rules:\n- upper\n- reverse\n* double\n- upper\n- quote\n</new_text>"

    system = Solver()
    optimizer = PromptLearningOptimizer(lists, max_iterations=1, scorer=Scorer(), mode="ruleset")
    await optimizer.optimize(system, examples())
    assert system.theta.texts["solve.prompt"] == "Answer.\n\nRules:\n- upper\n- reverse\n- double\n- quote"


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("Use {name}.", "Use it.", r"lost \{name\}"),
        ("Use it.", "Use {name}.", r"added \{name\}"),
        ("text", ["text"], "a list"),
        ({"a": 1}, {"a": "1"}, "a whole number"),
        ({"a": 1}, {"b": 1}, "members"),
        (["x"], [1], "an item"),
    ],
)
def test_slots_and_types_are_kept_or_refused(before: Any, after: Any, complaint: str) -> None:
    with pytest.raises(ProposalRefusedError, match=complaint):
        check_form("t", before, after)


async def test_json_values_are_learned_as_json() -> None:
    async def model(messages: list[dict[str, Any]]) -> str:
        return '<new_text>```json\n["a", "b"]\n```</new_text>'

    assert (await Reflector(model).new_text("t", ["a"], [])).value == ["a", "b"]


@pytest.mark.parametrize("validations", [None, 3])
async def test_the_stated_false_accept_rate_holds(validations: int | None) -> None:
    """Three useless proposals per run, at a rate of 0.1, looked at as often as the search likes."""

    @hyperfunction(optimize_prompt=True)
    async def coin(toss: int, *, prompt: str) -> bool:
        """Seed."""
        return random.Random(f"{prompt}/{toss}").random() < 0.5

    class Tosses(HyperSystem):
        async def run(self, toss: int) -> bool:
            return await coin(toss)

    data, accepted = [Example({"toss": i}, True, id=f"t{i}") for i in range(16)], 0
    for run in range(40):
        system = Tosses()
        system.register_hyperfunction(coin)
        system.set_prompt("coin", f"seed {run}")
        runner = TrialRunner(system, lambda got, wanted: float(got == wanted))
        test = AcceptanceTest(0.1, validations, seed=run)
        search = Search(system, trainable_texts(system), runner, [], data, test, "test")
        for child in range(3):
            await search.decide(search.pool.add({"coin.prompt": f"{run}/{child}"}, (search.pool.seed,), "test"))
        accepted += search.incumbent is not search.pool.seed
    assert accepted / 40 <= 0.1


def test_wealth_seldom_grows_without_cause_and_soon_with_one() -> None:
    generator, rich = random.Random(0), 0
    for _ in range(2000):
        wealth = Wealth()
        values = []
        for _ in range(40):
            wealth.add(generator.choice((-1.0, 1.0)) * generator.random() ** 3)
            values.append(wealth.value)
        rich += max(values) >= 20
    assert rich / 2000 <= 1 / 20
    steady = Wealth()
    for _ in range(9):
        steady.add(1.0)
    assert steady.value >= 80
    steady.add(0.0)
    assert steady.value >= 80


async def test_a_child_that_forgets_costs_a_few_runs() -> None:
    system = Solver()
    system.register_hyperfunction(solve)
    system.set_prompt("solve", "upper reverse double")
    runner = TrialRunner(system, Scorer())
    search = Search(system, trainable_texts(system), runner, examples(80), examples(1), AcceptanceTest(), "test")
    forgets = search.pool.add({"solve.prompt": "upper reverse"}, (search.pool.seed,), "test")
    assert not await search.holds_against(forgets, search.pool.seed, search.train, 1.0)
    assert (forgets.verdict, len(forgets.scores)) == ("rejected", 24)
    whole = search.pool.add({"solve.prompt": "reverse"}, (search.pool.seed,), "test")
    assert not await search.holds_against(whole, search.pool.seed, search.train, 0.5)
    assert len(whole.scores) < 80
    better = search.pool.add({"solve.prompt": "upper reverse double quote"}, (search.pool.seed,), "test")
    assert await search.holds_against(better, search.pool.seed, search.train, 1.0)
    assert better.verdict == "pending"


def test_the_pool_tells_merges_apart() -> None:
    pool = CandidatePool({"a": "1", "b": "2"})
    left = pool.add({"a": "x", "b": "2"}, (pool.seed,), "test")
    right = pool.add({"a": "1", "b": "y"}, (pool.seed,), "test")
    both = pool.add({"a": "x", "b": "y"}, (left, right), "merge")
    assert (both.changed, pool.ancestors(both)) == (("b",), {0, 1, 2})
    assert pool.diff(both).splitlines()[-2:] == ["-2", "+y"]
    with pytest.raises(ParameterTypeError):
        pool.add({"a": object(), "b": "y"}, (left,), "test")  # type: ignore[dict-item]


async def test_bad_data_is_refused() -> None:
    data = examples()
    with pytest.raises(EvaluationError, match="train_data and in validation"):
        await PromptLearningOptimizer(Model(), scorer=Scorer(), validation=data[:3]).optimize(Solver(), data)
    with pytest.raises(EvaluationError, match="cannot be split"):
        await PromptLearningOptimizer(Model(), scorer=Scorer()).optimize(Solver(), data[:1])


async def test_optimizers_are_found_by_name_and_by_a_system() -> None:
    plugins = load_plugins([("prompts", prompts_plugin)], entry_points=False)
    with use_plugins(plugins):
        assert plugins.get("prompt_optimizers", "noop") is NoOpPromptOptimizer
        learning = plugins.get("prompt_optimizers", "prompt-learning")
        system = Solver(prompt_optimizer=learning(Model(), false_accept_rate=0.2, scorer=Scorer()))
        await system.optimize(examples(120), lambda got, wanted: float(got == wanted))
    assert "Always" in str(system.theta.texts["solve.prompt"])
