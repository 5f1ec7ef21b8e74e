"""``python -m demos.game_agent.web``: a page that trains an agent live and shows the curve and the agent."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

import torch
from matplotlib.figure import Figure

from demos.game_agent.agents import GAMES, train
from demos.game_agent.gridworld import GridWorld, draw
from hyperfunc import HyperSystem
from hyperfunc.errors import MissingDependencyError
from hyperfunc_agents import EpisodeResult, play

__all__ = ["build_page", "training"]


def curve(means: list[float], solved: float) -> Figure:
    """Mean return of the population by generation."""
    figure = Figure(figsize=(6.0, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(means) + 1), means, marker="o", markersize=3)
    axes.axhline(solved, linestyle="--", linewidth=1, color="gray")
    axes.set(xlabel="generation", ylabel="mean return of the population")
    return figure


async def episode_text(agent: HyperSystem, name: str, seed: int) -> str:
    """One episode of the agent as text."""
    game = GAMES[name]
    result: EpisodeResult = await play(agent, game.environment, seed, max_steps=game.max_steps)
    if not isinstance(game.environment, GridWorld):
        return result.describe(5)
    state = game.environment.reset(torch.Generator().manual_seed(seed))
    frames = [draw(state)]
    for step in result.trajectory:
        state = game.environment.step(state, step.action).state
        frames.append(draw(state))
    return "\n\n".join([result.describe(0), *frames])


async def training(name: str, seed: float) -> AsyncIterator[tuple[Figure, str, str]]:
    """Train; after every generation the curve, a line on where we are, and, at the end, an episode."""
    game = GAMES[name]
    means: list[float] = []
    news: asyncio.Queue[float | None] = asyncio.Queue()

    def heard(view: Any) -> None:
        news.put_nowait(view.generation.mean)

    task = asyncio.create_task(train(game, int(seed), heard))
    task.add_done_callback(lambda _: news.put_nowait(None))
    try:
        while (mean := await news.get()) is not None:
            means.append(mean)
            yield curve(means, game.solved), f"generation {len(means)}: mean return {mean:.2f}", ""
        agent, result = await task
        status = f"finished after {len(means)} generations: mean return {means[-1]:.2f}, {result.execution}"
        yield curve(means, game.solved), status, await episode_text(agent, name, 100)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def build_page() -> Any:
    """The page.

    Raises:
        MissingDependencyError: gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise MissingDependencyError("gradio", "demo-web") from error
    with gradio.Blocks(title="An agent learns to play") as page:
        gradio.Markdown("# An agent learns to play\nEvolution trains a small network; no gradients.")
        with gradio.Row():
            name = gradio.Dropdown([*GAMES], value="gridworld", label="game")
            seed = gradio.Number(0, label="seed", precision=0, minimum=0)
            start = gradio.Button("Train", variant="primary", elem_id="train")
        status = gradio.Textbox(label="progress", elem_id="status")
        plot = gradio.Plot(label="curve", elem_id="curve")
        episode = gradio.Textbox(label="an episode of the trained agent", lines=12, elem_id="episode")
        start.click(training, [name, seed], [plot, status, episode])
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7860)
    build_page().launch(server_name="127.0.0.1", server_port=parser.parse_args().port)
