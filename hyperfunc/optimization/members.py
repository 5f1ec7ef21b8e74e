"""Fitness of a generation's members, and of one θ alone: which examples are run, and what that costs.

Knows how to run a population and how outputs are scored; nothing of how the next generation follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.base import Strategy
from hyperfunc.fitness import Fitness, MemberFitness, Metric
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.members import DenseMembers, MemberBlock
from hyperfunc.population.noise import generator_for
from hyperfunc.scope import current_scope
from hyperfunc.usage import Usage

__all__ = ["GenerationFitness", "MemberEvaluation"]


@dataclass(frozen=True)
class GenerationFitness:
    """Fitness of every member, and the (member, example) runs that it took."""

    members: MemberFitness
    evaluations: int


class MemberEvaluation:
    """Runs members on training examples, and single values of θ on the selection data.

    Args:
        runner: runs the program.
        metric: higher is better.
        train: what generations are evaluated on.
        selection: what a θ is adopted by; ``None`` takes ``train``.
        minibatch: examples per generation; ``None`` takes all.
        seed: of the minibatches.

    Raises:
        EvaluationError: no examples, or a metric that is none.
    """

    def __init__(
        self,
        runner: PopulationRunner,
        metric: Metric,
        train: Sequence[Example],
        selection: Sequence[Example] | None = None,
        *,
        minibatch: int | None = None,
        seed: int = 0,
    ) -> None:
        self.runner = runner
        self._metric = metric
        self._train = train
        self._minibatch = minibatch
        self._seed = seed
        self._everything = self._prepare(train)
        self._selection = self._everything if selection is None else self._prepare(selection)

    async def generation(self, strategy: Strategy[Any], state: Any, index: int) -> GenerationFitness:
        """Fitness of every member of generation ``index`` on its examples.

        Raises:
            BudgetExceededError: they do not all fit into the budget; nothing was run.
        """
        fitness, batch = self._examples_of(index)
        evaluations = strategy.population_size * len(batch.inputs)
        _pay_for(evaluations)
        parts = await self.runner.run(
            lambda block: strategy.ask(state, block), strategy.blocks(), batch, fitness.reduce
        )
        whole = MemberFitness(torch.full((strategy.population_size,), math.nan, dtype=torch.float64))
        for block, part in zip(strategy.blocks(), parts, strict=True):
            scored = await fitness.finish(part)
            members = strategy.members_of(block)
            whole.values[members] = scored.values
            whole.errors.update({members.start + member: error for member, error in scored.errors.items()})
        return GenerationFitness(whole, evaluations)

    async def single(self, tensors: Mapping[str, Tensor]) -> GenerationFitness:
        """Fitness on the selection data of the program's θ with ``tensors`` in place; a population of one."""
        fitness, batch = self._selection
        block: MemberBlock = {name: DenseMembers(value.unsqueeze(0)) for name, value in tensors.items()}
        run = self.runner.run if self.runner.execution else self.runner.run_on_loop  # a first population decides
        part = (await run(lambda _: block, [0], batch, fitness.reduce))[0]
        return GenerationFitness(await fitness.finish(part), len(batch.inputs))

    def _prepare(self, examples: Sequence[Example]) -> tuple[Fitness, ExampleBatch]:
        return Fitness(self._metric, examples), ExampleBatch([e.inputs for e in examples])

    def _examples_of(self, index: int) -> tuple[Fitness, ExampleBatch]:
        """This generation's examples: all, or a minibatch of an epoch's shuffle; the same for every member."""
        size, count = self._minibatch, len(self._train)
        if size is None or size >= count:
            return self._everything
        per_epoch = count // size
        epoch, position = divmod(index, per_epoch)
        order = torch.randperm(count, generator=generator_for(self._seed, "minibatch", epoch)).tolist()
        return self._prepare([self._train[i] for i in order[position * size : (position + 1) * size]])


def _pay_for(evaluations: int) -> None:
    budget = current_scope().budget
    if budget is not None:
        runs = Usage(evaluations=evaluations)
        budget.reserve(runs).settle(runs)
