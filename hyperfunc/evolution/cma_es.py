"""CMA-ES: a Gaussian that learns its whole covariance (Hansen 2016, "The CMA Evolution Strategy: A Tutorial").

    x = m + σ B D z,  z ~ N(0, I),  C = B D² Bᵀ
    m ← m + σ Σ parentsᵢ yᵢ                                   y = (x - m) / σ
    p_σ, p_c ← evolution paths
    C ← (1 - …) C + c_1 p_c p_cᵀ + c_μ Σ wᵢ yᵢ yᵢᵀ             with negative weights for the worse half
    σ ← σ exp(c_σ / d_σ (‖p_σ‖ / E‖N(0, I)‖ - 1))

The strategy for up to about a hundred coupled dimensions; memory and time grow with their square and cube. The state is
float64 whatever the parameters' dtype. Points beyond a bound are mirrored back inside for evaluation (see
:func:`~hyperfunc.evolution.vectors.fold`). A dropped member leaves a smaller population, with the weights of that size;
ties share the mean of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.cma_constants import CMAConstants, cma_constants
from hyperfunc.evolution.shaping import ShapedFitness, average_over_ties, shape_fitness
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.evolution.vectors import members_from, normal_draws, pack, values_at
from hyperfunc.population.members import MemberBlock

__all__ = ["CMAES", "CMAState", "Distribution", "initial_distribution", "sample", "update"]

LARGEST_SIGMA = 1e32


@dataclass(frozen=True)
class Distribution:
    """The search distribution ``N(m, σ² C)`` and what its adaptation remembers; float64, ``n`` dimensions."""

    mean: Tensor  # [n]
    sigma: float
    covariance: Tensor  # [n, n]
    basis: Tensor  # [n, n] B, of the last decomposition
    scales: Tensor  # [n] diagonal of D
    step_path: Tensor  # [n] p_σ
    covariance_path: Tensor  # [n] p_c
    updates: int


def initial_distribution(mean: Tensor, sigma: float) -> Distribution:
    """A sphere of deviation ``sigma`` around ``mean`` ``[n]``."""
    n = mean.shape[0]
    zeros, eye = torch.zeros(n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    return Distribution(mean, sigma, eye, eye, torch.ones(n, dtype=torch.float64), zeros, zeros, 0)


def sample(distribution: Distribution, draws: Tensor) -> Tensor:
    """Points ``[K, n]`` from standard normal ``draws`` ``[K, n]``."""
    return distribution.mean + distribution.sigma * (draws * distribution.scales) @ distribution.basis.T


def update(distribution: Distribution, points: Tensor, fitness: Tensor, constants: CMAConstants) -> Distribution:
    """One generation of selection and adaptation.

    Args:
        points: ``[P, n]`` as sampled, not folded.
        fitness: ``[P]``, finite, higher is better, not constant.
        constants: those for ``n`` and ``P``.
    """
    n = points.shape[1]
    c = constants
    y = (points - distribution.mean) / distribution.sigma
    y_mean = average_over_ties(fitness, c.parents) @ y

    # Step size: a path longer than that of random selection means that steps agree, so take larger ones.
    whiten = distribution.basis / distribution.scales  # [n, n] B D⁻¹
    step_path = (1 - c.step_decay) * distribution.step_path + math.sqrt(
        c.step_decay * (2 - c.step_decay) * c.selection_mass
    ) * (whiten @ (distribution.basis.T @ y_mean))
    length = float(step_path.norm())
    sigma = distribution.sigma * math.exp(min(1.0, c.step_decay / c.step_damping * (length / c.expected_norm - 1)))

    # Covariance: the path's direction (rank one) and the members' spread (rank μ, negative for the worse half).
    settled = length / math.sqrt(1 - (1 - c.step_decay) ** (2 * (distribution.updates + 1)))
    stalled = settled >= (1.4 + 2 / (n + 1)) * c.expected_norm  # h_σ = 0: σ is about to grow, do not stretch C as well
    covariance_path = (1 - c.path_decay) * distribution.covariance_path
    if not stalled:
        covariance_path = covariance_path + math.sqrt(c.path_decay * (2 - c.path_decay) * c.selection_mass) * y_mean
    weights = average_over_ties(fitness, c.weights)
    lengths = (y @ whiten).square().sum(dim=1)
    effective = torch.where(weights < 0, weights * n / lengths.clamp(min=1e-8), weights)  # eq. 46
    lost = c.path_decay * (2 - c.path_decay) if stalled else 0.0
    keep = 1 + c.rank_one * lost - c.rank_one - c.rank_mu * float(weights.sum())
    covariance = (
        keep * distribution.covariance
        + c.rank_one * torch.outer(covariance_path, covariance_path)
        + c.rank_mu * (y.T * effective) @ y
    )
    after = replace(
        distribution,
        mean=distribution.mean + distribution.sigma * y_mean,
        sigma=min(sigma, LARGEST_SIGMA),
        covariance=(covariance + covariance.T) / 2,
        step_path=step_path,
        covariance_path=covariance_path,
        updates=distribution.updates + 1,
    )
    # In high dimensions C changes little per generation; decomposing it now and then keeps the cost quadratic.
    interval = max(1, math.floor(1 / (10 * n * (c.rank_one + c.rank_mu))))
    return _decompose(after) if after.updates % interval == 0 else after


def _decompose(distribution: Distribution) -> Distribution:
    eigenvalues, basis = torch.linalg.eigh(distribution.covariance)
    # Rounding can leave an eigenvalue at or below zero: lift it to the smallest that float64 can tell from the largest.
    floor = float(eigenvalues[-1]) * 1e-20
    # LAPACK's column order would change the bits of later products once a saved state has lost it.
    basis = basis.contiguous()
    return replace(distribution, basis=basis, scales=eigenvalues.clamp(min=max(floor, 1e-300)).sqrt())


@dataclass(frozen=True)
class CMAState:
    """Distribution over latent vectors."""

    group: ParameterGroup
    devices: dict[str, str]  # name -> where the program wants the parameter
    distribution: Distribution
    seed: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class CMAES(Strategy[CMAState]):
    """CMA-ES.

    Args:
        population_size: :func:`~hyperfunc.evolution.cma_constants.default_population_size` is enough for smooth
            problems; larger ones see further on rugged or noisy fitness.
        sigma: initial deviation, in latent units; about a third of the distance to where the optimum may be.
    """

    name: ClassVar[str] = "cma-es"
    state_types: ClassVar[tuple[type, ...]] = (CMAState, Distribution)

    sigma: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0:
            raise ConfigurationError(f"sigma: expected above 0, got {self.sigma}")
        if self.population_size < 4:
            raise ConfigurationError(f"population_size: CMA-ES needs at least 4 members, got {self.population_size}")

    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> CMAState:
        mean = pack(group, group.to_latent(values))
        devices = {name: str(values[name].device) for name in group.names}
        return CMAState(group, devices, initial_distribution(mean, self.sigma), seed, 0)

    def ask(self, state: CMAState, block: int) -> MemberBlock:
        return members_from(state.group, self._points(state, block), state.devices)

    def tell(self, state: CMAState, fitness: Tensor, *, groups: Tensor | None = None) -> CMAState:
        relative = shape_fitness(self.check_fitness(fitness), "raw", twins=self.twins(), groups=groups)
        after = replace(state, generation=state.generation + 1)
        if not carries_ranks(relative):
            return after
        points = torch.cat([self._points(state, block) for block in self.blocks()])[relative.kept]
        constants = cma_constants(points.shape[1], relative.count)
        values = relative.weights[relative.kept]
        return replace(after, distribution=update(state.distribution, points, values, constants))

    def mean(self, state: CMAState) -> dict[str, Tensor]:
        return values_at(state.group, state.distribution.mean, state.devices)

    def step_size(self, state: CMAState) -> float:
        d = state.distribution
        return d.sigma * math.sqrt(float(d.covariance.diagonal().mean()))

    def generation(self, state: CMAState) -> int:
        return state.generation

    def _points(self, state: CMAState, block: int) -> Tensor:
        half = self.size_of(block) // 2 if self.antithetic else self.size_of(block)
        draws = normal_draws(state.group, state.seed, state.generation, block, half)
        draws = torch.cat([draws, -draws]) if self.antithetic else draws
        return sample(state.distribution, draws)


def carries_ranks(relative: ShapedFitness) -> bool:
    """Whether enough members remain, and differ, to select among them."""
    values = relative.weights[relative.kept]
    return relative.count >= 2 and bool((values != values[0]).any())
