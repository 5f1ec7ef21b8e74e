"""The tables of docs/choosing-hyperparameters.md: one setting at a time, all others at their defaults.

    python benchmarks/choosing_hyperparameters.py

Task: a student network 8-16-2 (tanh) learns a teacher of the same shape from 256 examples. Reported is the share of the
targets' variance that the centre leaves unexplained (1 = learned nothing, 0 = all), the median of 5 seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer
from hyperfunc.evolution.schedules import CosineSigma
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import DenseMembers, MemberBlock

SEEDS = range(5)
GENERATIONS = 200
SHAPES = {"hidden.weight": (16, 8), "hidden.bias": (16,), "output.weight": (2, 16), "output.bias": (2,)}


def network(p: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Outputs ``[P, examples, 2]`` of members whose parameters are ``[P, *shape]``."""
    hidden = torch.tanh(inputs @ p["hidden.weight"].mT + p["hidden.bias"].unsqueeze(-2))
    return hidden @ p["output.weight"].mT + p["output.bias"].unsqueeze(-2)


def random_values(seed: int, gain: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: gain * torch.randn(s, generator=generator) * math.sqrt(2 / sum(s)) for n, s in SHAPES.items()}


INPUTS = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
TARGETS = network({n: v.unsqueeze(0) for n, v in random_values(2, gain=2.0).items()}, INPUTS)[0]
VARIANCE = float((TARGETS - TARGETS.mean(0)).square().mean())


def dense(members: MemberBlock) -> dict[str, Tensor]:
    return {
        n: v.values if isinstance(v, DenseMembers) else v.base + v.scale * (v.left @ v.right.mT)
        for n, v in members.items()
    }


def unexplained(p: Mapping[str, Tensor]) -> Tensor:
    """``[P]`` share of the variance that each member leaves."""
    return (network(p, INPUTS) - TARGETS).square().mean((1, 2)) / VARIANCE


def outliers(loss: Tensor, generation: int) -> Tensor:
    """One member in twenty is off by up to a hundred times: an evaluator that sometimes fails wildly."""
    generator = torch.Generator().manual_seed(generation)
    wild = torch.rand(loss.shape, generator=generator) < 0.05
    return torch.where(wild, loss * (1 + 100 * torch.rand(loss.shape, generator=generator)), loss)


def train(
    optimizer: ESHybridSystemOptimizer,
    seed: int,
    generations: int = GENERATIONS,
    disturb: Callable[[Tensor, int], Tensor] = lambda loss, generation: loss,
) -> float:
    values = random_values(100 + seed)
    group = ParameterGroup.of(values)
    strategy = optimizer.build(group)
    state = strategy.init(group, values, seed)
    for generation in range(generations):
        loss = torch.cat([unexplained(dense(strategy.ask(state, block))) for block in strategy.blocks()])
        state = strategy.tell(state, -disturb(loss, generation))
    return float(unexplained({n: v.unsqueeze(0) for n, v in strategy.mean(state).items()}))


def median(generations: int = GENERATIONS, disturb: Any = None, **settings: Any) -> str:
    optimizer = ESHybridSystemOptimizer(**{"pop_size": 64, **settings})
    extra = {} if disturb is None else {"disturb": disturb}
    return f"{statistics.median(train(optimizer, seed, generations, **extra) for seed in SEEDS):.3f}"


def cases(*rows: tuple[str, dict[str, Any]]) -> Sequence[tuple[str, dict[str, Any]]]:
    """Labels and the settings that they stand for."""
    return rows


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n**{title}**\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    rates = (0.01, 0.03, 0.1, 0.3)
    table(
        f"σ and lr, {GENERATIONS} generations of 64",
        ["σ \\ lr", *map(str, rates)],
        ([str(sigma), *(median(sigma=sigma, lr=lr) for lr in rates)] for sigma in (0.01, 0.05, 0.2, 0.5)),
    )
    evaluations = 64 * GENERATIONS
    table(
        f"Population, {evaluations} evaluations in all",
        ["population", "generations", "lr 0.03", "lr 0.1"],
        (
            [
                str(size),
                str(evaluations // size),
                *(median(evaluations // size, pop_size=size, lr=lr) for lr in (0.03, 0.1)),
            ]
            for size in (8, 16, 32, 64, 128, 256)
        ),
    )
    table(
        "Rank and distribution of the noise",
        ["noise", "Gaussian", "Rademacher"],
        (
            [label, *(median(noise=noise, **settings) for noise in ("gaussian", "rademacher"))]
            for label, settings in cases(
                *((f"rank {rank}", {"rank": rank}) for rank in (1, 2, 4)),
                ("dense (openai-es)", {"strategy": "openai-es"}),
            )
        ),
    )
    table(
        "Shaping",
        ["shaping", "clean fitness", "1 member in 20 off by up to 100 times"],
        ([s, median(shaping=s), median(shaping=s, disturb=outliers)] for s in ("centered_ranks", "z_score", "raw")),
    )
    table(
        "Strategy and optimizer",
        ["setting", "unexplained"],
        (
            [label, median(**settings)]
            for label, settings in cases(
                ("Adam, lr 0.1 (default)", {}),
                (
                    "Adam, lr and σ by half a cosine",
                    {
                        "scheduler": partial(CosineAnnealingLR, T_max=GENERATIONS),
                        "sigma_schedule": CosineSigma(GENERATIONS),
                    },
                ),
                ("ClipUp, lr 0.3", {"optimizer": "clipup", "lr": 0.3}),
                ("SGD, lr 0.02", {"optimizer": "sgd", "lr": 0.02}),
                ("snes", {"strategy": "snes", "sigma": 0.2}),
                ("sep-cma-es", {"strategy": "sep-cma-es", "sigma": 0.2}),
                ("cma-es", {"strategy": "cma-es", "sigma": 0.2}),
                ("pgpe", {"strategy": "pgpe", "sigma": 0.2}),
            )
        ),
    )


if __name__ == "__main__":
    main()
