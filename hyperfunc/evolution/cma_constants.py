"""Recombination weights and learning rates of the CMA family (Hansen 2016, "The CMA Evolution Strategy: A Tutorial").

Functions of the dimension and of the number of members that count. Equation numbers are those of arXiv:1604.00772.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["CMAConstants", "cma_constants", "default_population_size"]


def default_population_size(dimensions: int) -> int:
    """``4 + ⌊3 ln n⌋``, the smallest population that is robust on unimodal functions (eq. 48)."""
    return 4 + math.floor(3 * math.log(max(dimensions, 1)))


@dataclass(frozen=True)
class CMAConstants:
    """Everything that depends only on dimension and population."""

    parents: Tensor  # [P] weights by rank, best first; the better half positive with sum 1, the rest 0
    weights: Tensor  # [P] weights by rank, the worse half negative ("active" covariance update)
    selection_mass: float  # μ_eff
    rank_one: float  # c_1
    rank_mu: float  # c_μ
    path_decay: float  # c_c
    step_decay: float  # c_σ
    step_damping: float  # d_σ
    expected_norm: float  # E‖N(0, I)‖


@lru_cache(maxsize=256)
def cma_constants(dimensions: int, members: int, *, separable: bool = False) -> CMAConstants:
    """The defaults of the tutorial; ``separable`` takes those of sep-CMA-ES (Ros and Hansen 2008).

    Args:
        dimensions: ``n``, at least 1.
        members: ``P``, at least 2.
    """
    n = dimensions
    parent_count = members // 2
    ranks = torch.arange(1, members + 1, dtype=torch.float64)
    raw = math.log((members + 1) / 2) - ranks.log()  # eq. 49
    positive, negative = raw.clamp(min=0), raw.clamp(max=0)
    selection_mass = float(raw[:parent_count].sum() ** 2 / raw[:parent_count].square().sum())
    negative_square = float(negative.square().sum())
    negative_mass = float(negative.sum() ** 2) / negative_square if negative_square > 0 else 0.0

    rank_one = 2 / ((n + 1.3) ** 2 + selection_mass)  # eq. 57
    rank_mu = min(1 - rank_one, 2 * (selection_mass - 2 + 1 / selection_mass + 0.25) / ((n + 2) ** 2 + selection_mass))
    if separable:  # far fewer numbers to learn, hence faster
        rank_one = min(1.0, rank_one * (n + 2) / 3)
        rank_mu = min(1 - rank_one, rank_mu * (n + 2) / 3)
    active = min(
        1 + rank_one / max(rank_mu, 1e-300),  # eq. 50
        1 + 2 * negative_mass / (selection_mass + 2),  # eq. 51
        (1 - rank_one - rank_mu) / (n * max(rank_mu, 1e-300)),  # eq. 52: keeps C positive definite
    )
    parents = positive / positive.sum()
    weights = parents + (negative * (active / float(-negative.sum())) if negative_square > 0 else 0)  # eq. 53
    step_decay = (selection_mass + 2) / (n + selection_mass + 5)  # eq. 55
    return CMAConstants(
        parents=parents,
        weights=weights,
        selection_mass=selection_mass,
        rank_one=rank_one,
        rank_mu=rank_mu,
        path_decay=(4 + selection_mass / n) / (n + 4 + 2 * selection_mass / n),  # eq. 56
        step_decay=step_decay,
        step_damping=1 + 2 * max(0.0, math.sqrt((selection_mass - 1) / (n + 1)) - 1) + step_decay,
        expected_norm=math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n)),
    )
