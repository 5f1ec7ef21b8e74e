"""Improve a model's reward by evolution: EGGROLL over its matrices, all members generating in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from countdown import Puzzle, puzzles, reward
from torch import Tensor

from hyperfunc.evolution.eggroll import Eggroll
from hyperfunc.evolution.gradient import GradientAscent
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import MemberBlock
from hyperfunc_local.model import LocalModel
from hyperfunc_local.sampling.parameters import DecodingParameters

__all__ = ["Evolved", "evolve", "rewards"]

GREEDY = DecodingParameters(temperature=0.0, top_k=0, top_p=1.0, max_tokens=6)


@dataclass(slots=True)
class Evolved:
    """The evolved model and its way there.

    Attributes:
        curve: (generation, mean reward on the validation puzzles), from generation 0.
        fitness: mean fitness of each generation's members.
    """

    model: LocalModel
    curve: list[tuple[int, float]] = field(default_factory=list)
    fitness: list[float] = field(default_factory=list)


def rewards(model: LocalModel, given: Sequence[Puzzle], members: MemberBlock | None = None) -> Tensor:
    """Reward of every member's greedy answer to every puzzle, ``[P, puzzles]``."""
    answers = model.generate([p.prompt for p in given], GREEDY, members=members)
    return torch.tensor([[reward(p, a.text) for p, a in zip(given, own, strict=True)] for own in answers])


def evolve(
    model: LocalModel,
    seed: int,
    *,
    generations: int = 40,
    population: int = 64,
    batch: int = 64,
    sigma: float = 0.01,
    lr: float = 1e-4,
    validation: Sequence[Puzzle] = (),
    every: int = 10,
    report: Callable[[int, float], None] | None = None,
) -> Evolved:
    """Evolve all matrices of ``model``.

    Args:
        batch: new puzzles in each generation, the same ones for all members.
        sigma: deviation of the rank-1 noise; the matrices' own is about 0.1.
        lr: of plain gradient ascent.
        validation: measured every ``every`` generations; never trained on.
    """
    names = [n for n, w in model.weights.items() if w.dim() == 2]
    values = {n: model.weights[n] for n in names}
    strategy = Eggroll(
        population_size=population,
        block_size=population,
        antithetic=True,
        sigma=sigma,
        ascent=GradientAscent("sgd", lr),
    )
    state = strategy.init(ParameterGroup.of(values), values, seed)
    run = Evolved(model)
    for generation in range(generations + 1):
        run.model = model.with_weights(strategy.mean(state))
        if validation and generation % every == 0:
            score = float(rewards(run.model, validation).mean())
            run.curve.append((generation, score))
            if report is not None:
                report(generation, score)
        if generation == generations:
            break
        given = puzzles(batch, seed * 1_000_003 + 500_000 + generation)
        fitness = rewards(run.model, given, strategy.ask(state, 0)).double().mean(1)
        run.fitness.append(float(fitness.mean()))
        state = strategy.tell(state, fitness)
    return run
