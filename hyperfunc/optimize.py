"""The loop that joins strategy, population and fitness: ask, run, score, tell, select; generation after generation.

θ, the strategy's state and the generation number are all there is to a run; everything else follows from them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hyperfunc.budget import Budget
from hyperfunc.durable import DurableRun
from hyperfunc.errors import BudgetExceededError, ConfigurationError, EvaluationError
from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.evolution.state import dump_state, load_state
from hyperfunc.fitness import Fitness, MemberFitness, Metric
from hyperfunc.history import Generation, History, OptimizeResult
from hyperfunc.observability.spans import span
from hyperfunc.parameters.theta import Theta
from hyperfunc.plugins import current_plugins
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.factored_report import collect_materialisations
from hyperfunc.population.members import DenseMembers, MemberBlock
from hyperfunc.population.noise import generator_for
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.progress import ProgressBar
from hyperfunc.scope import RunScope, UsageLedger, current_scope, enter_scope
from hyperfunc.settings import Settings
from hyperfunc.usage import Usage

__all__ = ["Callback", "GenerationView", "LoopOptions", "TensorOptimizer", "optimize_tensors"]


@runtime_checkable
class TensorOptimizer(Protocol):
    """What ``system_optimizer=`` may be: it names a number of generations and builds a strategy."""

    steps: int

    def build(self, group: ParameterGroup) -> Strategy[Any]:
        """The strategy for these parameters."""
        ...


@dataclass(frozen=True)
class GenerationView:
    """What a callback sees after a generation: values only."""

    generation: Generation
    center: Mapping[str, Tensor]
    best_fitness: float


Callback = Callable[[GenerationView], bool | Awaitable[bool | None] | None]
"""Called after every generation; a true result ends the run (``finish_reason="callback"``)."""


@dataclass(frozen=True)
class LoopOptions:
    """How long to go on, on what, and what to adopt.

    Attributes:
        minibatch: examples per generation, the same for all members; ``None`` takes all.
        seed: of noise and minibatches.
        validate_every: generations between two evaluations of the centre on the selection data.
        patience: end after this many evaluations of the centre without improvement.
        target: end when the selection fitness reaches this.
        callbacks: called after every generation.
        run: the run's name, for events and the journal.
        checkpoint_every: generations between two records of the whole state, where a journal is kept.
    """

    minibatch: int | None = None
    seed: int = 0
    validate_every: int = 5
    patience: int | None = None
    target: float | None = None
    callbacks: Sequence[Callback] = ()
    run: str = "run"
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        for name in ("minibatch", "validate_every", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name}: expected a whole number >= 1, got {value}")


@dataclass
class _Progress:
    """What changes while the loop runs."""

    best_theta: Theta
    best_fitness: float = math.nan
    initial_fitness: float = math.nan
    without_improvement: int = 0
    evaluations: int = 0
    dropped: int = 0
    errors: list[Exception] = field(default_factory=list)
    history: History = field(default_factory=History)

    def offer(self, fitness: float, theta: Theta) -> None:
        """Adopt ``theta`` if its fitness is the best so far; NaN and infinity never are."""
        if math.isnan(self.initial_fitness) and not self.history.generations:
            self.initial_fitness = fitness
        if math.isfinite(fitness) and not fitness <= self.best_fitness:
            self.best_fitness, self.best_theta = fitness, theta
            self.without_improvement = 0
        else:
            self.without_improvement += 1

    def to_json(self) -> dict[str, Any]:
        """Everything but θ and the errors, as JSON values (NaN becomes ``None``)."""
        return {
            "best_fitness": _json_number(self.best_fitness),
            "initial_fitness": _json_number(self.initial_fitness),
            "without_improvement": self.without_improvement,
            "evaluations": self.evaluations,
            "dropped": self.dropped,
            "history": [{k: _json_number(v) for k, v in g.to_dict().items()} for g in self.history],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], best_theta: Theta) -> _Progress:
        """What :meth:`to_json` gave."""
        generations = [Generation.from_dict(record) for record in data["history"]]
        return cls(
            best_theta,
            math.nan if data["best_fitness"] is None else data["best_fitness"],
            math.nan if data["initial_fitness"] is None else data["initial_fitness"],
            data["without_improvement"],
            data["evaluations"],
            data["dropped"],
            history=History(generations),
        )

    def note_errors(self, errors: Mapping[int, Exception]) -> None:
        self.dropped += len(errors)
        self.errors += list(errors.values())[: max(0, 10 - len(self.errors))]


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


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
    loop = _Loop(runner, strategy, group, train, metric, validation, options, budget, durable, ledger)
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
    """One optimization of tensors, from the first generation to the last."""

    def __init__(
        self,
        runner: PopulationRunner,
        strategy: Strategy[Any],
        group: ParameterGroup,
        train: Sequence[Example],
        metric: Metric,
        validation: Sequence[Example] | None,
        options: LoopOptions,
        budget: Budget | None,
        durable: DurableRun | None,
        ledger: UsageLedger,
    ) -> None:
        self.runner = runner
        self.strategy = strategy
        self.train = train
        self.metric = metric
        self.options = options
        self.budget = budget
        self.durable = durable
        self.ledger = ledger
        self.theta = runner.program.theta
        self.state = strategy.init(group, {n: self.theta.tensors[n] for n in group.names}, options.seed)
        self.started = time.perf_counter()
        self.progress = _Progress(self.theta)
        self.completed = 0
        self._restore()
        self._everything = (Fitness(metric, train), ExampleBatch([e.inputs for e in train]))
        self._selection = self._everything
        if validation is not None:
            self._selection = (Fitness(metric, validation), ExampleBatch([e.inputs for e in validation]))

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    async def run(self, steps: int, bar: ProgressBar) -> str:
        """All generations; returns the finish reason."""
        if self.durable is not None and self.durable.point is None:
            await self._keep()
        for index in range(self.completed, steps):
            with span("generation", f"generation {index}") as traced:
                try:
                    fitness = await self._evaluate_population(index)
                except BudgetExceededError as spent:
                    return f"budget:{spent.limit}"
                spent_inside = [e for e in fitness.errors.values() if isinstance(e, BudgetExceededError)]
                if spent_inside:
                    return f"budget:{spent_inside[0].limit}"
                values = fitness.values
                if not bool(torch.isfinite(values).any()):
                    return self._no_member_left(index)
                self.state = self.strategy.tell(self.state, values)
                await self._finish_generation(index, steps, fitness, bar)
                if traced is not None:
                    traced.set(**self.progress.history[-1].to_dict())
            stop = self._stop_reason() or await self._ask_callbacks()
            if stop:
                return stop
        return "completed"

    async def _evaluate_population(self, index: int) -> MemberFitness:
        """Fitness of every member on this generation's examples."""
        state, strategy = self.state, self.strategy
        fitness, batch = self._examples_of(index)
        if self.budget is not None:
            runs = Usage(evaluations=strategy.population_size * len(batch.inputs))
            self.budget.reserve(runs).settle(runs)
        parts = await self.runner.run(
            lambda block: strategy.ask(state, block), strategy.blocks(), batch, fitness.reduce
        )
        whole = MemberFitness(torch.full((strategy.population_size,), math.nan, dtype=torch.float64))
        for block, part in zip(strategy.blocks(), parts, strict=True):
            scored = await fitness.finish(part)
            members = strategy.members_of(block)
            whole.values[members] = scored.values
            whole.errors.update({members.start + member: error for member, error in scored.errors.items()})
        self.progress.evaluations += strategy.population_size * len(batch.inputs)
        self.progress.note_errors(whole.errors)
        return whole

    def _examples_of(self, index: int) -> tuple[Fitness, ExampleBatch]:
        """This generation's examples: all, or a minibatch of an epoch's shuffle; the same for every member."""
        size, count = self.options.minibatch, len(self.train)
        if size is None or size >= count:
            return self._everything
        per_epoch = count // size
        epoch, position = divmod(index, per_epoch)
        order = torch.randperm(count, generator=generator_for(self.options.seed, "minibatch", epoch)).tolist()
        chosen = [self.train[i] for i in order[position * size : (position + 1) * size]]
        return Fitness(self.metric, chosen), ExampleBatch([e.inputs for e in chosen])

    async def _select(self, center: Mapping[str, Tensor]) -> float:
        """Evaluate ``center`` on the selection data and adopt it if it is the best so far."""
        fitness, batch = self._selection
        block: MemberBlock = {name: DenseMembers(value.unsqueeze(0)) for name, value in center.items()}

        def reduce(index: int, outcome: BlockOutcome) -> MemberFitness:
            return fitness.reduce(index, outcome)

        if not self.runner.execution:
            return math.nan  # how to run is decided by the first population
        part = (await self.runner.run(lambda _: block, [0], batch, reduce))[0]
        scored = await fitness.finish(part)
        value = float(scored.values[0])
        self.progress.evaluations += len(batch.inputs)
        self.progress.note_errors(scored.errors)
        self.progress.offer(value, self.theta.replace(dict(center)))
        return value

    async def _finish_generation(self, index: int, steps: int, fitness: MemberFitness, bar: ProgressBar) -> None:
        if index == 0:  # only now is it known how to run
            initial = {name: self.theta.tensors[name] for name in self.strategy.mean(self.state)}
            await self._select(initial)
        center = self.strategy.best(self.state)
        due = (index + 1) % self.options.validate_every == 0 or index + 1 == steps
        selected = await self._select(center) if due else math.nan
        finite = fitness.values[torch.isfinite(fitness.values)]
        generation = Generation(
            index=index,
            best=float(finite.max()),
            mean=float(finite.mean()),
            worst=float(finite.min()),
            center=selected,
            sigma=self.strategy.step_size(self.state),
            dropped=len(fitness.errors),
            evaluations=self.progress.evaluations,
            seconds=self.seconds,
        )
        self.progress.history.generations.append(generation)
        self.completed = index + 1
        bar.update(generation)
        if self.durable is not None and (
            self.completed % self.options.checkpoint_every == 0 or self.completed == steps
        ):
            await self._keep()
        current_plugins().emit(
            "generation_finished", run=self.options.run, generation=index, record=generation.to_dict()
        )

    async def _keep(self) -> None:
        """Record everything that the next generation depends on."""
        assert self.durable is not None
        tensors, state = dump_state(self.state)
        meta = {"state": state, "loop": self.progress.to_json(), "runner": self.runner.decision()}
        latest = self.progress.history[-1].to_dict() if len(self.progress.history) else {}
        theta = self.progress.best_theta
        await self.durable.keep(self.completed, theta, tensors, meta, latest, self.ledger)

    def _restore(self) -> None:
        """Take up what :meth:`_keep` recorded last, if anything."""
        point = None if self.durable is None else self.durable.point
        if point is None or point.theta is None:
            return
        meta = point.strategy_meta
        self.state = load_state(self.strategy, point.strategy_tensors, meta["state"])
        self.progress = _Progress.from_json(meta["loop"], point.theta)
        self.runner.restore_decision(meta["runner"])
        self.completed = point.generation
        # Earlier generations took their time too.
        self.started -= self.progress.history[-1].seconds if len(self.progress.history) else 0.0

    def _no_member_left(self, index: int) -> str:
        errors = self.progress.errors
        if index == 0:
            first = errors[0] if errors else None
            detail = (
                f"; the first raised {type(first).__name__}: {first}" if first else "; every fitness is NaN or infinite"
            )
            raise EvaluationError(f"no member of the first generation has a finite fitness{detail}") from first
        return "all members failed"

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
        view = GenerationView(self.progress.history[-1], self.strategy.mean(self.state), self.progress.best_fitness)
        for callback in self.options.callbacks:
            answer = callback(view)
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return "callback"
        return None
