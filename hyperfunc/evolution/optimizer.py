"""``ESHybridSystemOptimizer``: the settings that users give, and the strategy that they amount to.

Knows strategies and parameter groups; the loop that runs programs is in :mod:`hyperfunc.optimize`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.cma_es import CMAES
from hyperfunc.evolution.eggroll import Eggroll
from hyperfunc.evolution.gradient import GradientAscent, OptimizerFactory, OptimizerName, SchedulerFactory
from hyperfunc.evolution.hybrid import assemble, assign
from hyperfunc.evolution.ipop_cma_es import IPOPCMAES
from hyperfunc.evolution.openai_es import OpenAIES
from hyperfunc.evolution.pgpe import PGPE
from hyperfunc.evolution.schedules import CONSTANT_SIGMA, SigmaSchedule
from hyperfunc.evolution.sep_cma_es import SepCMAES
from hyperfunc.evolution.shaping import Shaping, ShapingName
from hyperfunc.evolution.snes import SNES
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.noise import NoiseKind

__all__ = ["ESHybridSystemOptimizer", "NoOpSystemOptimizer", "StrategyChoice"]

StrategyChoice = str | Strategy[Any]
"""A built-in strategy's name, set up with the optimizer's own sigma, lr and so on, or a strategy as it is."""

SETTING_SIGMA_LIMITS = (1e-4, 0.5)


@dataclass(frozen=True)
class ESHybridSystemOptimizer:
    """Evolve a system's tensors: EGGROLL for matrices, a strategy that adapts σ for scalars and bounded settings.

    Args:
        steps: generations.
        pop_size: members per generation; even when ``antithetic``.
        sigma: deviation of the noise; for bounded dimensions in units of their range.
        lr: learning rate of ``optimizer``.
        rank: rank of the noise of matrices that name none themselves.
        device: where evolving tensors live; ``None`` leaves them where they are.
        normalize_fitness: shape fitness by ``shaping``; otherwise use it raw.
        antithetic: members in pairs ``±noise``.
        seed: of all noise; the same seed and settings give the same run. 0 is a seed like any other.
        strategy: ``"hybrid"``, or one strategy for all parameters.
        strategies: parameter name or pattern -> strategy, before ``strategy`` has its say.
        settings_strategy: what ``"hybrid"`` gives to scalars, bounded and integer parameters.
        settings_sigma: its first deviation; ``None`` takes ``sigma``.
        optimizer: ``"adam"``, ``"sgd"``, ``"clipup"`` or a factory of a ``torch.optim`` optimizer.
        scheduler: factory of an lr scheduler.
        weight_decay: decoupled decay of unbounded parameters.
        shaping: ``"z_score"``, ``"centered_ranks"``, ``"raw"`` or a function.
        noise: ``"gaussian"`` or ``"rademacher"``.
        sigma_schedule: factor on ``sigma`` by generation.
        block_size: members per block; 0: the whole population up to 64.

    Raises:
        ConfigurationError: a number out of range, or an unknown name.
    """

    steps: int = 50
    pop_size: int = 32
    sigma: float = 0.05
    lr: float = 0.1
    rank: int = 4
    device: torch.device | str | None = None
    normalize_fitness: bool = True
    antithetic: bool = True
    seed: int = field(default=0, kw_only=True)
    strategy: StrategyChoice = field(default="hybrid", kw_only=True)
    strategies: Mapping[str, StrategyChoice] = field(default_factory=dict, kw_only=True)
    settings_strategy: StrategyChoice = field(default="snes", kw_only=True)
    settings_sigma: float | None = field(default=None, kw_only=True)
    optimizer: OptimizerName | OptimizerFactory = field(default="adam", kw_only=True)
    scheduler: SchedulerFactory | None = field(default=None, kw_only=True)
    weight_decay: float = field(default=0.0, kw_only=True)
    shaping: ShapingName | Shaping = field(default="z_score", kw_only=True)
    noise: NoiseKind = field(default="gaussian", kw_only=True)
    sigma_schedule: SigmaSchedule = field(default=CONSTANT_SIGMA, kw_only=True)
    block_size: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigurationError(f"steps: expected 0 or more generations, got {self.steps}")
        for choice in (self.strategy, self.settings_strategy, *self.strategies.values()):
            if choice != "hybrid":
                self.resolve(choice)
        self.resolve("eggroll")  # so that a wrong number is refused here, not in the first generation

    def build(self, group: ParameterGroup) -> Strategy[Any]:
        """The strategy for a group of parameters.

        Raises:
            ConfigurationError: a pattern in ``strategies`` matches no parameter of the group.
        """
        overrides = {pattern: self.resolve(choice) for pattern, choice in self.strategies.items()}
        hybrid = self.strategy == "hybrid"
        weights = self.resolve("eggroll" if hybrid else self.strategy)
        settings = self.resolve(self.settings_strategy) if hybrid else weights
        return assemble(assign(group, settings=settings, weights=weights, overrides=overrides))

    def resolve(self, choice: StrategyChoice) -> Strategy[Any]:
        """A named strategy with this optimizer's settings; a strategy as it is.

        Raises:
            ConfigurationError: no built-in strategy has this name.
        """
        if isinstance(choice, Strategy):
            return choice
        layout: dict[str, Any] = {"population_size": self.pop_size, "block_size": self.block_size}
        ascent = GradientAscent(self.optimizer, self.lr, self.scheduler, self.weight_decay)
        shaping: ShapingName | Shaping = self.shaping if self.normalize_fitness else "raw"
        centered: dict[str, Any] = {
            **layout,
            "antithetic": self.antithetic,
            "sigma": self.sigma,
            "ascent": ascent,
            "shaping": shaping,
            "noise": self.noise,
            "sigma_schedule": self.sigma_schedule,
        }
        adapted: dict[str, Any] = {**layout, "sigma": self.settings_sigma or self.sigma}
        if choice == "eggroll":
            return Eggroll(**centered, rank=self.rank)
        if choice == "openai_es":
            return OpenAIES(**centered)
        if choice == "pgpe":
            return PGPE(**adapted, shaping=shaping)
        if choice == "snes":
            low, high = SETTING_SIGMA_LIMITS
            limits = (min(low, adapted["sigma"]), max(high, adapted["sigma"]))
            return SNES(**adapted, antithetic=self.antithetic, sigma_limits=limits)
        if choice == "cma_es":
            return CMAES(**adapted)
        if choice == "ipop_cma_es":
            return IPOPCMAES(**adapted)
        if choice == "sep_cma_es":
            return SepCMAES(**adapted)
        raise ConfigurationError(
            "strategy: expected 'hybrid', 'eggroll', 'openai_es', 'pgpe', 'snes', 'cma_es', 'ipop_cma_es', 'sep_cma_es' "
            f"or a Strategy, got {choice!r}"
        )


@dataclass(frozen=True)
class NoOpSystemOptimizer:
    """Leave every tensor as it is."""
