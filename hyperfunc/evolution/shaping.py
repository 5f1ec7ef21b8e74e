"""From fitness to weights: which members count, and how much each pulls.

Three rules hold for every shaping:

- NaN and infinite fitness never counts: weight 0, and in antithetic populations the twin's weight is 0 too, since half
  a pair is a biased estimate.
- Ties share the mean of the ranks that they occupy; the order of members says nothing.
- Constant fitness carries no information: all weights are exactly 0, and strategies then take no step at all.

Knows nothing of noise or parameters. Everything is float64 on the CPU: ``P`` numbers per generation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError, ShapeError

__all__ = [
    "ShapedFitness",
    "Shaping",
    "ShapingName",
    "average_over_ties",
    "best_index",
    "centered_ranks",
    "kept_members",
    "raw",
    "resolve_shaping",
    "shape_fitness",
    "z_score",
]

Shaping = Callable[[Tensor], Tensor]
"""Finite fitness of the kept members ``[n]`` -> their weights ``[n]``."""

ShapingName = Literal["centered_ranks", "raw", "z_score"]


def raw(fitness: Tensor) -> Tensor:
    """Fitness as it is: the estimate is the gradient of the smoothed fitness itself, in its own units."""
    return fitness


def z_score(fitness: Tensor) -> Tensor:
    """``(f - mean) / std``: invariant to the scale and offset of fitness, sensitive to outliers."""
    centered = fitness - fitness.mean()
    return centered / centered.square().mean().sqrt()


def centered_ranks(fitness: Tensor) -> Tensor:
    """Ranks spread over ``[-0.5, 0.5]``, ties averaged: invariant to every monotone change of fitness."""
    count = fitness.shape[0]
    ladder = torch.arange(count, dtype=torch.float64) / max(count - 1, 1) - 0.5
    return average_over_ties(fitness, ladder.flip(0))


def average_over_ties(fitness: Tensor, weights_by_rank: Tensor) -> Tensor:
    """Give each member the weight of its rank, best first; equal members share the mean of their ranks' weights.

    Args:
        fitness: ``[n]``, finite.
        weights_by_rank: ``[n]``, the weight of the best, second best, … member.

    Returns:
        ``[n]`` weights in member order.
    """
    _, level = torch.unique(-fitness, return_inverse=True)  # level 0 is the best value
    counts = torch.bincount(level)
    ends = counts.cumsum(0)
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), weights_by_rank.cumsum(0)])
    means = (sums[ends] - sums[ends - counts]) / counts
    # A rank of its own keeps its weight exactly; only real ties go through the difference of cumulated sums.
    means = torch.where(counts == 1, weights_by_rank[ends - 1], means)
    return means[level]


_SHAPINGS: dict[str, Shaping] = {"centered_ranks": centered_ranks, "raw": raw, "z_score": z_score}


def resolve_shaping(shaping: ShapingName | Shaping) -> Shaping:
    """A shaping by name, or the given function.

    Raises:
        ConfigurationError: no such name.
    """
    if callable(shaping):
        return shaping
    if shaping not in _SHAPINGS:
        raise ConfigurationError(
            f"shaping: expected one of {', '.join(sorted(_SHAPINGS))} or a function, got {shaping!r}"
        )
    return _SHAPINGS[shaping]


@dataclass(frozen=True)
class ShapedFitness:
    """What a generation has to say: each member's weight, and how many members it rests on."""

    weights: Tensor  # [P] float64, 0 for dropped members
    kept: Tensor  # [P] bool
    count: int  # number of kept members

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to learn: every weight is exactly 0."""
        return not bool(self.weights.any())


def kept_members(fitness: Tensor, twins: Tensor | None = None) -> Tensor:
    """``[P]`` bool: finite, and with a finite twin where there are twins."""
    finite = torch.isfinite(fitness)
    return finite if twins is None else finite & finite[twins]


def best_index(fitness: Tensor) -> int | None:
    """The first member of highest finite fitness; ``None`` when no fitness is finite."""
    finite = torch.isfinite(fitness)
    if not bool(finite.any()):
        return None
    return int(torch.where(finite, fitness.double(), torch.tensor(-torch.inf, dtype=torch.float64)).argmax())


def relative_to_group(fitness: Tensor, groups: Tensor) -> Tensor:
    """Subtract each group's mean; a group of equal members becomes exactly 0, whatever rounding does to its mean."""
    labels, index = torch.unique(groups, return_inverse=True)
    result = torch.empty_like(fitness)
    for label in range(labels.shape[0]):
        members = index == label
        values = fitness[members]
        constant = bool((values == values[0]).all())
        result[members] = torch.zeros_like(values) if constant else values - values.mean()
    return result


def shape_fitness(
    fitness: Tensor,
    shaping: ShapingName | Shaping,
    *,
    twins: Tensor | None = None,
    groups: Tensor | None = None,
) -> ShapedFitness:
    """Weights of a whole generation, under the three rules of this module.

    Args:
        fitness: ``[P]`` float64, higher is better, NaN or infinite where dropped.
        twins: ``[P]`` index of each member's antithetic twin.
        groups: ``[P]`` integers; each group's mean is subtracted first, then ``shaping`` sees all members at once
            (for ``z_score``: relative to the group's mean, in units of the global deviation, as in EGGROLL).

    Raises:
        ShapeError: ``groups`` has another shape than ``fitness``.
    """
    if groups is not None and groups.shape != fitness.shape:
        raise ShapeError(f"groups: expected shape {list(fitness.shape)}, got {list(groups.shape)}")
    kept = kept_members(fitness, twins)
    weights = torch.zeros_like(fitness)
    count = int(kept.sum())
    if count >= 2:
        values = fitness[kept]
        if groups is not None:
            values = relative_to_group(values, groups.to(values.device)[kept])
        if bool((values != values[0]).any()):
            weights[kept] = resolve_shaping(shaping)(values)
    return ShapedFitness(weights, kept, count)
