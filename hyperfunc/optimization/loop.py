"""The loop of a run: step after step, what is adopted, kept and reported, and when it ends.

θ, the strategy's state and the number of steps are all there is to a run; everything else follows from them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from typing import Any

import torch

from hyperfunc.budget import Budget
from hyperfunc.durable import DurableRun
from hyperfunc.errors import BudgetExceededError
from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.fitness import MemberFitness, Metric
from hyperfunc.history import Generation, OptimizeResult
from hyperfunc.observability.spans import span
from hyperfunc.optimization.members import MemberEvaluation
from hyperfunc.optimization.options import GenerationView, LoopOptions
from hyperfunc.optimization.progress import RunProgress
from hyperfunc.optimization.tensors import AllMembersFailedError, TensorSearch
from hyperfunc.plugins import current_plugins
from hyperfunc.population.evaluate import PopulationRunner
from hyperfunc.population.factored_report import collect_materialisations
from hyperfunc.progress import ProgressBar
from hyperfunc.scope import RunScope, UsageLedger, current_scope, enter_scope
from hyperfunc.settings import Settings

__all__ = ["optimize_tensors"]


async def optimize_tensors(
    runner: PopulationRunner,
    strategy: Strategy[Any],
    group: ParameterGroup,
    steps: int,
    train: Sequence[Example],
    metric: Metric,
    validation: Sequence[Example] | None = None,
    *,
    options: LoopOptions,
    settings: Settings,
    budget: Budget | None = None,
    durable: DurableRun | None = None,
) -> OptimizeResult:
    """Improve the tensors of ``group``, starting from the program's θ.

    The best centre on the selection data (``validation``, else the training examples) is what the result holds.

    Args:
        budget: evaluations and paid calls are reserved there; when it is spent the run ends with its best θ.
        durable: where the state is kept after every generation, and whence an earlier one is taken up.

    Raises:
        EvaluationError: no examples, a broken metric, or every run of the first generation raised.
    """
    ledger = current_scope().ledger or UsageLedger()
    evaluation = MemberEvaluation(runner, metric, train, validation, minibatch=options.minibatch, seed=options.seed)
    search = TensorSearch(strategy, group, evaluation, RunProgress(runner.program.theta), seed=options.seed)
    loop = _Loop(search, options, durable, ledger)
    store = current_scope().store if durable is None else durable.journal.call_store(durable.handle)
    plugins = current_plugins()
    configuration = {"strategy": strategy.name, "population_size": strategy.population_size, "steps": steps}
    plugins.emit("run_started", run=options.run, configuration=configuration)
    reason = "error"
    try:
        with (
            enter_scope(RunScope(budget, store, ledger, seed=options.seed, evaluating=True)),
            collect_materialisations() as materialised,
            ProgressBar(steps, settings.progress) as bar,
            span("run", options.run, **configuration),
        ):
            reason = await loop.run(steps, bar)
    except asyncio.CancelledError:
        reason = "cancelled"
        raise
    finally:
        progress = loop.progress
        if durable is not None:
            await durable.finish(reason, progress.best_theta, progress.best_fitness)
        summary: dict[str, Any] = {"best_fitness": progress.best_fitness, "generations": len(progress.history)}
        summary |= {"evaluations": progress.evaluations, "seconds": loop.seconds, "usage": ledger.total.to_dict()}
        plugins.emit("run_ended", run=options.run, finish_reason=reason, summary=summary)
    notes = [*runner.notes, *(f"materialised for {o}" for o in materialised.operations)]
    return OptimizeResult(
        theta=progress.best_theta,
        best_fitness=progress.best_fitness,
        initial_fitness=progress.initial_fitness,
        history=progress.history,
        finish_reason=reason,
        execution=runner.execution,
        reason=runner.reason,
        notes=tuple(notes),
        errors=tuple(progress.errors),
        dropped=progress.dropped,
        evaluations=progress.evaluations,
        seconds=loop.seconds,
        usage=ledger.total,
        block_size=strategy.block_size,
    )


class _Loop:
    """One run, from the first generation to the last."""

    def __init__(
        self, search: TensorSearch, options: LoopOptions, durable: DurableRun | None, ledger: UsageLedger
    ) -> None:
        self.search = search
        self.progress = search.progress
        self.options = options
        self.durable = durable
        self.ledger = ledger
        self.started = time.perf_counter()
        self._restore()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    async def run(self, steps: int, bar: ProgressBar) -> str:
        """All generations; returns the finish reason."""
        search = self.search
        if self.durable is not None and self.durable.point is None:
            await self._keep()
        while search.completed < steps:
            index = search.completed
            with span("generation", f"generation {index}") as traced:
                try:
                    fitness = await search.step()
                except BudgetExceededError as spent:
                    return f"budget:{spent.limit}"
                except AllMembersFailedError:
                    if index == 0:
                        raise
                    return "all members failed"
                await self._finish_generation(index, steps, fitness, bar)
                if traced is not None:
                    traced.set(**self.progress.history[-1].to_dict())
            stop = self._stop_reason() or await self._ask_callbacks()
            if stop:
                return stop
        return "completed"

    async def _finish_generation(self, index: int, steps: int, fitness: MemberFitness, bar: ProgressBar) -> None:
        search = self.search
        if index == 0:  # only now is it known how to run
            await search.select(search.initial)
        due = (index + 1) % self.options.validate_every == 0 or index + 1 == steps
        selected = await search.select() if due else math.nan
        finite = fitness.values[torch.isfinite(fitness.values)]
        generation = Generation(
            index=index,
            best=float(finite.max()),
            mean=float(finite.mean()),
            worst=float(finite.min()),
            center=selected,
            sigma=search.strategy.step_size(search.state),
            dropped=len(fitness.errors),
            evaluations=self.progress.evaluations,
            seconds=self.seconds,
        )
        self.progress.history.generations.append(generation)
        bar.update(generation)
        if self.durable is not None and ((index + 1) % self.options.checkpoint_every == 0 or index + 1 == steps):
            await self._keep()
        current_plugins().emit(
            "generation_finished", run=self.options.run, generation=index, record=generation.to_dict()
        )

    async def _keep(self) -> None:
        """Record everything that the next generation depends on."""
        assert self.durable is not None
        tensors, state = self.search.dump()
        runner = self.search.evaluation.runner
        meta = {"state": state, "loop": self.progress.to_json(), "runner": runner.decision()}
        latest = self.progress.history[-1].to_dict() if len(self.progress.history) else {}
        theta = self.progress.best_theta
        await self.durable.keep(self.search.completed, theta, tensors, meta, latest, self.ledger)

    def _restore(self) -> None:
        """Take up what :meth:`_keep` recorded last, if anything."""
        point = None if self.durable is None else self.durable.point
        if point is None or point.theta is None:
            return
        meta = point.strategy_meta
        self.search.load(point.strategy_tensors, meta["state"], point.generation)
        self.progress = self.search.progress = RunProgress.from_json(meta["loop"], point.theta)
        self.search.evaluation.runner.restore_decision(meta["runner"])
        # Earlier generations took their time too.
        self.started -= self.progress.history[-1].seconds if len(self.progress.history) else 0.0

    def _stop_reason(self) -> str | None:
        options, progress = self.options, self.progress
        if options.target is not None and progress.best_fitness >= options.target:
            return "target"
        if options.patience is not None and progress.without_improvement >= options.patience:
            return "patience"
        return None

    async def _ask_callbacks(self) -> str | None:
        if not self.options.callbacks:
            return None
        view = GenerationView(
            self.progress.history[-1], self.search.strategy.mean(self.search.state), self.progress.best_fitness
        )
        for callback in self.options.callbacks:
            answer = callback(view)
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return "callback"
        return None
