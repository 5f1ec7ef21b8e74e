"""GridWorld as a tensor environment: reach the goal, stay out of the pits. Environment and policy run as one kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfunc_agents import TensorEnvironment, Transition

__all__ = ["MOVES", "SIZE", "GridWorld", "draw"]

SIZE = 7
PITS = 5
MOVES = torch.tensor([[-1, 0], [1, 0], [0, -1], [0, 1]])  # up, down, left, right
GOAL_REWARD, PIT_REWARD, STEP_REWARD = 1.0, -1.0, -0.02


class GridWorld(TensorEnvironment):
    """A ``SIZE`` × ``SIZE`` grid with a goal and pits at cells of the episode's own.

    State: cells ``[2 + PITS, 2]`` of the agent, the goal and the pits. Observation ``[10]``: the way to the goal (2,
    in grid widths), its signs (2), whether a pit (4) lies next to the agent, up, down, left and right, and whether the
    way is longer upright (1) or across (1). Actions: 0 up, 1 down, 2 left, 3 right; walls hold the agent back.
    """

    max_steps = 30

    def reset(self, generator: torch.Generator) -> Tensor:
        cells = torch.randperm(SIZE * SIZE, generator=generator)[: 2 + PITS]
        return torch.stack([cells // SIZE, cells % SIZE], -1)

    def observe(self, state: Tensor) -> Tensor:
        agent, goal, pits = state[0], state[1], state[2:]
        way = (goal - agent).float()
        beside = ((agent + MOVES).unsqueeze(1) == pits).all(-1).any(-1).float()
        upright, across = way.abs().unbind()
        longer = torch.stack([upright > across, across > upright]).float()
        return torch.cat([way / SIZE, way.sign(), beside, longer])

    def step(self, state: Tensor, action: Any) -> Transition:
        agent = (state[0] + MOVES[action]).clamp(0, SIZE - 1)
        found = (agent == state[1]).all()
        fell = (agent == state[2:]).all(-1).any()
        reward = STEP_REWARD + GOAL_REWARD * found + PIT_REWARD * fell
        return Transition(torch.cat([agent.unsqueeze(0), state[1:]]), reward, found | fell)


def draw(state: Tensor) -> str:
    """The grid as text: A agent, G goal, # pit; a star where the agent has reached the goal."""
    rows = [["·"] * SIZE for _ in range(SIZE)]
    for cell in state[2:].tolist():
        rows[cell[0]][cell[1]] = "#"
    (agent_row, agent_column), (goal_row, goal_column) = state[:2].tolist()
    rows[goal_row][goal_column] = "G"
    rows[agent_row][agent_column] = "*" if rows[agent_row][agent_column] == "G" else "A"
    return "\n".join(" ".join(row) for row in rows)
