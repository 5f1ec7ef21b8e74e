"""The benchmark's rig: the provider's own counts are the optimizer's, and chains cross a plateau."""

from __future__ import annotations

from typing import Any

from benchmarks.prompts.calls_to_target import TARGET, one_run
from benchmarks.prompts.simulated import running
from benchmarks.prompts.worlds import SEED_TEXT, World
from hyperfunc import Example, HyperSystem, hyperfunction
from hyperfunc.evaluation import ScoreResult
from hyperfunc_prompts import PromptLearningOptimizer


async def test_the_provider_counts_what_was_asked() -> None:
    world = World("plateau", 0)
    with running() as provider:
        reached, calls, worse = await one_run(provider, world, "prompt-learning")
        task, reflections = provider.counts(world)
    assert reached is not None
    assert (task + reflections, worse) == (calls, False)
    # Nobody is asked twice: at most eight candidates and the seed, on at most 60 examples each.
    assert (reached <= calls, task <= 9 * 60, reflections <= 8) == (True, True, True)


def test_worlds_are_pure_functions_with_a_seed_text_that_can_be_improved() -> None:
    for family in ("additive", "plateau"):
        first, second = World(family, 3), World(family, 3)
        assert first.rows(5, "train") == second.rows(5, "train") != World(family, 4).rows(5, "train")
        assert first.expected_score(SEED_TEXT) < 0.1
        assert first.expected_score("For dates, use iso form.") == second.expected_score("For dates, use iso form.")
    assert World("no-headroom", 3).expected_score("else", 2000) < World("no-headroom", 3).expected_score(
        SEED_TEXT, 2000
    )
    assert TARGET < 1


@hyperfunction(optimize_prompt=True)
async def letters(wanted: int, *, prompt: str) -> bool:
    """x"""
    return prompt.count("x") >= wanted


class Letters(HyperSystem):
    async def run(self, wanted: int) -> bool:
        return await letters(wanted)


class NeedsMore:
    def score(self, output: Any, expected: Any, inputs: Any = None) -> ScoreResult:
        return ScoreResult(float(output), "" if output else "more")


async def test_steps_that_show_no_gain_lead_on_but_are_not_shipped() -> None:
    async def one_more(messages: list[dict[str, Any]]) -> str:
        text = messages[1]["content"].split("<current_text>\n")[1].split("\n</current_text>")[0]
        return f"<new_text>{text}x</new_text>"

    system = Letters()
    data = [Example({"wanted": 4}, True, id=f"e{i}") for i in range(40)]
    result = await PromptLearningOptimizer(one_more, max_iterations=4, scorer=NeedsMore()).optimize(system, data)
    assert [c.verdict for c in result.pool] == ["seed", "rejected", "rejected", "accepted"]
    assert [c.id for c in result.pool.lineage(result.best)] == [0, 1, 2, 3]
    assert system.theta.texts["letters.prompt"] == "xxxx"
    # Links of the chain that show no gain cost no validation.
    assert "validation" not in result.pool[1].evidence
