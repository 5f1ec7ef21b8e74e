"""Fitness of a generation's members, and of one θ alone: which examples are run, and what that costs.

Knows how to run a population and how outputs are scored; nothing of how the next generation follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.base import Strategy
from hyperfunc.fitness import Fitness, MemberFitness, Metric
from hyperfunc.optimization.minibatches import Minibatches
from hyperfunc.parameters.theta import Theta
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.factored_members import gather_members
from hyperfunc.population.members import DenseMembers, MemberBlock
from hyperfunc.population.noise import generator_for
from hyperfunc.scheduling.economy import NO_ECONOMY, Economy
from hyperfunc.scheduling.racing import Race, Racing
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
        economy: when members stop before all of a generation's examples are run, and how many examples it takes.
        seed: of the minibatches and of races.

    Attributes:
        minibatches: which examples come next.

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
        economy: Economy = NO_ECONOMY,
        seed: int = 0,
    ) -> None:
        self.runner = runner
        self._metric = metric
        self._train = train
        self.minibatches = Minibatches(len(train), minibatch, economy.minibatch, seed=seed)
        self._racing = economy.racing
        if economy.pace is not None:
            runner.follow(economy.pace)
        if economy.kernels is not None:
            runner.bound(economy.kernels)
        self._seed = seed
        self._everything = self._prepare(train)
        self._selection = self._everything if selection is None else self._prepare(selection)

    async def generation(self, strategy: Strategy[Any], state: Any, index: int) -> GenerationFitness:
        """Fitness of every member of generation ``index`` on its examples.

        Raises:
            BudgetExceededError: they do not all fit into the budget; nothing was run.
            ConfigurationError: the economy needs a score for each example, and the metric gives none.
        """
        positions = self.minibatches.positions(index)
        # How to run is proven by whole blocks on whole examples, so the generation that proves it is no race.
        if self._racing is not None and self.runner.execution:
            found = await self._raced(self._racing, strategy, state, index, positions)
        else:
            found = await self._whole(strategy, state, positions)
        if self.minibatches.learns:
            self.minibatches.observe(_scores_of(found.members), strategy.twins())
        return found

    async def _whole(self, strategy: Strategy[Any], state: Any, positions: Sequence[int]) -> GenerationFitness:
        """Every member on every example."""
        everything = len(positions) == len(self._train)
        fitness, batch = self._everything if everything else self._prepare([self._train[p] for p in positions])
        evaluations = strategy.population_size * len(batch.inputs)
        with _paying(evaluations) as ledger:
            ledger.evaluations = evaluations
            everybody = torch.ones(strategy.population_size, dtype=torch.bool)
            whole = await self._run(strategy, state, everybody, fitness, batch)
        return GenerationFitness(whole, evaluations)

    async def _raced(
        self, racing: Racing, strategy: Strategy[Any], state: Any, index: int, positions: Sequence[int]
    ) -> GenerationFitness:
        """A generation run in rungs, from which decided members drop out."""
        if len(positions) == len(self._train):  # in the same order each time, and the first rung may not be
            order = torch.randperm(len(positions), generator=generator_for(self._seed, "rungs", index))
            positions = [positions[i] for i in order.tolist()]
        weights = torch.tensor([float(getattr(self._train[p], "weight", 1.0)) for p in positions], dtype=torch.float64)
        race = Race(racing, weights, strategy.population_size, strategy.twins(), lottery=(self._seed, index))
        errors: dict[int, Exception] = {}
        with _paying(strategy.population_size * len(positions)) as ledger:
            for part in racing.parts(len(positions)):
                running = race.running
                if not bool(running.any()):
                    break
                fitness, batch = self._prepare([self._train[p] for p in positions[part.start : part.stop]])
                ledger.evaluations += int(running.sum()) * len(part)
                scored = await self._run(strategy, state, running, fitness, batch)
                errors |= scored.errors
                race.record(_scores_of(scored)[running])
        return GenerationFitness(MemberFitness(race.fitness(), errors, race.scores), ledger.evaluations)

    async def _run(
        self, strategy: Strategy[Any], state: Any, running: Tensor, fitness: Fitness, batch: ExampleBatch
    ) -> MemberFitness:
        """Fitness of the members that are ``running`` (``[P]`` bool), NaN for the others."""
        chosen = {block: running[strategy.members_of(block)].nonzero().squeeze(1) for block in strategy.blocks()}
        blocks = [block for block, members in chosen.items() if len(members)]

        def ask(block: int) -> MemberBlock:
            members = strategy.ask(state, block)
            return members if len(chosen[block]) == strategy.size_of(block) else gather_members(members, chosen[block])

        parts = await self.runner.run(ask, blocks, batch, fitness.reduce)
        whole = MemberFitness(torch.full((strategy.population_size,), math.nan, dtype=torch.float64))
        for block, part in zip(blocks, parts, strict=True):
            scored = await fitness.finish(part)
            members = chosen[block] + strategy.members_of(block).start
            whole.values[members] = scored.values
            whole.errors.update({int(members[row]): error for row, error in scored.errors.items()})
            if scored.scores is not None:
                if whole.scores is None:
                    shape = (strategy.population_size, len(batch.inputs))
                    whole.scores = torch.full(shape, math.nan, dtype=torch.float64)
                whole.scores[members] = scored.scores.to(torch.float64)
        return whole

    def set_program(self, theta: Theta) -> None:
        """Evaluate members around ``theta`` from now on."""
        self.runner.program = replace(self.runner.program, theta=theta)

    async def single(self, tensors: Mapping[str, Tensor]) -> GenerationFitness:
        """Fitness on the selection data of the program's θ with ``tensors`` in place; a population of one."""
        fitness, batch = self._selection
        block: MemberBlock = {name: DenseMembers(value.unsqueeze(0)) for name, value in tensors.items()}
        run = self.runner.run if self.runner.execution else self.runner.run_on_loop  # a first population decides
        part = (await run(lambda _: block, [0], batch, fitness.reduce))[0]
        return GenerationFitness(await fitness.finish(part), len(batch.inputs))

    def _prepare(self, examples: Sequence[Example]) -> tuple[Fitness, ExampleBatch]:
        return Fitness(self._metric, examples), ExampleBatch([e.inputs for e in examples])


def _scores_of(fitness: MemberFitness) -> Tensor:
    """``[P, E]``: the score of each example.

    Raises:
        ConfigurationError: there are none.
    """
    if fitness.scores is None:
        raise ConfigurationError(
            "the economy compares members example by example: expected a scorer, got a metric of whole lists; make it "
            "a scorer (an object with .score(output, expected)), or leave racing= and minibatch= out of the economy"
        )
    return fitness.scores


@dataclass
class _Ledger:
    """Runs that were begun."""

    evaluations: int = 0


@contextmanager
def _paying(most: int) -> Iterator[_Ledger]:
    """Reserve ``most`` runs, and settle what the ledger says in the end.

    Raises:
        BudgetExceededError: they do not fit into the budget.
    """
    budget = current_scope().budget
    reservation = None if budget is None else budget.reserve(Usage(evaluations=most))
    ledger = _Ledger()
    try:
        yield ledger
    finally:
        if reservation is not None:
            reservation.settle(Usage(evaluations=ledger.evaluations))
