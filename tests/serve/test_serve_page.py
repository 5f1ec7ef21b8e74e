"""The chat page in a real browser (Chromium, driven over its own protocol by ``playwright``).

Nothing here waits for a JavaScript expression: polling one needs ``eval``, which the page's policy forbids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperfunc_serve.demo_model import demo_model
from hyperfunc_serve.running import server_in_thread
from hyperfunc_serve.settings import ServerSettings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    yield opened
    opened.close()
    assert faults == []


def ask(page: Any, text: str) -> str:
    answers = page.locator(".assistant[data-done]").count()
    page.fill("#text", text)
    page.press("#text", "Enter")
    page.locator(".assistant[data-done]").nth(answers).wait_for()
    return str(page.locator(".assistant").last.text_content())


def test_a_conversation(page: Any, pictures: Path) -> None:
    with server_in_thread({"demo": demo_model, "other": lambda: demo_model("other", seed=1)}) as (url, app):
        page.goto(url)
        page.locator("#model option").nth(1).wait_for(state="attached")
        assert page.locator("#model option").count() == 2
        page.fill("#temperature", "0")
        page.fill("#tokens", "12")
        first = ask(page, "hello <b>there</b>")
        assert page.locator(".user").first.text_content() == "hello <b>there</b>"
        assert page.locator(".user b").count() == 0
        import httpx

        body = {"messages": [{"role": "user", "content": "hello <b>there</b>"}], "max_tokens": 12, "temperature": 0}
        expected = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).json()
        assert first == expected["choices"][0]["message"]["content"]
        page.screenshot(path=pictures / "serve-chat.png")
        page.select_option("#model", "other")
        ask(page, "again")
        assert set(app.state.gateway.cache.loaded()) == {"demo", "other"}
        page.fill("#temperature", "9")
        page.fill("#text", "too hot")
        page.click("#send")
        page.wait_for_selector(".error")
        assert "temperature" in str(page.locator(".error").text_content())


def test_stop_ends_the_answer(page: Any) -> None:
    with server_in_thread({"demo": lambda: demo_model(context=8192)}) as (url, app):
        page.goto(url)
        page.fill("#tokens", "4000")
        page.fill("#text", "write for a long time")
        page.click("#send")
        page.locator(".assistant", has_text=re.compile(".{4}", re.DOTALL)).wait_for()
        page.click("#stop")
        page.wait_for_selector(".assistant[data-done]")
        worker = app.state.gateway.cache.loaded()["demo"]
        page.wait_for_timeout(0)
        for _ in range(2000):
            if worker.pending == 0:
                break
            page.wait_for_timeout(5)
        assert worker.counters.cancelled == 1


def test_a_key_is_asked_for_and_sent(page: Any) -> None:
    settings = ServerSettings(port=0, api_key="secret")
    with server_in_thread({"demo": demo_model}, settings) as (url, _):
        page.goto(url)
        page.fill("#text", "hello")
        page.click("#send")
        page.wait_for_selector(".error")
        page.fill("#key", "secret")
        page.fill("#tokens", "5")
        assert len(ask(page, "hello again")) > 0
