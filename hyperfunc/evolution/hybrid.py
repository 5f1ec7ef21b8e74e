"""System optimizers: the settings that users give, and the strategy that they amount to.

``ESHybridSystemOptimizer`` is the default of every system. Knows strategies (by their registered names) and parameter
groups; the loop that runs programs, asks and tells is in :mod:`hyperfunc.optimization`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import torch

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.assignment import assemble, assign
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.gradient import GradientAscent, OptimizerFactory, OptimizerName, SchedulerFactory
from hyperfunc.evolution.schedules import CONSTANT_SIGMA, SigmaSchedule
from hyperfunc.evolution.shaping import Shaping, ShapingName, resolve_shaping
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.plugins import current_plugins
from hyperfunc.population.noise import NoiseKind

__all__ = ["ESHybridSystemOptimizer", "NamedStrategy", "NoOpSystemOptimizer", "StrategyChoice"]


class OptimizesTensors(Protocol):
    """What an optimizer needs of a system."""

    async def optimize_tensors(self, train_data: Sequence[Any], metric_fn: Any, *, optimizer: Any) -> Any: ...


StrategyChoice = str | Strategy[Any]
"""The name of a registered strategy, set up with the optimizer's own sigma, lr and so on, or a strategy as it is."""


@dataclass(frozen=True)
class ESHybridSystemOptimizer:
    """Evolve a system's tensors: EGGROLL for matrices, a strategy that adapts σ for scalars and bounded settings.

    Args:
        steps: generations.
        pop_size: members per generation; even when ``antithetic``.
        sigma: deviation of the noise; for bounded dimensions in units of their range.
        lr: learning rate of ``optimizer``: about the change of each weight per generation with Adam.
        rank: rank of the noise of matrices that name none themselves.
        device: where evolving tensors live; ``None`` leaves them where they are.
        normalize_fitness: shape fitness by ``shaping``; otherwise use it raw.
        antithetic: members in pairs ``±noise``.
        seed: of all noise; ``None`` takes the seed of the run. 0 is a seed like any other.
        strategy: ``"hybrid"``, or one strategy for all parameters.
        strategies: parameter name or pattern -> strategy, before ``strategy`` has its say.
        settings_strategy: what ``"hybrid"`` gives to scalars, bounded and integer parameters.
        settings_sigma: its first deviation, which it then adapts.
        optimizer: ``"adam"``, ``"sgd"``, ``"clipup"`` or a factory of a ``torch.optim`` optimizer; ``None``: Adam, and
            for PGPE its own ClipUp rule.
        scheduler: factory of an lr scheduler.
        weight_decay: decoupled decay of unbounded parameters.
        shaping: ``"centered_ranks"``, ``"z_score"``, ``"raw"`` or a function.
        noise: ``"gaussian"`` or ``"rademacher"``.
        sigma_schedule: factor on ``sigma`` by generation.
        block_size: members per block; 0: the whole population up to 64.

    Raises:
        ConfigurationError: a number out of range, or settings that contradict each other.
        PluginError: no strategy is registered under a name.
    """

    steps: int = 50
    pop_size: int = 32
    sigma: float = 0.05
    lr: float = 0.1
    rank: int = 4
    device: torch.device | str | None = None
    normalize_fitness: bool = True
    antithetic: bool = True
    seed: int | None = field(default=None, kw_only=True)
    strategy: StrategyChoice = field(default="hybrid", kw_only=True)
    strategies: Mapping[str, StrategyChoice] = field(default_factory=dict, kw_only=True)
    settings_strategy: StrategyChoice = field(default="snes", kw_only=True)
    settings_sigma: float = field(default=0.2, kw_only=True)
    optimizer: OptimizerName | OptimizerFactory | None = field(default=None, kw_only=True)
    scheduler: SchedulerFactory | None = field(default=None, kw_only=True)
    weight_decay: float = field(default=0.0, kw_only=True)
    shaping: ShapingName | Shaping = field(default="centered_ranks", kw_only=True)
    noise: NoiseKind = field(default="gaussian", kw_only=True)
    sigma_schedule: SigmaSchedule = field(default=CONSTANT_SIGMA, kw_only=True)
    block_size: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 0:
            raise ConfigurationError(f"steps: expected a whole number of generations >= 0, got {self.steps!r}")
        if not self.settings_sigma > 0:
            raise ConfigurationError(f"settings_sigma: expected above 0, got {self.settings_sigma}")
        resolve_shaping(self.shaping)
        self.resolve("eggroll")  # a wrong number is refused here, not in the first generation

    def build(self, group: ParameterGroup) -> Strategy[Any]:
        """The strategy for a group of parameters.

        Raises:
            ConfigurationError: a pattern in ``strategies`` matches no parameter of the group.
            PluginError: no strategy is registered under a name.
        """
        overrides = {pattern: self.resolve(choice) for pattern, choice in self.strategies.items()}
        if self.strategy != "hybrid":
            weights = settings = self.resolve(self.strategy)
        else:
            weights = self.resolve("eggroll")
            settings = replace(self, sigma=self.settings_sigma).resolve(self.settings_strategy)
        return assemble(assign(group, settings=settings, weights=weights, overrides=overrides))

    async def optimize(self, system: OptimizesTensors, train_data: Sequence[Any], metric_fn: Any) -> None:
        """Optimize the tensors of ``system``; its current θ becomes the best one found."""
        await system.optimize_tensors(train_data, metric_fn, optimizer=self)

    def resolve(self, choice: StrategyChoice) -> Strategy[Any]:
        """A registered strategy with those of this optimizer's settings that it has; a strategy as it is.

        Raises:
            PluginError: no strategy is registered under the name.
        """
        if isinstance(choice, Strategy):
            return choice
        strategy_class: type[Strategy[Any]] = current_plugins().get("strategies", choice)
        available: dict[str, Any] = {
            "population_size": self.pop_size,
            "block_size": self.block_size,
            "sigma": self.sigma,
            "rank": self.rank,
            "shaping": self.shaping if self.normalize_fitness else "raw",
            "noise": self.noise,
            "sigma_schedule": self.sigma_schedule,
        }
        # Mirrored members suit strategies made for them, and SNES, whose noise would else disturb the others' pairs;
        # to the step-size rule of CMA-ES they are a bias.
        if strategy_class.antithetic or choice == "snes":
            available["antithetic"] = self.antithetic
        if self.optimizer is not None or choice != "pgpe":
            available["ascent"] = GradientAscent(
                "adam" if self.optimizer is None else self.optimizer, self.lr, self.scheduler, self.weight_decay
            )
        known = {f.name for f in fields(strategy_class)}
        return strategy_class(**{name: value for name, value in available.items() if name in known})


@dataclass(frozen=True)
class NamedStrategy:
    """One registered strategy for all parameters, with its own defaults.

    Args:
        name: as registered: ``"cma-es"``, ``"snes"``, …
        steps: generations.
    """

    name: str
    steps: int = 50

    def build(self, group: ParameterGroup) -> Strategy[Any]:
        """The strategy; the group decides nothing.

        Raises:
            PluginError: no strategy is registered under the name.
        """
        strategy: Strategy[Any] = current_plugins().make("strategies", self.name)
        return strategy


@dataclass(frozen=True)
class NoOpSystemOptimizer:
    """Leave every tensor as it is."""
