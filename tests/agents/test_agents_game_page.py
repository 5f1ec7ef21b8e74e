"""The demonstrations: as scripts, and as a page in a browser."""

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
from demos.game_agent.agents import GAMES, train
from demos.game_agent.gridworld import SIZE, GridWorld, draw
from demos.game_agent.web import build_page, episode_text, training
from hyperfunc.errors import MissingDependencyError
from hyperfunc.plugins import load_plugins


def test_gridworld_is_a_grid_with_walls_pits_and_a_goal():
    world = GridWorld()
    state = torch.tensor([[0, 0], [0, 2], [1, 0], [6, 6], [6, 5], [6, 4], [6, 3]])
    assert world.observe(state).tolist()[2:8] == [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]  # goal to the right, a pit below
    held, fell = world.step(state, torch.tensor(0)), world.step(state, torch.tensor(1))
    assert held.state[0].tolist() == [0, 0]
    assert (bool(held.terminated), bool(fell.terminated)) == (False, True)
    assert float(fell.reward) == pytest.approx(-1.02)
    there = world.step(world.step(state, torch.tensor(3)).state, torch.tensor(3))
    assert bool(there.terminated)
    assert float(there.reward) == pytest.approx(0.98)
    assert draw(there.state).splitlines()[0].split()[2] == "*"
    assert draw(state).count("#") == 5
    assert len(draw(state).splitlines()) == SIZE


def test_episodes_of_one_seed_begin_alike_and_on_free_cells():
    world = GridWorld()
    first, again = (world.reset(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert len({tuple(cell) for cell in first.tolist()}) == len(first)


@pytest.mark.slow
async def test_the_grid_agent_learns():
    agent, result = await train(GAMES["gridworld"], seed=0)
    assert result.execution == "lifted"
    assert result.history[-1].mean > GAMES["gridworld"].solved
    told = await episode_text(agent, "gridworld", 100)
    assert "reached an end" in told


async def test_the_page_is_told_of_every_generation(monkeypatch: pytest.MonkeyPatch):
    from dataclasses import replace

    short = replace(GAMES["gridworld"], optimizer=replace(GAMES["gridworld"].optimizer, steps=2), episodes=2)
    monkeypatch.setitem(GAMES, "gridworld", short)
    said = [(status, episode) async for _, status, episode in training("gridworld", 0)]
    assert [status.partition(":")[0] for status, _ in said] == [
        "generation 1",
        "generation 2",
        "finished after 2 generations",
    ]
    assert "A" in said[-1][1]


def test_the_script_says_what_it_can_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["game_agent", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("demos.game_agent", run_name="__main__")
    assert ended.value.code == 0
    assert "gridworld" in capsys.readouterr().out


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingDependencyError, match=r"hyperfunc\[demo-web\]"):
        build_page()


@contextmanager
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the extra demo-web is not installed")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    plugins = load_plugins([("agents", hyperfunc_agents.plugin)], entry_points=False)
    monkeypatch.setattr("hyperfunc.plugins._process_plugins", lambda: plugins)  # the server's threads have no context
    page: Any = build_page()
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        yield address
    finally:
        page.close()


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")  # gradio's own dependencies warn at import
def test_an_agent_is_trained_in_the_browser(chromium: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with served(monkeypatch) as address, playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(address)
        tab.locator("#train").click()
        status = tab.locator("#status textarea")
        playwright.expect(status).to_have_value(re.compile("finished after"), timeout=120_000)
        assert "lifted" in status.input_value()
        assert "The episode" in tab.locator("#episode textarea").input_value()
        assert tab.locator("#curve img").count() == 1
        tab.screenshot(path=pictures / "gradio-game.png", full_page=True)
        browser.close()
