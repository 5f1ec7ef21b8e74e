"""``system.dry_run()``: from a system and the arguments of ``optimize`` to a :class:`Forecast`. Spends nothing that the
caller did not allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hyperfunc.discovery import TrainableSystem
from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer, NamedStrategy, NoOpSystemOptimizer
from hyperfunc.optimization.arguments import OptimizeArguments
from hyperfunc.optimization.options import TensorOptimizer
from hyperfunc.scheduling.economy import NO_ECONOMY
from hyperfunc.scheduling.forecast import Forecast, TextSteps, average, capped, count_runs, scaled, spread
from hyperfunc.scheduling.text_forecast import ForeseeingTextOptimizer, TextForecast
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
    low, typical, high, source = _usage_of_one_run(system, per_run, measured)
    entries = select_entries(system.registry.tensor_entries(), only=arguments.only, freeze=arguments.freeze)
    optimizer: Any = system.system_optimizer if system.system_optimizer is not None else ESHybridSystemOptimizer()
    optimizer = NamedStrategy(optimizer) if isinstance(optimizer, str) else optimizer
    if isinstance(optimizer, NoOpSystemOptimizer):
        entries = []
    if entries and not isinstance(optimizer, TensorOptimizer):
        raise ConfigurationError(f"{type(optimizer).__name__} does not say how many generations it will run")
    search, notes = _text_search(system, train, validation, arguments, tensors_move=bool(entries))
    if arguments.target is not None or arguments.patience is not None or arguments.callbacks or arguments.budget:
        notes.append("target, patience, callbacks or a budget may end the run before this")
    if arguments.economy != replace(NO_ECONOMY, kernels=arguments.economy.kernels, pace=arguments.economy.pace):
        notes.append("an economy runs less than this, and only in the course of the run is it known how much")
    # The first run of all lets components register themselves; after that the system knows them.
    first = 0 if system.registry.discovered else 1
    texts = None if search is None else TextSteps.of(search, (low, typical, high))
    steps = runs = paid_runs = 0
    if not entries:
        notes.append("there is no tensor to optimize")
    else:
        steps = arguments.steps if arguments.steps is not None else optimizer.steps
        options = arguments.loop_options(has_validation=validation is not None or search is not None, seed=None)
        learned_on = len(train) if search is None else search.train
        judged_on = search.validation if search is not None else None if validation is None else len(validation)
        runs = count_runs(
            steps=steps,
            population_size=optimizer.build(parameter_group(entries)).population_size,
            train=learned_on,
            minibatch=options.minibatch,
            selection=learned_on if judged_on is None else judged_on,
            validate_every=options.validate_every,
        )
        # Equal calls of different members are paid for once; whether calls are equal, nobody knows before.
        paid_runs = _distinct_examples(steps, learned_on, judged_on, options.minibatch)
    if texts is None:
        first = first if entries else 0
        least, most = scaled(low, paid_runs), scaled(high, runs + first)
    else:
        if entries:  # the centre is judged before the first step, and again with every text that is accepted
            runs += texts.search.validation * (texts.search.proposals + (steps == 0))
            if arguments.pretest:
                paid_runs = texts.search.validation
                notes.append("the run ends at once where a look at the validation examples finds nothing to gain")
        # Runs of equal texts, parameters and examples make equal calls, whether tensors or texts are being learned.
        least = scaled(low, max(paid_runs, texts.search.runs.least))
        most = scaled(high, runs + first) + texts.high
    if arguments.budget is not None:
        left = arguments.budget.remaining
        least, most = capped(least, left), capped(most, left)
        if texts is not None:
            texts = replace(
                texts,
                low=capped(texts.low, left),
                expected=capped(texts.expected, left),
                high=capped(texts.high, left),
            )
    return Forecast(steps, runs, least, most, source, tuple(notes), texts)


def _text_search(
    system: TrainableSystem,
    train: Sequence[Example],
    validation: Sequence[Example] | None,
    arguments: OptimizeArguments,
    *,
    tensors_move: bool,
) -> tuple[TextForecast | None, list[str]]:
    """What the prompt optimizer says of its search; and what it cannot say."""
    prompts = system.prompt_optimizer
    if prompts is None:
        return None, []
    if not isinstance(prompts, ForeseeingTextOptimizer):
        return None, ["the prompt optimizer's own calls are not included: it does not say what it will do"]
    if not system.registry.all_components():
        return None, ["the prompt optimizer's own calls are not included: the system's texts are not known yet"]
    if not any(entry.text.trainable for entry in system.registry.text_entries()):
        return None, []
    # With a budget, what is left of it decides how much is looked at before the first step.
    pretest = arguments.pretest and arguments.budget is None
    found = prompts.forecast(system, train, val_data=validation, pretest=pretest, tensors_move=tensors_move)
    return found, list(found.notes)


async def _measure(system: TrainableSystem, example: Example, arguments: OptimizeArguments) -> Usage:
    with enter_scope(budget=arguments.budget or current_scope().budget, store=None, evaluating=True):
        _, tape = await system.record(example.inputs)
    return tape.usage


def _usage_of_one_run(
    system: TrainableSystem, per_run: Usage | tuple[Usage, Usage] | None, measured: Sequence[Usage]
) -> tuple[Usage, Usage, Usage, str]:
    """The least, the average and the most, and where that is from."""
    if per_run is not None:
        if measured:
            raise ConfigurationError("give per_run= or record=, not both: one of them says what a run uses")
        low, high = (per_run, per_run) if isinstance(per_run, Usage) else per_run
        if spread([low, high]) != (low, high):
            raise ConfigurationError(f"per_run: expected (least, most), got {low} and {high}")
        return low, average([low, high]), high, "declared"
    if measured:
        low, high = spread(measured)
        return low, average(measured), high, f"measured on {len(measured)} example{'s' * (len(measured) > 1)}"
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
    return Usage(), Usage(), Usage(), "no component performs I/O"


def _distinct_examples(steps: int, train: int, validation: int | None, minibatch: int | None) -> int:
    """How many different examples are run for certain."""
    if steps == 0:
        return 0
    if minibatch is None or minibatch >= train or validation is None:
        seen = train  # all of them, by the members or by the centre
    else:
        seen = min(steps, train // minibatch) * minibatch
    return seen + (validation or 0)
