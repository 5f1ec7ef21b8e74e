"""Convergence of the strategies, against pycma and on two small programs.

    python benchmarks/convergence.py                  # everything: the tables below, then PASS or FAIL per gate
    python benchmarks/convergence.py --only cma       # evaluations to 1e-8 beside pycma's, d = 10
    python benchmarks/convergence.py --only ipop      # restarts on Rastrigin, d = 10
    python benchmarks/convergence.py --only programs  # XOR and affine composition from random weights

Counts of evaluations do not depend on the machine's load. Exit status 1 when a gate is missed:
CMA-ES within 1.1 of pycma's median on sphere, ellipsoid and Rosenbrock; IPOP at least 4 of 5; the two programs on at
least 19 of 20 seeds within 200 generations of 64 members.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.cma_constants import default_population_size
from hyperfunc.evolution.cma_es import CMAES
from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer
from hyperfunc.evolution.ipop_cma_es import IPOPCMAES
from hyperfunc.evolution.sep_cma_es import SepCMAES
from hyperfunc.evolution.snes import SNES
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import DenseMembers, MemberBlock

DIMENSIONS = 10
TARGET = 1e-8


# ---------------------------------------------------------------------------------------------------- test functions


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def ellipsoid(x: Tensor) -> Tensor:
    return (torch.logspace(0, 6, x.shape[-1], dtype=x.dtype) * x.square()).sum(-1)


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


def rastrigin(x: Tensor) -> Tensor:
    return 10 * x.shape[-1] + (x.square() - 10 * torch.cos(2 * math.pi * x)).sum(-1)


@dataclass(frozen=True)
class Function:
    """A test function and where every run begins."""

    name: str
    loss: Callable[[Tensor], Tensor]
    start: float


FUNCTIONS = (
    Function("sphere", sphere, 1.0),
    Function("ellipsoid", ellipsoid, 1.0),
    Function("Rosenbrock", rosenbrock, 0.1),
)


def evaluations_to_target(strategy: Strategy[Any], function: Function, seed: int, limit: int) -> float:
    """Evaluations until a member is below the target, counted in whole generations; infinite beyond ``limit``."""
    start = {"x": torch.full((DIMENSIONS,), function.start, dtype=torch.float64)}
    state = strategy.init(ParameterGroup.of(start), start, seed)
    for generation in range(1, limit // strategy.population_size + 1):
        points = torch.cat([dense(strategy.ask(state, block))["x"] for block in strategy.blocks()])
        loss = function.loss(points)
        if float(loss.min()) < TARGET:
            return generation * strategy.population_size
        state = strategy.tell(state, -loss)
    return math.inf


def pycma_evaluations(function: Function, seed: int) -> float:
    """The same for pycma: σ₀ = 0.5, its own defaults otherwise."""
    import cma  # type: ignore[import-untyped]  # only this part needs it

    def loss(x: Sequence[float]) -> float:
        return float(function.loss(torch.tensor(x, dtype=torch.float64)))

    options = {"seed": seed + 1, "ftarget": TARGET, "verbose": -9, "maxfevals": 30_000}
    run = cma.CMAEvolutionStrategy(DIMENSIONS * [function.start], 0.5, options)
    run.optimize(loss)
    return run.result.evaluations if run.result.fbest < TARGET else math.inf


def compare_with_pycma(seeds: int) -> bool:
    population = default_population_size(DIMENSIONS)
    print(f"\nEvaluations to {TARGET:g}, d = {DIMENSIONS}, σ₀ = 0.5, population {population}, median of {seeds} seeds")
    print(f"{'':12}{'pycma':>8}{'cma-es':>8}{'ratio':>7}{'sep-cma-es':>12}{'snes':>8}")
    passed = True
    for function in FUNCTIONS:
        reference = statistics.median(pycma_evaluations(function, seed) for seed in range(seeds))
        ours = [
            statistics.median(evaluations_to_target(s, function, seed, 30_000) for seed in range(n))
            for s, n in (
                (CMAES(population_size=population, sigma=0.5), seeds),
                (SepCMAES(population_size=population, sigma=0.5), 3),
                (SNES(population_size=population, sigma=0.5), 3),
            )
        ]
        ratio = ours[0] / reference
        shown = [f"{v:.0f}" if math.isfinite(v) else "fails" for v in ours]
        print(f"{function.name:12}{reference:8.0f}{shown[0]:>8}{ratio:7.2f}{shown[1]:>12}{shown[2]:>8}")
        passed &= ratio <= 1.1
    return verdict("CMA-ES within 1.1 of pycma's median evaluations", passed)


def restart_on_rastrigin(seeds: int) -> bool:
    population = default_population_size(DIMENSIONS)
    print(
        f"\nIPOP-CMA-ES, Rastrigin d = {DIMENSIONS}, σ₀ = 2, first population {population}, at most 100 000 evaluations"
    )
    solved = 0
    for seed in range(seeds):
        strategy = IPOPCMAES(population_size=population, sigma=2.0)
        start = {"x": torch.ones(DIMENSIONS, dtype=torch.float64)}
        state = strategy.init(ParameterGroup.of(start), start, seed)
        while state.generation * population < 100_000 and state.best_fitness < -TARGET:
            state = strategy.tell(state, -rastrigin(dense(strategy.ask(state, 0))["x"]))
        solved += state.best_fitness >= -TARGET
        evaluations = state.generation * population
        print(f"seed {seed}: best {-state.best_fitness:.2g} after {evaluations} evaluations, {state.restarts} restarts")
    return verdict(f"Rastrigin solved on {solved} of {seeds} seeds (gate: 4 of 5)", solved >= 0.8 * seeds)


# ---------------------------------------------------------------------------------------------------- small programs

XOR_INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
XOR_TARGETS = torch.tensor([0.0, 1.0, 1.0, 0.0])
POINTS = torch.randn(16, 2, generator=torch.Generator().manual_seed(7))
ANGLE, SCALE = 0.7, 1.5
ROTATION = SCALE * torch.tensor([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])


def xor_program(activation: Callable[[Tensor], Tensor]) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """2-4-1 with biases; the squared error of each member, ``[P]``."""

    def loss(p: Mapping[str, Tensor]) -> Tensor:
        hidden = activation(XOR_INPUTS @ p["hidden.weight"].mT + p["hidden.bias"].unsqueeze(1))
        output = hidden @ p["output.weight"].mT + p["output.bias"].unsqueeze(1)
        return (output.squeeze(-1) - XOR_TARGETS).square().mean(1)

    return loss


def affine_composition(p: Mapping[str, Tensor]) -> Tensor:
    """Two 2×2 matrices, one after the other, that shall rotate and scale; the squared error of each member, ``[P]``."""
    return (POINTS @ p["first"].mT @ p["second"].mT - POINTS @ ROTATION.T).square().mean((1, 2))


@dataclass(frozen=True)
class Program:
    """A loss over parameters of given shapes, and how small it must get to count as solved."""

    name: str
    loss: Callable[[Mapping[str, Tensor]], Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    solved_below: float
    gate: bool = True


XOR_SHAPES = {"hidden.weight": (4, 2), "hidden.bias": (4,), "output.weight": (1, 4), "output.bias": (1,)}
PROGRAMS = (
    Program("XOR, tanh", xor_program(torch.tanh), XOR_SHAPES, 0.01),
    Program("XOR, ReLU", xor_program(torch.relu), XOR_SHAPES, 0.01, gate=False),
    Program("affine composition", affine_composition, {"first": (2, 2), "second": (2, 2)}, 0.01),
)


def random_values(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """As a system registers its components: normal, with standard deviation ``√(2 / Σ shape)``."""
    generator = torch.Generator().manual_seed(1_000 + seed)
    return {n: torch.randn(s, generator=generator) * math.sqrt(2 / sum(s)) for n, s in shapes.items()}


def train(optimizer: ESHybridSystemOptimizer, program: Program, seed: int, generations: int) -> tuple[float, float]:
    """The centre's loss at the end, and the generation in which it first counted as solved (infinite if never)."""
    values = random_values(program.shapes, seed)
    strategy = optimizer.build(ParameterGroup.of(values))
    state = strategy.init(ParameterGroup.of(values), values, seed)
    solved, loss = math.inf, math.inf
    for generation in range(1, generations + 1):
        losses = torch.cat([program.loss(dense(strategy.ask(state, block))) for block in strategy.blocks()])
        state = strategy.tell(state, -losses.double())
        loss = float(program.loss({n: v.unsqueeze(0) for n, v in strategy.mean(state).items()}))
        if loss < program.solved_below:
            solved = min(solved, generation)
    return loss, solved


def train_programs(seeds: int) -> bool:
    optimizer = ESHybridSystemOptimizer(pop_size=64)
    print("\nPrograms from random weights: ESHybridSystemOptimizer(pop_size=64), 200 generations")
    print(f"{'':20}{'solved':>8}{'median generation':>19}{'median loss':>13}{'worst loss':>12}")
    passed = True
    for program in PROGRAMS:
        losses, generations = zip(*(train(optimizer, program, seed, 200) for seed in range(seeds)), strict=True)
        solved = sum(loss < program.solved_below for loss in losses)
        print(
            f"{program.name:20}{f'{solved}/{seeds}':>8}{statistics.median(generations):19.0f}"
            f"{statistics.median(losses):13.1e}{max(losses):12.1e}"
        )
        if program.gate:
            passed &= solved >= 0.95 * seeds
    return verdict("XOR and affine composition solved on 19 of 20 seeds", passed)


# ---------------------------------------------------------------------------------------------------- the rest


def dense(members: MemberBlock) -> dict[str, Tensor]:
    """A block's members in full: name -> ``[K, *shape]``."""
    return {
        name: v.values
        if isinstance(v, DenseMembers)
        else v.base + v.scale * (v.left @ v.right.mT).reshape(-1, *v.base.shape)
        for name, v in members.items()
    }


def verdict(what: str, passed: bool) -> bool:
    print(f"{'PASS' if passed else 'FAIL'}: {what}")
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("cma", "ipop", "programs"))
    parser.add_argument("--seeds", type=int, default=25, help="seeds of the comparison with pycma (default 25)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], bool]] = {
        "cma": lambda: compare_with_pycma(arguments.seeds),
        "ipop": lambda: restart_on_rastrigin(5),
        "programs": lambda: train_programs(20),
    }
    results = [part() for name, part in parts.items() if arguments.only in (None, name)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
