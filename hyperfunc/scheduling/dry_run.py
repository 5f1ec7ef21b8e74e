"""``system.dry_run()``: from a system and the arguments of ``optimize`` to a :class:`Forecast`. Spends nothing that the
caller did not allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperfunc.discovery import TrainableSystem
from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer, NamedStrategy, NoOpSystemOptimizer
from hyperfunc.optimization.arguments import OptimizeArguments
from hyperfunc.optimization.options import TensorOptimizer
from hyperfunc.scheduling.economy import NO_ECONOMY
from hyperfunc.scheduling.forecast import Forecast, count_runs, scaled, spread
from hyperfunc.scope import current_scope, enter_scope
from hyperfunc.selection import as_examples, parameter_group, select_entries
from hyperfunc.usage import Usage

__all__ = ["forecast"]


async def forecast(
    system: TrainableSystem,
    train_data: Sequence[Example],
    val_data: Sequence[Example] | None,
    arguments: OptimizeArguments,
    *,
    per_run: Usage | tuple[Usage, Usage] | None,
    record: int,
) -> Forecast:
    """What ``optimize`` would run and pay for; explained at :meth:`hyperfunc.system.HyperSystem.dry_run`.

    Raises:
        ConfigurationError: the usage of one run is neither declared nor allowed to be measured, and is not known to be
            nothing; or the optimizer does not say what it will run.
        EvaluationError: no examples.
    """
    train = as_examples(train_data)
    validation = None if val_data is None else as_examples(val_data)
    if record < 0:
        raise ConfigurationError(f"record: expected a number of examples >= 0, got {record}")
    measured = [await _measure(system, example, arguments) for example in train[:record]]
    low, high, source = _usage_of_one_run(system, per_run, measured)
    notes = [] if system.prompt_optimizer is None else ["the prompt optimizer's own calls are not included"]
    if arguments.target is not None or arguments.patience is not None or arguments.callbacks or arguments.budget:
        notes.append("target, patience, callbacks or a budget may end the run before this")
    if arguments.economy != NO_ECONOMY:
        notes.append("an economy runs less than this, and only in the course of the run is it known how much")
    entries = select_entries(system.registry.tensor_entries(), only=arguments.only, freeze=arguments.freeze)
    optimizer: Any = system.system_optimizer if system.system_optimizer is not None else ESHybridSystemOptimizer()
    optimizer = NamedStrategy(optimizer) if isinstance(optimizer, str) else optimizer
    if not entries or isinstance(optimizer, NoOpSystemOptimizer):
        return Forecast(0, 0, Usage(), Usage(), source, (*notes, "there is no tensor to optimize"))
    if not isinstance(optimizer, TensorOptimizer):
        raise ConfigurationError(f"{type(optimizer).__name__} does not say how many generations it will run")
    steps = arguments.steps if arguments.steps is not None else optimizer.steps
    options = arguments.loop_options(has_validation=validation is not None, seed=None)
    runs = count_runs(
        steps=steps,
        population_size=optimizer.build(parameter_group(entries)).population_size,
        train=len(train),
        minibatch=options.minibatch,
        selection=len(train if validation is None else validation),
        validate_every=options.validate_every,
    )
    # Equal calls of different members are paid for once; whether calls are equal, nobody knows before.
    paid_runs = _distinct_examples(steps, len(train), validation, options.minibatch)
    # The first run of all lets components register themselves; after that the system knows them.
    first = 0 if system.registry.discovered else 1
    return Forecast(steps, runs, scaled(low, paid_runs), scaled(high, runs + first), source, tuple(notes))


async def _measure(system: TrainableSystem, example: Example, arguments: OptimizeArguments) -> Usage:
    with enter_scope(budget=arguments.budget or current_scope().budget, store=None, evaluating=True):
        _, tape = await system.record(example.inputs)
    return tape.usage


def _usage_of_one_run(
    system: TrainableSystem, per_run: Usage | tuple[Usage, Usage] | None, measured: Sequence[Usage]
) -> tuple[Usage, Usage, str]:
    if per_run is not None:
        if measured:
            raise ConfigurationError("give per_run= or record=, not both: one of them says what a run uses")
        low, high = (per_run, per_run) if isinstance(per_run, Usage) else per_run
        if spread([low, high]) != (low, high):
            raise ConfigurationError(f"per_run: expected (least, most), got {low} and {high}")
        return low, high, "declared"
    if measured:
        low, high = spread(measured)
        return low, high, f"measured on {len(measured)} example{'s' * (len(measured) > 1)}"
    functions = system.registry.all_components()
    if not functions:
        raise ConfigurationError(
            "the system has not run yet, so that its components are unknown; say per_run=Usage(...), or allow some "
            "runs with record=1 (they may cost something)"
        )
    paying = sorted(name for name, function in functions.items() if function.performs_io)
    if paying:
        raise ConfigurationError(
            f"{', '.join(paying)} may cost something; say per_run=Usage(...), or allow some runs with record=1"
        )
    return Usage(), Usage(), "no component performs I/O"


def _distinct_examples(steps: int, train: int, validation: Sequence[Example] | None, minibatch: int | None) -> int:
    """How many different examples are run for certain."""
    if steps == 0:
        return 0
    if minibatch is None or minibatch >= train or validation is None:
        seen = train  # all of them, by the members or by the centre
    else:
        seen = min(steps, train // minibatch) * minibatch
    return seen + (0 if validation is None else len(validation))
