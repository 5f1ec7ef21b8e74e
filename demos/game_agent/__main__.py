"""``python -m demos.game_agent``: train both agents, print the curve, play one episode."""

from __future__ import annotations

import argparse
import asyncio
import time

import torch

from demos.game_agent.agents import GAMES, Game, train
from demos.game_agent.gridworld import GridWorld, draw
from hyperfunc import HyperSystem
from hyperfunc.optimization.options import GenerationView
from hyperfunc_agents import episodes, play, summarize_returns


def report(view: GenerationView) -> None:
    """One line per generation."""
    generation = view.generation
    print(f"generation {generation.index + 1:3}  mean {generation.mean:8.2f}  best {generation.best:8.2f}")


async def show_gridworld(agent: HyperSystem, seed: int) -> None:
    """Play one episode in the grid and print it, cell by cell."""
    world = GridWorld()
    state = world.reset(torch.Generator().manual_seed(seed))
    result = await play(agent, world, seed)
    print(draw(state))
    for step in result.trajectory:
        state = world.step(state, step.action).state
    print(f"after {result.steps} steps, return {result.total_reward:.2f}:")
    print(draw(state))


async def main(names: list[str], seed: int) -> dict[str, float]:
    """Train and test every named game; mean return on episodes never met in training."""
    found: dict[str, float] = {}
    for name in names:
        game: Game = GAMES[name]
        started = time.perf_counter()
        agent, result = await train(game, seed, report)
        seconds = time.perf_counter() - started
        tests = episodes(game.environment, range(100, 130), max_steps=game.max_steps)
        played = [await agent.execute(example.inputs) for example in tests]
        summary = summarize_returns(played)
        low, high = summary.interval
        print(f"{name}: {result.execution}, {result.finish_reason}, {len(result.history)} generations, {seconds:.1f} s")
        print(f"{name}: {summary.mean:.2f} on {summary.episodes} new episodes (95 %: {low:.2f} to {high:.2f})")
        if name == "gridworld":
            await show_gridworld(agent, 100)
        else:
            print((await play(agent, game.environment, 100)).describe(3))
        found[name] = summary.mean
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train agents that play, by evolution.")
    parser.add_argument("--game", choices=[*GAMES], action="append", help="which game (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.game or [*GAMES], arguments.seed))
