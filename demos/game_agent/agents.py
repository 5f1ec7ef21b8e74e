"""The agents and how they are trained. Each is a few lines around one small network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from demos.game_agent.gridworld import GridWorld
from hyperfunc import AgentType, Example, HyperSystem, OptimizeResult, hyperfunction
from hyperfunc.evolution.gradient import GradientAscent
from hyperfunc.evolution.pgpe import PGPE
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.optimization.options import Callback
from hyperfunc_agents import EpisodeReturn, GameResponse, episodes

__all__ = ["GAMES", "Game", "NetworkAgent", "PGPEByRadius", "train"]


class NetworkAgent(HyperSystem):
    """Takes the action that a network of two layers scores highest."""

    agent_type = AgentType.GAME

    def __init__(self, inputs: int, hidden: int, actions: int, **options: Any) -> None:
        super().__init__(**options)
        network = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, actions))
        for weight in network.parameters():
            nn.init.zeros_(weight)  # PGPE's usual start: all directions are open
        self.network = hyperfunction(network, optimize_hparams=True)

    async def run(self, observation: Tensor) -> GameResponse:
        return GameResponse((await self.network(observation)).argmax(-1))


@dataclass(frozen=True)
class PGPEByRadius:
    """PGPE as Toklu et al. (2020) set it up: by the radius of the first search distribution.

    Args:
        radius: norm of a typical perturbation of all parameters together.
        center_lr: ClipUp's step size for the centre.
    """

    population_size: int = 40
    radius: float = 3.5
    center_lr: float = 1.0
    deviation_lr: float = 0.2
    steps: int = 25

    def build(self, group: ParameterGroup) -> PGPE:
        return PGPE(
            population_size=self.population_size,
            sigma=self.radius / group.size**0.5,
            ascent=GradientAscent("clipup", lr=self.center_lr),
            deviation_lr=self.deviation_lr,
            shaping="z_score",
        )


@dataclass(frozen=True)
class Game:
    """One game: who plays it, in what, and what counts as solved."""

    agent: Callable[[int], HyperSystem]
    environment: Any
    optimizer: PGPEByRadius
    episodes: int  # per member and generation
    solved: float  # mean return of a population
    max_steps: int


GAMES = {
    "cartpole": Game(lambda seed: NetworkAgent(4, 16, 2, seed=seed), "CartPole-v1", PGPEByRadius(), 4, 475.0, 500),
    "gridworld": Game(
        lambda seed: NetworkAgent(10, 16, 4, seed=seed), GridWorld(), PGPEByRadius(64, 4.0, 0.6, 0.1, 60), 32, 0.6, 30
    ),
}


def training_episodes(game: Game, seed: int) -> list[Example]:
    """Fresh episodes for every generation, the same for all members: common random numbers."""
    first = 1_000_000 * (1 + seed)
    count = game.episodes * game.optimizer.steps
    return episodes(game.environment, range(first, first + count), max_steps=game.max_steps)


async def train(game: Game, seed: int = 0, callback: Callback | None = None) -> tuple[HyperSystem, OptimizeResult]:
    """Train an agent until its population solves the game on average, or the generations are used up."""
    agent = game.agent(seed)
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = await agent.optimize_tensors(
            training_episodes(game, seed),
            EpisodeReturn(),
            episodes(game.environment, range(10), max_steps=game.max_steps),
            optimizer=game.optimizer,
            minibatch=game.episodes,
            seed=seed,
            validate_every=5,
            callbacks=[*([callback] if callback else []), lambda view: view.generation.mean > game.solved],
        )
    finally:
        torch.set_num_threads(found)
    return agent, result
