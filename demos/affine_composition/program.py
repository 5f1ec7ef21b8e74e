"""A system that holds two others: one program twice, each with parameters of its own. Knows nothing of training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperfunc import Example, HyperSystem, LoRAWeight, hyperfunction

ANGLE, SCALE, SHIFT = 0.7, 1.5, (0.5, -1.0)


@hyperfunction(hp_type=LoRAWeight.create(2, 3), optimize_hparams=True)
async def affine(point: Tensor, hp: LoRAWeight) -> Tensor:
    """``[2]`` -> ``[2]``; the last column of the matrix is the shift."""
    return torch.cat([point, point.new_ones(1)]) @ hp.weight.T


class Affine(HyperSystem):
    """One affine map of the plane."""

    async def run(self, point: Tensor) -> Tensor:
        return await affine(point)


class Composition(HyperSystem):
    """Two affine maps, one after the other: ``first.affine.hp`` and ``second.affine.hp`` are different parameters."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.first = Affine(seed=2 * seed)
        self.second = Affine(seed=2 * seed + 1)

    async def run(self, point: Tensor) -> Tensor:
        return await self.second.run(await self.first.run(point))


def wanted(point: Tensor) -> Tensor:
    """Rotate by 0.7 rad, scale by 1.5, shift."""
    rotation = torch.tensor([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])
    return SCALE * rotation @ point + torch.tensor(SHIFT)


def make_examples(count: int, seed: int) -> list[Example]:
    """Normally distributed points and where they belong."""
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return [Example({"point": point}, wanted(point)) for point in points]
