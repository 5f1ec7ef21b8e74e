"""Which strategy each parameter gets, strategies side by side, and two small programs solved by the defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError, PluginError
from hyperfunc.evolution.cma_es import CMAES
from hyperfunc.evolution.composite import CompositeStrategy, Part
from hyperfunc.evolution.eggroll import Eggroll
from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer, NamedStrategy
from hyperfunc.evolution.pgpe import PGPE
from hyperfunc.evolution.schedules import CosineSigma
from hyperfunc.evolution.snes import SNES
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec
from hyperfunc.population.members import DenseMembers, MemberBlock

UNIT = (torch.tensor(0.0), torch.tensor(1.0))
MIXED = ParameterGroup(
    {
        "net.weight": ParameterSpec((8, 4)),
        "net.bias": ParameterSpec((8,)),
        "threshold": ParameterSpec((), bounds=UNIT),
        "sampling": ParameterSpec((2,), bounds=UNIT),
        "temperature": ParameterSpec(()),
    }
)


def by_name(strategy: Any) -> dict[str, Any]:
    return {name: part.strategy for part in strategy.parts for name in part.names}


def dense(members: MemberBlock) -> dict[str, Tensor]:
    return {
        name: v.values if isinstance(v, DenseMembers) else v.base + v.scale * (v.left @ v.right.mT)
        for name, v in members.items()
    }


def test_weights_go_to_eggroll_and_settings_to_a_strategy_that_adapts() -> None:
    chosen = by_name(ESHybridSystemOptimizer().build(MIXED))
    assert isinstance(chosen["net.weight"], Eggroll)
    assert isinstance(chosen["net.bias"], Eggroll)
    assert all(isinstance(chosen[name], SNES) for name in ("threshold", "sampling", "temperature"))


def test_vectors_without_matrices_are_settings() -> None:
    strategy = ESHybridSystemOptimizer().build(ParameterGroup({"v": ParameterSpec((3,))}))
    assert isinstance(strategy, SNES)
    assert isinstance(ESHybridSystemOptimizer().build(ParameterGroup({"w": ParameterSpec((3, 3))})), Eggroll)


def test_settings_of_the_optimizer_reach_the_strategies() -> None:
    schedule = CosineSigma(10)
    optimizer = ESHybridSystemOptimizer(
        7, 24, 0.2, 0.3, 2, antithetic=True, noise="rademacher", block_size=8, weight_decay=0.5,
        sigma_schedule=schedule, settings_sigma=0.4, shaping="z_score",
    )  # fmt: skip
    chosen = by_name(optimizer.build(MIXED))
    eggroll = chosen["net.weight"]
    assert (eggroll.population_size, eggroll.block_size, eggroll.sigma, eggroll.rank) == (24, 8, 0.2, 2)
    assert (eggroll.noise, eggroll.shaping, eggroll.sigma_schedule) == ("rademacher", "z_score", schedule)
    assert (eggroll.ascent.lr, eggroll.ascent.weight_decay) == (0.3, 0.5)
    assert chosen["threshold"].sigma == 0.4
    assert ESHybridSystemOptimizer(normalize_fitness=False).resolve("eggroll").shaping == "raw"  # type: ignore[attr-defined]
    assert not ESHybridSystemOptimizer(antithetic=False).build(MIXED).antithetic


def test_overrides_by_name_and_pattern() -> None:
    optimizer = ESHybridSystemOptimizer(
        strategies={"net.*": "openai-es", "threshold": "cma-es", "sampl*": PGPE(sigma=0.25)}, settings_strategy="snes"
    )
    chosen = by_name(optimizer.build(MIXED))
    assert chosen["net.bias"].name == chosen["net.weight"].name == "openai-es"
    assert isinstance(chosen["threshold"], CMAES)
    assert not chosen["threshold"].antithetic
    assert chosen["sampling"] == PGPE(sigma=0.25, population_size=32)
    assert isinstance(chosen["temperature"], SNES)


def test_one_strategy_for_everything() -> None:
    assert isinstance(ESHybridSystemOptimizer(strategy="pgpe").build(MIXED), PGPE)
    assert isinstance(ESHybridSystemOptimizer(strategy=CMAES(population_size=8)).build(MIXED), CMAES)
    assert isinstance(NamedStrategy("cma-es").build(MIXED), CMAES)


def test_pgpe_keeps_its_own_optimizer_unless_one_is_named() -> None:
    assert ESHybridSystemOptimizer().resolve("pgpe").ascent is None  # type: ignore[attr-defined]
    assert ESHybridSystemOptimizer(optimizer="sgd").resolve("pgpe").ascent.optimizer == "sgd"  # type: ignore[attr-defined]


def test_wrong_choices_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'head\.\*' matches none"):
        ESHybridSystemOptimizer(strategies={"head.*": "snes"}).build(MIXED)
    with pytest.raises(PluginError, match="eggrol"):
        ESHybridSystemOptimizer(strategy="eggrol").build(MIXED)
    for wrong in (
        {"steps": -1},
        {"steps": 1.5},
        {"pop_size": 1},
        {"pop_size": 8.0},
        {"pop_size": 9},
        {"sigma": 0.0},
        {"lr": -1.0},
        {"rank": 0},
    ):
        with pytest.raises(ConfigurationError):
            ESHybridSystemOptimizer(**wrong)
    with pytest.raises(ConfigurationError, match="shaping"):
        ESHybridSystemOptimizer(shaping="ranks")  # type: ignore[arg-type]


def test_parts_must_share_a_population_and_split_the_parameters() -> None:
    with pytest.raises(ConfigurationError, match="share one population"):
        CompositeStrategy(parts=(Part(SNES(population_size=8), ("a",)), Part(SNES(population_size=10), ("b",))))
    with pytest.raises(ConfigurationError, match="each parameter once"):
        CompositeStrategy(parts=(Part(SNES(), ("a",)), Part(SNES(), ("a",))))
    with pytest.raises(ConfigurationError, match="at least one"):
        CompositeStrategy()
    half = CompositeStrategy(parts=(Part(SNES(), ("a",)),))
    values = {"a": torch.zeros(1), "b": torch.zeros(1)}
    with pytest.raises(ConfigurationError, match="missing b"):
        half.init(ParameterGroup.of(values), values, 0)


def test_a_composite_is_its_parts_run_side_by_side() -> None:
    strategy = ESHybridSystemOptimizer(pop_size=8).build(MIXED)
    values = {n: torch.full(s.shape, 0.5) for n, s in MIXED.parameters.items()}
    state = strategy.init(MIXED, values, 3)
    fitness = torch.arange(8.0)
    told = strategy.tell(state, fitness)
    for part in strategy.parts:  # type: ignore[attr-defined]
        alone = part.strategy.init(MIXED.select(part.names), values, 3)
        asked = dense(part.strategy.ask(alone, 0))
        for name in part.names:
            assert torch.equal(asked[name], dense(strategy.ask(state, 0))[name])
            assert torch.equal(part.strategy.mean(part.strategy.tell(alone, fitness))[name], strategy.mean(told)[name])


def test_a_twin_is_dropped_for_every_part() -> None:
    """A part without pairs of its own still loses the twin: both parts learn from the same members."""
    parts = (Part(Eggroll(population_size=8), ("w",)), Part(CMAES(population_size=8), ("s",)))
    strategy = CompositeStrategy(parts=parts)
    values = {"w": torch.zeros(3, 3), "s": torch.zeros(2)}
    state = strategy.init(ParameterGroup.of(values), values, 0)
    one = torch.arange(8.0)
    one[2] = math.nan
    both = one.clone()
    both[6] = math.nan
    first, second = strategy.mean(strategy.tell(state, one)), strategy.mean(strategy.tell(state, both))
    assert torch.equal(first["s"], second["s"])
    assert torch.equal(first["w"], second["w"])


def train(
    optimizer: ESHybridSystemOptimizer,
    loss: Callable[[Mapping[str, Tensor]], Tensor],
    values: dict[str, Tensor],
    seed: int,
) -> float:
    group = ParameterGroup.of(values)
    strategy = optimizer.build(group)
    state = strategy.init(group, values, seed)
    for _ in range(100):
        losses = [loss(dense(strategy.ask(state, block))) for block in strategy.blocks()]
        state = strategy.tell(state, -torch.cat(losses))
    return float(loss({name: value.unsqueeze(0) for name, value in strategy.mean(state).items()}))


def random_values(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * math.sqrt(2 / sum(s)) for n, s in shapes.items()}


XOR_SHAPES = {"hidden.weight": (4, 2), "hidden.bias": (4,), "output.weight": (1, 4), "output.bias": (1,)}


def xor_loss(p: Mapping[str, Tensor]) -> Tensor:
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    hidden = torch.tanh(inputs @ p["hidden.weight"].mT + p["hidden.bias"].unsqueeze(1))
    output = (hidden @ p["output.weight"].mT + p["output.bias"].unsqueeze(1)).squeeze(-1)
    return (output - torch.tensor([0.0, 1.0, 1.0, 0.0])).square().mean(1)


def affine_loss(p: Mapping[str, Tensor]) -> Tensor:
    points = torch.randn(16, 2, generator=torch.Generator().manual_seed(7))
    turned = points @ (1.5 * torch.tensor([[0.8, -0.6], [0.6, 0.8]])).T
    return (points @ p["first"].mT @ p["second"].mT - turned).square().mean((1, 2))


@pytest.mark.parametrize("seed", range(4))
def test_the_defaults_solve_xor_and_affine_composition(seed: int) -> None:
    """The full sweep (20 seeds) is in benchmarks/convergence.py."""
    optimizer = ESHybridSystemOptimizer(pop_size=64)
    assert train(optimizer, xor_loss, random_values(XOR_SHAPES, seed), seed) < 0.05
    affine = random_values({"first": (2, 2), "second": (2, 2)}, seed)
    assert train(optimizer, affine_loss, affine, seed) < 0.05


def test_any_torch_optimizer_may_follow_the_estimate() -> None:
    optimizer = ESHybridSystemOptimizer(pop_size=64, optimizer=partial(torch.optim.RMSprop, lr=0.05))
    assert train(optimizer, affine_loss, random_values({"first": (2, 2), "second": (2, 2)}, 0), 0) < 0.05
