"""What OpenAI-ES and EGGROLL share: a centre that follows an estimated gradient, under noise of a scheduled size.

    xᵢ = m ± σ εᵢ,    ĝ = 1 / (P σ) · Σᵢ wᵢ εᵢ,    m ← optimizer(m, ĝ)

The algorithms differ only in ``ε``: how a block perturbs (``ask``) and how its noise is summed up (``block_gradient``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.gradient import GradientAscent, OptimizerState
from hyperfunc.evolution.schedules import CONSTANT_SIGMA, SigmaSchedule
from hyperfunc.evolution.shaping import Shaping, ShapingName, resolve_shaping, shape_fitness
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec
from hyperfunc.population.noise import NoiseKind
from hyperfunc.population.update import blocked_sum

__all__ = ["CenterState", "CenterStrategy"]


@dataclass(frozen=True)
class CenterState:
    """The whole state of a strategy that moves a centre."""

    group: ParameterGroup
    center: dict[str, Tensor]  # name -> [*shape], latent, master dtype
    optimizer: OptimizerState
    seed: int
    generation: int


@dataclass(frozen=True, kw_only=True)
class CenterStrategy(Strategy[CenterState]):
    """Settings and steps that do not depend on the kind of noise.

    Args:
        sigma: standard deviation of the noise, in latent units (of the range, for bounded dimensions).
        ascent: the optimizer that follows the estimated gradient.
        shaping: how fitness becomes weights.
        noise: distribution of the draws.
        sigma_schedule: factor on ``sigma`` per generation.
        antithetic: pairs ``±ε``, on by default: the mean of fitness cancels exactly.
    """

    state_types: ClassVar[tuple[type, ...]] = (CenterState,)

    antithetic: bool = True
    sigma: float = 0.05
    ascent: GradientAscent = field(default_factory=GradientAscent)
    shaping: ShapingName | Shaping = "z_score"
    noise: NoiseKind = "gaussian"
    sigma_schedule: SigmaSchedule = CONSTANT_SIGMA

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_shaping(self.shaping)
        if not self.sigma > 0:
            raise ConfigurationError(f"sigma: expected above 0, got {self.sigma}")
        if self.noise not in ("gaussian", "rademacher"):
            raise ConfigurationError(f"noise: expected 'gaussian' or 'rademacher', got {self.noise!r}")

    @abstractmethod
    def block_gradient(
        self,
        state: CenterState,
        name: str,
        spec: ParameterSpec,
        block: int,
        weights: Tensor,  # one per draw: [K/2] differences f⁺ - f⁻ of pairs, or [K]
    ) -> Tensor:
        """``Σᵢ weightsᵢ · εᵢ`` over one block's draws of one parameter, ``[*shape]``."""

    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> CenterState:
        return CenterState(group, group.to_latent(values), {}, seed, 0)

    def tell(self, state: CenterState, fitness: Tensor, *, groups: Tensor | None = None) -> CenterState:
        shaped = shape_fitness(self.check_fitness(fitness), self.shaping, twins=self.twins(), groups=groups)
        after = replace(state, generation=state.generation + 1)
        if shaped.is_silent:
            return after
        scaled = shaped.weights / (shaped.count * self.sigma_at(state))
        draw_weights = [self.weights_per_draw(scaled[self.members_of(block)]) for block in self.blocks()]
        gradient = {
            name: blocked_sum(self.block_gradient(state, name, spec, b, w) for b, w in enumerate(draw_weights))
            for name, spec in state.group.parameters.items()
        }
        specs = state.group.parameters
        unbounded = [name for name, spec in specs.items() if spec.bounds is None]
        center, optimizer = self.ascent.step(state.center, gradient, state.optimizer, decayed=unbounded)
        return replace(after, center={n: specs[n].project(c) for n, c in center.items()}, optimizer=optimizer)

    def weights_per_draw(self, weights: Tensor) -> Tensor:
        """A block's member weights ``[K]`` as one weight per draw: ``f⁺ - f⁻`` for pairs."""
        if not self.antithetic:
            return weights
        plus, minus = weights.chunk(2)
        return plus - minus

    def draw_count(self, block: int) -> int:
        """Independent draws in a block: half its members where they are twins."""
        return self.size_of(block) // (2 if self.antithetic else 1)

    def mean(self, state: CenterState) -> dict[str, Tensor]:
        return state.group.to_value(state.center)

    def sigma_at(self, state: CenterState) -> float:
        """σ of the state's generation."""
        return self.sigma * self.sigma_schedule(state.generation)

    def step_size(self, state: CenterState) -> float:
        return self.sigma_at(state)

    def generation(self, state: CenterState) -> int:
        return state.generation
