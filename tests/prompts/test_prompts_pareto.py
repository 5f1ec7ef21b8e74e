"""The parts of the Pareto search against their definitions, and the whole on a system of two components."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from hyperfunc import Example, HyperSystem, hyperfunction
from hyperfunc.errors import ConfigurationError
from hyperfunc_prompts import AcceptanceTest, BlameDriven, CandidatePool, ReflectivePareto
from hyperfunc_prompts.pareto import EpochBatches, draw_parent, find_merge, merge_sample, non_dominated
from hyperfunc_prompts.search import Search, trainable_texts
from hyperfunc_prompts.trials import TrialRunner

KEYS = ["a", "b", "c"]


def _pool(*scores: tuple[float, float, float]) -> CandidatePool:
    pool = CandidatePool({"x.prompt": "0", "y.prompt": "0"})
    for index, row in enumerate(scores):
        changed = {"x.prompt" if index % 2 else "y.prompt": str(index)} if index else {}
        candidate = pool.add({**pool.seed.texts, **changed}, (pool.seed,), "test") if index else pool.seed
        candidate.scores.update(zip(KEYS, row, strict=True))
    return pool


def test_only_candidates_that_a_front_needs_are_parents() -> None:
    pool = _pool((0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0.5, 1))
    # 0 and 3 share front c with 1, which has more; 2 alone holds front b.
    assert non_dominated(list(pool), KEYS) == {1: 2, 2: 1}
    generator = random.Random(0)
    drawn = [draw_parent(list(pool), KEYS, generator).id for _ in range(600)]
    assert 340 < drawn.count(1) < 460
    assert set(drawn) == {1, 2}


def test_a_merge_takes_what_each_side_changed() -> None:
    pool = _pool((0, 0, 0), (1, 0, 0), (0, 1, 0))
    found = find_merge(pool, list(pool), KEYS, random.Random(0))
    assert found is not None
    assert found[2] == {"x.prompt": "1", "y.prompt": "2"}
    pool.add(found[2], (found[0], found[1]), "merge")
    assert find_merge(pool, list(pool)[:3], KEYS, random.Random(0)) is None
    assert sorted(merge_sample(found[0], found[1], KEYS, random.Random(0))) == KEYS


def test_batches_go_through_everything() -> None:
    batches = EpochBatches([str(i) for i in range(7)], 3, random.Random(0))
    drawn = [batches.next() for _ in range(6)]
    assert all(len(set(batch)) == 3 for batch in drawn)
    assert {key for batch in drawn[:3] for key in batch} == {str(i) for i in range(7)}


@hyperfunction(optimize_prompt=True)
async def read(word: str, *, prompt: str) -> str:
    """Read."""
    return word if "carefully" in prompt else ""


@hyperfunction(optimize_prompt=True)
async def write(word: str, kind: str, *, prompt: str) -> str:
    """Write."""
    return f"{kind}:{word}" if kind in prompt else ""


class Pipeline(HyperSystem):
    async def run(self, word: str, kind: str) -> str:
        return await write(await read(word), kind)


def partly(predictions: list[str], expected: list[str]) -> float:
    return sum(0.5 * (p != "") + 0.5 * (p == e) for p, e in zip(predictions, expected, strict=True)) / len(expected)


def _data() -> list[Example]:
    kinds = ("noun", "verb")
    return [Example({"word": f"w{i}", "kind": kinds[i % 2]}, f"{kinds[i % 2]}:w{i}") for i in range(60)]


async def _reflector(messages: list[dict[str, Any]]) -> str:
    body = messages[1]["content"]
    current = re.search(r"<current_text>\n(.*?)\n</current_text>", body, re.DOTALL)
    assert current is not None
    if "<component>\nread" in body:
        return f"<new_text>{current.group(1)} carefully</new_text>"
    kind = re.findall(r"'kind': '(\w+)'", body)[0]
    return f"<new_text>{current.group(1)} {kind}</new_text>"


async def test_both_components_are_learned_and_concurrency_changes_nothing() -> None:
    found = []
    for concurrency in (1, 64):
        system = Pipeline()
        optimizer = ReflectivePareto(_reflector, validation=0.5, concurrency=concurrency, seed=1)
        result = await optimizer.optimize(system, _data(), partly)
        texts = system.theta.texts
        assert "carefully" in str(texts["read.prompt"])
        assert {"noun", "verb"} <= set(str(texts["write.prompt"]).split())
        assert result.finish_reason == "no failures"
        assert sum(len(c.scores) for c in result.pool) == result.evaluations
        found.append(result.pool.to_dict())
    assert found[0] == found[1]


@hyperfunction(optimize_prompt=True)
async def polish(text: str, *, prompt: str) -> str:
    """Polish."""
    return text


class LongPipeline(HyperSystem):
    async def run(self, word: str, kind: str) -> str:
        return await polish(await write(await polish(await read(word)), kind))


async def test_blame_spends_proposals_where_the_fault_is() -> None:
    """``read`` is right already; in turn, two proposals of three go where nothing can be gained."""

    async def reflector(messages: list[dict[str, Any]]) -> str:
        asked.append(re.findall(r"<component>\n(\w+)", messages[1]["content"])[0])
        return await _reflector(messages)

    def right(example: Example, inputs: dict[str, Any]) -> str:
        return str(example.inputs["word"])

    oracles = {
        "read": right,
        "write": lambda example, inputs: example.expected,
        "polish": lambda example, inputs: inputs["text"],
    }
    chosen: dict[str, list[str]] = {}
    for choice in ("round-robin", BlameDriven(oracles)):
        asked: list[str] = []
        system = LongPipeline()
        for function in (read, write, polish):
            system.register_hyperfunction(function)
        system.set_prompt("read", "Read carefully.")
        optimizer = ReflectivePareto(
            reflector, max_iterations=6, validation=0.5, component_choice=choice, merges=0, seed=1
        )
        result = await optimizer.optimize(system, _data(), partly)
        chosen[type(choice).__name__] = asked
        assert result.evaluations == result.usage.evaluations
    assert set(chosen["BlameDriven"]) == {"write"}
    assert result.finish_reason == "no failures"
    assert set(chosen["str"]) == {"read", "write", "polish"}


async def test_other_candidates_better_runs_tell_who_is_to_blame() -> None:
    system = LongPipeline()
    for function in (read, write, polish):
        system.register_hyperfunction(function)
    data = _data()[:6]
    runner = TrialRunner(system, partly)
    search = Search(system, trainable_texts(system), runner, data, [], AcceptanceTest(), "test")
    seed = search.pool.seed
    failures = await search.trials(seed, search.train)
    choice = BlameDriven()
    # Nothing better is known: in turn.
    assert [await choice.choose(search, seed, failures, turn) for turn in range(3)] == list(search.entries)
    better = search.pool.add({**seed.texts, "write.prompt": "noun verb"}, (seed,), "test")
    await search.trials(better, search.train)
    used = search.usage
    assert await choice.choose(search, seed, failures, 0) == "write.prompt"
    assert search.usage.evaluations >= used.evaluations
    better.verdict = "rejected"
    assert await choice.choose(search, seed, failures, 0) == "write.prompt"  # halved, and still the only one


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="round-robin"):
        ReflectivePareto(_reflector, component_choice="luck")
