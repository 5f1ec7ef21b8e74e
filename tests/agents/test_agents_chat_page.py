"""The chat demonstration: its guests, its scores, as a script, and as a page in a browser."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import hyperfunc_agents.plugin
from demos.chat_agent import __main__ as script
from demos.chat_agent import web
from demos.chat_agent.barista import Barista, examine, features, open_barista, train
from demos.chat_agent.guests import Guest, Service, guest_examples
from demos.chat_agent.phrases import DRINKS, INTENTS, PHRASES, REPLIES, intent_of
from hyperfunc.errors import MissingDependencyError
from hyperfunc.plugins import load_plugins
from hyperfunc_agents import ChatResponse


class Perfect(Barista):
    """Understands everything, and reads the drink out of what is remembered."""

    async def run(self, message: str, memory_context: str = "") -> ChatResponse:
        intent = intent_of(message)
        drink = next((drink for drink in DRINKS if drink in memory_context), "nothing")
        return ChatResponse(REPLIES[intent].format(drink=drink), intent == "thanks", {"intent": intent})


def barista_of(kind: type[Barista]) -> Barista:
    known = open_barista()
    return kind(memory=known.memory)


def said(guest: Guest, replies: list[str], **inputs: Any) -> list[str]:
    """What a guest says to a barista who gives these replies, whatever is said."""
    history: list[dict[str, str]] = []
    for turn, reply in enumerate([*replies, ""]):
        message = guest(history, goal="green tea", seed=3, turn=turn, **inputs)
        if message is None:
            break
        history += [{"role": "user", "content": message}, {"role": "assistant", "content": reply}]
    return [entry["content"] for entry in history[::2]]


def test_no_phrase_belongs_to_two_intents_and_new_phrases_are_new() -> None:
    trained = [phrase for phrases, _ in PHRASES.values() for phrase in phrases]
    new = [phrase for _, phrases in PHRASES.values() for phrase in phrases]
    assert len({*trained, *new}) == len(trained) + len(new)
    for intent, groups in PHRASES.items():
        for phrase in (*groups[0], *groups[1]):
            assert intent_of("Lovely weather! " + phrase.format(drink="lemonade")) == intent.replace(
                "complaint", "order"
            )
    assert {*INTENTS} == {*REPLIES}
    with pytest.raises(ValueError, match="no guest says"):
        intent_of("How tall is the tower?")


def test_a_guest_reacts_to_what_is_offered() -> None:
    guest = Guest()
    served = said(guest, ["hi", "noted", "until 8", "We recommend green tea", "bye"], persona="new guest, terse")
    assert [intent_of(message) for message in served][::4] == ["greeting", "thanks"]
    assert sorted(map(intent_of, served)) == sorted(["greeting", "taste", "hours", "order", "thanks"])
    assert "green tea" in next(message for message in served if intent_of(message) == "taste")
    for persona, orders in (("new guest, impatient", 1), ("new guest, terse", 2)):
        refused = said(guest, ["coffee"] * 20, persona=persona)
        assert [intent_of(message) for message in refused][3:] == ["order"] * orders  # then the guest leaves
    regular = said(guest, ["hi", "until 8", "green tea", "bye"], persona="regular guest, terse")
    assert [intent_of(message) for message in regular] == ["greeting", "hours", "order", "thanks"]
    assert served == said(
        guest, ["hi", "noted", "until 8", "We recommend green tea", "bye"], persona="new guest, terse"
    )


async def test_a_perfect_barista_scores_one_and_needs_the_memory_for_it() -> None:
    barista = barista_of(Perfect)
    found = await examine(barista, guests=12)
    assert (found.score, found.served, found.served_without_memory) == (1.0, 1.0, 0.0)
    assert barista.memory is not None
    assert barista.memory.count() == len(DRINKS)  # visits have left nothing behind
    example = guest_examples(1, 0)[0]
    scored = Service().score(
        await barista.execute({**example.inputs, "use_memory": False}), example.expected, example.inputs
    )
    assert scored.score is not None
    assert 0.0 < scored.score < 1.0
    assert "does not answer" in scored.feedback


def test_words_are_what_the_barista_sees() -> None:
    assert torch.equal(features("Green TEA!"), features("tea, green"))
    assert features("").sum() == 0


@pytest.mark.slow
async def test_a_few_generations_already_help() -> None:
    barista = open_barista(0)
    before = await examine(barista, guests=10)
    result = await train(barista, 0, steps=8, guests=3)
    after = await examine(barista, guests=10)
    assert result.execution == "gathered"
    assert after.score > before.score + 0.1
    assert barista.memory is not None
    assert barista.memory.count() == len(DRINKS)


async def test_the_script_tells_the_curve_and_two_visits(capsys: pytest.CaptureFixture[str]) -> None:
    await script.main(0, steps=1)
    told = capsys.readouterr().out
    assert re.search(r"generation   1  mean  0\.\d+", told)
    assert re.search(r"after : score 0\.\d\d on new guests", told)
    assert told.count("Ann: Hello") == 2


def test_the_script_says_what_it_can_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["chat_agent", "--help"])
    monkeypatch.delitem(sys.modules, "demos.chat_agent.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("demos.chat_agent", run_name="__main__")
    assert ended.value.code == 0
    assert "--seed" in capsys.readouterr().out


async def test_the_page_is_told_of_every_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "STEPS", 2)
    visit = web.Visit()
    untrained = visit.barista
    heard = [(status, guest) async for _, status, guest in web.training(visit, 0)]
    assert [status.partition(":")[0] for status, _ in heard] == ["generation 1 of 2", "generation 2 of 2", "finished"]
    assert heard[-1][1].startswith("User: ")
    assert visit.barista is not untrained


async def test_who_comes_back_is_remembered() -> None:
    visit = web.Visit()
    visit.barista = barista_of(Perfect)
    visit.begin()
    assert await web.talk(visit, "  ", []) == ("", [])
    _, shown = await web.talk(visit, "My favourite drink is lemonade.", [])
    assert shown[1] == {"role": "assistant", "content": REPLIES["taste"]}
    assert await visit.say("Thanks, see you!") == REPLIES["thanks"]
    assert visit.conversation.done
    assert await visit.say("Which drink should I have?") == "I recommend our lemonade."
    assert len(visit.conversation.history) == 2  # it is another visit


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingDependencyError, match=r"hyperfunc\[demo-web\]"):
        web.build_page()


@contextmanager
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the extra demo-web is not installed")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    plugins = load_plugins([("agents", hyperfunc_agents.plugin)], entry_points=False)
    monkeypatch.setattr("hyperfunc.plugins._process_plugins", lambda: plugins)  # the server's threads have no context
    page: Any = web.build_page()
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        yield address
    finally:
        page.close()


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")  # gradio's own dependencies warn at import
def test_a_barista_is_trained_in_the_browser_and_talks(
    chromium: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    monkeypatch.setattr(web, "STEPS", 3)
    with served(monkeypatch) as address, playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.goto(address)
        tab.locator("#train").click()
        status = tab.locator("#status textarea")
        playwright.expect(status).to_have_value(re.compile("finished"), timeout=180_000)
        assert tab.locator("#curve img").count() == 1
        assert "User:" in tab.locator("#guest textarea").input_value()
        for text in ("My favourite drink is lemonade.", "Which drink should I have?"):
            tab.locator("#message textarea").fill(text)
            tab.locator("#message textarea").press("Enter")
            playwright.expect(tab.locator("#message textarea")).to_have_value("", timeout=60_000)
            playwright.expect(tab.locator("#chat")).to_contain_text(text)
        playwright.expect(tab.locator("#chat .bot.message")).to_have_count(2, timeout=60_000)
        tab.screenshot(path=pictures / "gradio-chat.png", full_page=True)
        browser.close()
