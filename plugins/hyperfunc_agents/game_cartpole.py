"""CartPole as a tensor environment: the equations and limits of gymnasium's CartPole-v1, in float32.

Barto, Sutton & Anderson 1983 (doi:10.1109/TSMC.1983.6313077); equations of motion as corrected by Florian
(coneural.org/florian/papers/05_cart_pole.pdf). Starting states come from torch's generator, not from numpy's: an
episode of one seed is another one than gymnasium's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hyperfunc_agents.game_tensor import TensorEnvironment, Transition

__all__ = ["TensorCartPole"]

GRAVITY = 9.8
POLE_MASS = 0.1
TOTAL_MASS = 1.1
HALF_LENGTH = 0.5
POLE_MOMENT = POLE_MASS * HALF_LENGTH
FORCE = 10.0  # newton
TAU = 0.02  # seconds between states
MAX_POSITION = 2.4
MAX_ANGLE = 12 * 2 * math.pi / 360


class TensorCartPole(TensorEnvironment):
    """State and observation: position, velocity, angle, angular velocity, ``[4]``. Actions: 0 (left), 1 (right).
    Reward 1 for every action; ends when the pole leans 12 degrees or the cart leaves ±2.4."""

    max_steps = 500

    def reset(self, generator: torch.Generator) -> Tensor:
        return torch.rand(4, generator=generator) * 0.1 - 0.05

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(self, state: Tensor, action: Any) -> Transition:
        position, velocity, angle, spin = state.unbind()
        force = (action * 2 - 1) * FORCE
        sine, cosine = angle.sin(), angle.cos()
        push = (force + POLE_MOMENT * spin * spin * sine) / TOTAL_MASS
        turn = (GRAVITY * sine - cosine * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cosine * cosine / TOTAL_MASS))
        shove = push - POLE_MOMENT * turn * cosine / TOTAL_MASS
        rate = torch.stack([velocity, shove, spin, turn])
        after = state + TAU * rate
        out = (after[0].abs() > MAX_POSITION) | (after[2].abs() > MAX_ANGLE)
        return Transition(after, torch.ones_like(position), out)
