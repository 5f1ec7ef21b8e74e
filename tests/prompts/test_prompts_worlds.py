"""The benchmark's rig: frozen worlds, the provider's own counts, and what the default optimizer promises in them."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from benchmarks.prompts.calls_to_target import summary, worlds_hash
from benchmarks.prompts.contenders import OURS, TARGET, WorldScorer, connected, examples, program, run_ours
from benchmarks.prompts.reflector import current_text, reflect
from benchmarks.prompts.simulated import SimulatedProvider, running
from benchmarks.prompts.worlds import CUES, FAMILIES, SECOND_CUES, TOPICS, World
from hyperfunc.budget import Budget
from hyperfunc.scope import enter_scope

DOCS = Path(__file__).parents[2] / "docs" / "prompts.md"


def solved(world: World) -> dict[str, str]:
    """Texts with every rule of the world."""
    texts = {}
    for name, text in world.texts.items():
        lines = [text]
        for topic, first, second in zip(TOPICS, CUES, SECOND_CUES, strict=True):
            if world.family == "conflicting" and topic in world.chosen:
                lines.append(f"For {topic}, use {first} form in short requests and {second} form in long ones.")
            else:
                lines.append(f"For {topic}, use {first} form.")
        texts[name] = "\n".join(lines)
    return texts


def test_the_worlds_are_the_published_ones() -> None:
    assert worlds_hash() in DOCS.read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_worlds_are_pure_functions_with_room_for_improvement(family: str) -> None:
    first, second = World(family, 3), World(family, 3)
    assert first.rows(5, "train") == second.rows(5, "train") != World(family, 4).rows(5, "train")
    assert not {row.request for row in first.rows(40, "train")} & {row.request for row in first.rows(40, "validation")}
    before, after = first.expected_score(first.texts), first.expected_score(solved(first))
    assert (after, before) == (second.expected_score(solved(second)), second.expected_score(second.texts))
    assert (before > after) if family == "no-headroom" else (before == 0.0 and after > TARGET)


def test_what_makes_the_families_hard() -> None:
    plateau = World("plateau", 0)
    text = "Answer the request.\nFor dates, use iso form.\nFor names, use surname form."
    assert plateau.expected_score({"reply": text}) == 0.0
    deceptive = World("deceptive", 0)
    lured = solved(deceptive)["reply"]
    for topic in deceptive.chosen[:2]:
        lured = lured.replace(CUES[TOPICS.index(topic)], SECOND_CUES[TOPICS.index(topic)])
    assert deceptive.expected_score({"reply": lured}) < TARGET
    conflicting = World("conflicting", 0)
    assert conflicting.expected_score({"reply": solved(World("additive", 0))["reply"]}) < TARGET
    coupled = World("coupled", 0)
    both = solved(coupled)
    assert coupled.expected_score({**both, "note": coupled.texts["note"]}) < 0.6
    assert coupled.expected_score({**both, "reply": coupled.texts["reply"]}) == 0.0
    decoy = World("decoy", 0)
    both = solved(decoy)
    assert decoy.expected_score({**both, "note": decoy.texts["note"]}) > TARGET


@pytest.mark.parametrize(
    "layout",
    [
        "Improve:\n```\n{text}\n```\nSeen:\n```\n# Example 1\n{said}\n```\nReply in ``` blocks.",
        "<current_text>\n{text}\n</current_text>\n<feedback>{said}</feedback>\n<new_text>",
        "[[ ## current_instruction ## ]]\n{text}\n\n[[ ## examples ## ]]\n[{{'Feedback': '{said}'}}]",
    ],
)
def test_the_reflector_reads_any_layout_alike(layout: str) -> None:
    text = "Answer the request.\nFor dates, use iso form."
    found = []
    for seed in range(200):
        world = World("additive", seed)
        body = layout.format(text=text, said="the person part is not usable; the clock part is not usable")
        assert current_text(world, body) == text
        found.append(reflect(world, body))
    # One mention gives a rule away four times in ten; one rule in ten is lost; one reply in five gains a distractor.
    assert 60 <= sum("surname" in reply for reply in found) <= 100
    assert 60 <= sum("timezone" in reply for reply in found) <= 100
    assert 8 <= sum("iso" not in reply for reply in found) <= 34
    assert not any("currency" in reply for reply in found)


async def test_the_provider_counts_what_was_asked_and_the_default_reaches_the_target() -> None:
    world = World("additive", 0)
    with running() as provider:
        outcome = await run_ours(provider, world, "prompt-learning", 1000)
    assert outcome.reached is not None
    assert outcome.reached <= 200
    # One run beyond the budget finds the components; it is the program's, not the search's.
    assert (outcome.counts.task, outcome.counts.failed) == (outcome.evaluations + 1, 0)
    # Nobody is run twice on one example.
    assert outcome.counts.repeated <= outcome.counts.reflect
    assert world.expected_score(outcome.texts) >= TARGET


@pytest.mark.parametrize("family", ["faults", "conflicting"])
@pytest.mark.parametrize("contender", sorted(OURS))
async def test_the_same_prompts_at_any_concurrency(family: str, contender: str) -> None:
    world, found = World(family, 1), []
    with running() as provider:
        for concurrency in (1, 64):
            owner = f"c{concurrency}"
            found.append(await run_ours(provider, world, contender, 120, owner=owner, concurrency=concurrency))
    first, second = found
    assert first == second
    assert first.evaluations <= 120
    assert (first.counts.failed > 0) == (family == "faults")
    assert contender != "prompt-learning" or first.texts != world.texts


async def test_a_budget_of_calls_holds_by_the_providers_own_count() -> None:
    with running() as provider:
        for family in ("faults", "coupled"):
            world, budget = World(family, 2), Budget(calls=60)
            async with connected(provider.url, world, "tight"):
                optimizer = OURS["prompt-learning"](
                    validation=examples(world, "validation", 20), concurrency=64, seed=2
                )
                with enter_scope(budget=budget):
                    result = await optimizer.optimize(program(world), examples(world, "train", 40), WorldScorer(world))
            assert result.finish_reason == "budget:calls"
            assert provider.counts(world, "tight").calls <= 60


def test_the_provider_answers_in_the_form_asked_for_and_counts_repeats() -> None:
    world = World("additive", 0)
    said = "Answer the request.\n\nthe person part is not usable " * 9

    def ask(provider: SimulatedProvider, family: str, tail: str) -> tuple[int, str]:
        body = {"model": f"reflect/{family}/0/me", "messages": [{"role": "user", "content": said + tail}]}
        request = urllib.request.Request(f"{provider.url}/chat/completions", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return 200, json.load(response)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            error.close()
            return error.code, ""
        except (http.client.RemoteDisconnected, urllib.error.URLError):
            return 0, ""

    with running() as provider:
        assert ask(provider, "additive", "\nIn <new_text>.")[1].startswith("<new_text>\nAnswer")
        assert ask(provider, "additive", "\nReply in ``` blocks.")[1].startswith("```\nAnswer")
        sections = "\nbegin with `[[ ## new ## ]]`, end with [[ ## completed ## ]]"
        assert ask(provider, "additive", sections)[1].startswith("[[ ## new ## ]]\nAnswer")
        asked = "\nRespond with a JSON object of the field: `new`."
        assert json.loads(ask(provider, "additive", asked)[1])["new"].startswith("Answer")
        ask(provider, "additive", asked)
        counts = provider.counts(world, "me")
        assert (counts.reflect, counts.repeated, counts.failed) == (5, 1, 0)
        first = [ask(provider, "faults", f"\n{i}")[0] for i in range(60)]
        assert {200, 429, 500, 0} == set(first)
    with running() as provider:
        assert [ask(provider, "faults", f"\n{i}")[0] for i in range(60)] == first


async def test_a_small_budget_still_ships_what_can_be_shown() -> None:
    with running() as provider:
        outcome = await run_ours(provider, World("additive", 2), "prompt-learning", 100)
    assert outcome.evaluations <= 100
    assert outcome.texts != World("additive", 2).texts


def test_the_table_counts_runs_that_missed_as_beyond_all_others() -> None:
    def row(contender: str, reached: int | None) -> dict[str, object]:
        where = {"family": "additive", "seed": 0, "contender": contender, "worse": False, "calls": 100}
        return {**where, "reached": reached, "counts": {"repeated": 5}}

    lines = summary([row("gepa", 100), row("gepa", 200), row("gepa", None), row("prompt-learning", 80)])
    assert re.split(r"\s{2,}", lines[1].strip())[:4] == ["additive", "gepa", "2/3", "200"]
    assert " 0.40 " in lines[2]
