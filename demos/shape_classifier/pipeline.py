"""The pipeline: features of patches, then a colour head and a shape head at the same time, then one answer."""

from __future__ import annotations

import asyncio

import torch
import torch.nn.functional as F
from torch import Tensor

from demos.shape_classifier.images import COLOURS, SHAPES
from hyperfunc import HyperSystem, LoRAWeight, hyperfunction

PATCH = 3
CHANNELS = 8


def with_one(x: Tensor) -> Tensor:
    """Append a constant 1 on the last axis, so that one matrix holds weights and bias."""
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)


def patches_of(image: Tensor) -> Tensor:
    """``[height, width]`` -> every ``PATCH`` × ``PATCH`` neighbourhood, ``[places, PATCH²]``."""
    return image.unfold(0, PATCH, 1).unfold(1, PATCH, 1).flatten(2).flatten(0, 1)


@hyperfunction(hp_type=LoRAWeight.create(CHANNELS, PATCH * PATCH + 1, noise_rank=1), optimize_hparams=True)
async def look_at_edges(image: Tensor, hp: LoRAWeight) -> Tensor:
    """Image ``[3, height, width]`` -> ``[CHANNELS]``: a convolution of its brightness, written as a product with
    patches, rectified; the mean over places, normalised."""
    seen = F.relu(with_one(patches_of(2 * image.amax(0) - 1)) @ hp.weight.T)
    return F.layer_norm(seen.mean(0), (CHANNELS,))


@hyperfunction(hp_type=LoRAWeight.create(len(SHAPES), CHANNELS + 1, noise_rank=1), optimize_hparams=True)
async def name_shape(features: Tensor, hp: LoRAWeight) -> Tensor:
    """Features -> log-probabilities of the shapes."""
    return F.log_softmax(with_one(features) @ hp.weight.T, -1)


@hyperfunction(hp_type=LoRAWeight.create(len(COLOURS), 4, noise_rank=1), optimize_hparams=True)
async def name_colour(image: Tensor, hp: LoRAWeight) -> Tensor:
    """Image -> log-probabilities of the colours, from its mean colour."""
    return F.log_softmax(with_one(F.layer_norm(image.mean((1, 2)), (3,))) @ hp.weight.T, -1)


class ShapeClassifier(HyperSystem):
    """Image -> log-probabilities of the nine classes, colour by colour."""

    async def run(self, image: Tensor) -> Tensor:
        colour, shape = await asyncio.gather(name_colour(image), name_shape(look_at_edges(image)))
        return (colour.unsqueeze(-1) + shape).flatten()
