"""Evaluating and optimizing a system: from a user's examples, metric and optimizer to the loop, and back to a new θ.

The methods of :class:`~hyperfunc.system.HyperSystem` of the same names hand over to these functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer, NamedStrategy, NoOpSystemOptimizer
from hyperfunc.fitness import Fitness, MemberFitness, Metric
from hyperfunc.history import History, OptimizeResult
from hyperfunc.optimize import Callback, LoopOptions, TensorOptimizer, optimize_tensors
from hyperfunc.parameters.theta import Theta, ThetaValue
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.program import Program
from hyperfunc.registry import Registry
from hyperfunc.scope import enter_scope
from hyperfunc.selection import as_examples, candidate_blocks, parameter_group, select_entries
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.tape import Tape

__all__ = ["OptimizeArguments", "TrainableSystem", "evaluate_members", "optimize_system", "optimize_system_tensors"]

_DISCOVERY_RUNS = 8


class TrainableSystem(Protocol):
    """What evaluation and optimization need of a system."""

    settings: Settings
    prompt_optimizer: Any
    system_optimizer: Any

    @property
    def registry(self) -> Registry: ...

    @property
    def theta(self) -> Theta: ...

    def set_theta(self, theta: Mapping[str, ThetaValue]) -> None: ...

    def program(self, theta: Mapping[str, ThetaValue] | None = ..., settings: Settings | None = ...) -> Program: ...

    async def record(self, inputs: Mapping[str, Any]) -> tuple[Any, Tape]: ...


@runtime_checkable
class _OldOptimizer(Protocol):
    """An optimizer of 0.3's kind, which does everything itself."""

    async def optimize(self, system: Any, train_data: Sequence[Example], metric_fn: Any) -> Any: ...


@dataclass(frozen=True)
class OptimizeArguments:
    """The keyword arguments of ``optimize``; explained at :meth:`hyperfunc.system.HyperSystem.optimize`."""

    only: str | Sequence[str] | None = None
    freeze: str | Sequence[str] | None = None
    minibatch: int | None = None
    seed: int = 0
    steps: int | None = None
    validate_every: int | None = None
    patience: int | None = None
    target: float | None = None
    callbacks: Sequence[Callback] = ()
    settings: Settings | None = None
    run: str = "run"

    def loop_options(self, *, has_validation: bool, seed: int | None) -> LoopOptions:
        return LoopOptions(
            minibatch=self.minibatch,
            seed=self.seed if seed is None else seed,
            validate_every=self.validate_every or (1 if has_validation else 5),
            patience=self.patience,
            target=self.target,
            callbacks=self.callbacks,
            run=self.run,
        )


async def discover(system: TrainableSystem, examples: Sequence[Example]) -> None:
    """Let components register themselves: run the program on one example, or on a few where that costs nothing.

    A run that raises is no reason to stop here; whoever evaluates will hear of it.
    """
    registry = system.registry
    if registry.discovered:
        return
    for example in examples[:_DISCOVERY_RUNS]:
        try:
            _, tape = await system.record(example.inputs)
        except Exception:
            continue
        functions = registry.all_components()
        if any(c.suspended or (c.function in functions and functions[c.function].performs_io) for c in tape):
            break
    registry.discovered = True


async def evaluate_members(
    system: TrainableSystem,
    candidates: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    metric: Metric,
    *,
    seed: int = 0,
    settings: Settings | None = None,
) -> list[MemberFitness]:
    """Fitness of every candidate, block by block. A single candidate may change texts too; several only tensors."""
    examples = as_examples(examples)
    fitness = Fitness(metric, examples)
    batch = ExampleBatch([e.inputs for e in examples])
    await discover(system, examples)
    alone = len(candidates) == 1
    program = system.program(candidates[0] if alone else None, settings)
    blocks: list[Any] = [{}] if alone else candidate_blocks(program.theta, candidates)
    with (
        PopulationRunner(program, resolve_settings(settings, system.settings)) as runner,
        enter_scope(seed=seed, evaluating=True),
    ):
        parts = await runner.run(lambda b: blocks[b], range(len(blocks)), batch, fitness.reduce)
        return [await fitness.finish(part) for part in parts]


async def optimize_system(
    system: TrainableSystem,
    train_data: Sequence[Example],
    metric: Metric,
    val_data: Sequence[Example] | None,
    arguments: OptimizeArguments,
    feedback_fn: Any = None,
) -> OptimizeResult:
    """Texts first, by the prompt optimizer where one is set and there are texts; then tensors."""
    train = as_examples(train_data)
    await discover(system, train)
    trainable = [entry for entry in system.registry.text_entries() if entry.text.trainable]
    if system.prompt_optimizer is not None and trainable:
        extra = {} if feedback_fn is None else {"feedback_fn": feedback_fn}
        await system.prompt_optimizer.optimize(system, train, metric, **extra)
    optimizer: Any = system.system_optimizer if system.system_optimizer is not None else ESHybridSystemOptimizer()
    if isinstance(optimizer, str):
        optimizer = NamedStrategy(optimizer)
    if not isinstance(optimizer, (TensorOptimizer, NoOpSystemOptimizer)) and isinstance(optimizer, _OldOptimizer):
        await optimizer.optimize(system, train_data, metric)
        return OptimizeResult(system.theta, math.nan, math.nan, History(), "completed")
    return await optimize_system_tensors(system, train, metric, val_data, optimizer, arguments)


async def optimize_system_tensors(
    system: TrainableSystem,
    train_data: Sequence[Example],
    metric: Metric,
    val_data: Sequence[Example] | None,
    optimizer: Any,
    arguments: OptimizeArguments,
) -> OptimizeResult:
    """Improve the tensors that ``arguments`` select; the best θ becomes the system's current one."""
    train = as_examples(train_data)
    validation = None if val_data is None else as_examples(val_data)
    await discover(system, train)
    entries = select_entries(system.registry.tensor_entries(), only=arguments.only, freeze=arguments.freeze)
    if isinstance(optimizer, NoOpSystemOptimizer) or not entries:
        return OptimizeResult(system.theta, math.nan, math.nan, History(), "nothing to optimize")
    group = parameter_group(entries)
    settings = resolve_settings(arguments.settings, system.settings)
    known = set(system.registry.all_components())
    with PopulationRunner(system.program(None, arguments.settings), settings) as runner:
        result = await optimize_tensors(
            runner,
            optimizer.build(group),
            group,
            arguments.steps if arguments.steps is not None else optimizer.steps,
            train,
            metric,
            validation,
            options=arguments.loop_options(
                has_validation=validation is not None, seed=getattr(optimizer, "seed", None)
            ),
            settings=settings,
        )
    system.set_theta({name: result.theta[name] for name in group.names})
    late = sorted(set(system.registry.all_components()) - known)
    if late:
        note = f"first called during the run and therefore not optimized: {', '.join(late)}; register them before"
        result = replace(result, notes=(*result.notes, note))
    return result
