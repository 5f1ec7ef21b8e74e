"""Evaluating and optimizing a system: from a user's examples, metric and optimizer to the loop, and back to a new θ.

The methods of :class:`~hyperfunc.system.HyperSystem` of the same names hand over to these functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from hyperfunc.calls import MemoryCallStore
from hyperfunc.discovery import TrainableSystem, discover
from hyperfunc.durable import DurableRun, open_durable_run, open_journal
from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer, NamedStrategy, NoOpSystemOptimizer
from hyperfunc.fitness import Fitness, MemberFitness, Metric
from hyperfunc.history import History, OptimizeResult
from hyperfunc.optimization.arguments import OptimizeArguments
from hyperfunc.optimization.loop import OptimizationRun
from hyperfunc.optimization.members import MemberEvaluation
from hyperfunc.optimization.options import TensorOptimizer
from hyperfunc.optimization.progress import RunProgress
from hyperfunc.optimization.tensors import TensorSearch
from hyperfunc.optimization.texts import TextLearning, TextOptimizer
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.registry import Registry
from hyperfunc.relived import EarlyCalls
from hyperfunc.run_identity import identity_of, learned_values
from hyperfunc.scheduling.focus import build_strategy
from hyperfunc.scope import UsageLedger, current_scope, enter_scope
from hyperfunc.selection import as_examples, candidate_blocks, parameter_group, select_entries
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.tape import Tape
from hyperfunc.usage import Usage

__all__ = ["evaluate_members", "optimize_system", "optimize_system_tensors"]


@runtime_checkable
class _OldOptimizer(Protocol):
    """An optimizer of 0.3's kind, which does everything itself."""

    async def optimize(self, system: Any, train_data: Sequence[Example], metric_fn: Any) -> Any: ...


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
    await discover(system, examples, settings)
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
    """Texts and tensors together where the prompt optimizer can be taken a step at a time; else texts first."""
    train = as_examples(train_data)
    arguments = arguments.in_scope()
    prompts = system.prompt_optimizer
    if prompts is not None and not isinstance(prompts, TextOptimizer):
        with enter_scope(budget=arguments.budget, evaluating=True):
            await discover(system, train, arguments.settings)
            if any(entry.text.trainable for entry in system.registry.text_entries()):
                extra = {} if feedback_fn is None else {"feedback_fn": feedback_fn}
                await prompts.optimize(system, train, metric, **extra)
        prompts = None
    optimizer: Any = system.system_optimizer if system.system_optimizer is not None else ESHybridSystemOptimizer()
    if not isinstance(optimizer, (TensorOptimizer, NoOpSystemOptimizer)) and isinstance(optimizer, _OldOptimizer):
        await discover(system, train, arguments.settings)
        await optimizer.optimize(system, train_data, metric)
        return OptimizeResult(system.theta, math.nan, math.nan, History(), "completed")
    optimizer = _tensor_optimizer(optimizer, "system_optimizer")
    return await _optimize(system, train, metric, val_data, optimizer, prompts, arguments, feedback_fn)


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
    optimizer = _tensor_optimizer(optimizer, "optimizer")
    return await _optimize(system, train, metric, val_data, optimizer, None, arguments.in_scope(), None)


def _tensor_optimizer(given: Any, argument: str) -> Any:
    """``given``, or what the name of a strategy stands for."""
    if isinstance(given, str):
        return NamedStrategy(given)
    if isinstance(given, (TensorOptimizer, NoOpSystemOptimizer)) and not isinstance(given, type):
        return given
    raise ConfigurationError(
        f"{argument}: expected an optimizer such as ESHybridSystemOptimizer(), or the name of a strategy, got {given!r}"
    )


async def _optimize(
    system: TrainableSystem,
    train: Sequence[Example],
    metric: Metric,
    val_data: Sequence[Example] | None,
    optimizer: Any,
    prompts: TextOptimizer | None,
    arguments: OptimizeArguments,
    feedback_fn: Any,
) -> OptimizeResult:
    """One run over the tensors that ``optimizer`` and ``arguments`` select and the texts that ``prompts`` may learn."""
    validation: Sequence[Example] | None = None if val_data is None else as_examples(val_data)
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(open_journal(arguments.journal)) if arguments.is_durable else None
        around, budget = current_scope(), arguments.budget
        # What is upstream of tensors is asked for by every member with the same content: it is paid for once.
        store = around.store or MemoryCallStore() if journal is None else journal.call_store()
        early = EarlyCalls(store)
        # The first run may cost something, and so may all that comes before the first step.
        ledger = UsageLedger(None if around.ledger is None else around.ledger.record)
        looked_up = store if journal is None else early
        stack.enter_context(enter_scope(budget=budget, store=looked_up, ledger=ledger, evaluating=True))
        fresh = budget is not None and budget.spent == Usage()
        traced = await discover(system, train, arguments.settings)
        used = budget.spent if budget is not None and fresh else None
        entries = select_entries(system.registry.tensor_entries(), only=arguments.only, freeze=arguments.freeze)
        if isinstance(optimizer, NoOpSystemOptimizer):
            entries = []
        if prompts is not None and not any(entry.text.trainable for entry in system.registry.text_entries()):
            prompts = None
        if not entries and prompts is None:
            no_op = isinstance(optimizer, NoOpSystemOptimizer)
            why = "the optimizer is a no-op" if no_op else _why_nothing(system.registry, arguments)
            return OptimizeResult(system.theta, math.nan, math.nan, History(), "nothing to optimize", reason=why)
        group = parameter_group(entries)
        steps = 0 if not entries else arguments.steps if arguments.steps is not None else optimizer.steps
        options = arguments.loop_options(
            has_validation=validation is not None or prompts is not None, seed=getattr(optimizer, "seed", None)
        )
        durable = None
        if journal is not None:
            identity = identity_of(
                system, group, train, validation, metric, optimizer, prompts, options, steps, arguments.run
            )
            durable = await stack.enter_async_context(
                open_durable_run(
                    journal,
                    identity,
                    resume=arguments.resume,
                    budget=budget,
                    early=early,
                    used=used,
                    ledger=ledger,
                )
            )
            stack.enter_context(enter_scope(store=durable.calls))
            if durable.point is None:
                await _record_trace(system, durable, traced, train, settings=arguments.settings)
            if durable.initial_theta is not None:
                system.set_theta(durable.initial_theta)
        initial = system.theta
        texts = None
        if prompts is not None:
            search = await prompts.start(system, train, metric, feedback_fn, val_data=validation)
            texts = TextLearning(system, initial, search)
            train, validation = search.train, search.validation
        settings = resolve_settings(arguments.settings, system.settings)
        known = set(system.registry.all_components())
        progress = RunProgress(initial)
        evaluation = tensors = None
        if entries:
            runner = stack.enter_context(PopulationRunner(system.program(None, arguments.settings), settings))
            evaluation = MemberEvaluation(
                runner,
                metric,
                train,
                validation,
                minibatch=options.minibatch,
                economy=options.economy,
                seed=options.seed,
            )
            if options.economy.pace is not None and durable is not None and durable.point is None:
                kept = await durable.state_of_another_run()
                runner.take_pace((kept or {}).get("runner", {}))
            strategy = build_strategy(optimizer, group, options.economy.focus)
            tensors = TensorSearch(strategy, group, evaluation, progress, seed=options.seed)
        run = OptimizationRun(
            progress,
            evaluation,
            tensors,
            texts,
            steps,
            options=options,
            settings=settings,
            budget=budget,
            durable=durable,
            ledger=ledger,
        )
        try:
            result = await run.optimize()
        except BaseException:
            system.set_theta(initial)  # a run that fails leaves the system as it was
            raise
    moved = {*group.names, *learned_values(system), *([] if texts is None else texts.search.texts)}
    system.set_theta(initial.replace({name: result.theta[name] for name in moved}))
    late = sorted(set(system.registry.all_components()) - known)
    if late:
        note = f"first called during the run and therefore not optimized: {', '.join(late)}; register them before"
        result = replace(result, notes=(*result.notes, note))
    return result


async def _record_trace(
    system: TrainableSystem,
    durable: DurableRun,
    traced: tuple[int, Tape] | None,
    train: Sequence[Example],
    *,
    settings: Settings | None,
) -> None:
    """Keep what one run of the program calls, for the call graph: the first run that there was, or else one more."""
    if traced is None:
        try:
            _, tape = await system.record(train[0].inputs, settings=settings)
        except Exception:
            return  # the population will meet it too, and say so
        traced = (0, tape)
    await durable.journal.record_trace(durable.handle, traced[1], example=str(traced[0]), label="initial")


def _why_nothing(registry: Registry, arguments: OptimizeArguments) -> str:
    entries = registry.tensor_entries()
    if not entries:
        return f"no component has tensors (components: {', '.join(registry.all_components()) or 'none'})"
    if not any(entry.spec.trainable for entry in entries):
        names = ", ".join(entry.component for entry in entries)
        return f"no component may move its tensors; pass optimize_hparams=True to @hyperfunction ({names})"
    return f"only={arguments.only!r} and freeze={arguments.freeze!r} leave nothing"
