"""What a resumed run is compared with: program, data, and everything that decides its bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperfunc.discovery import TrainableSystem
from hyperfunc.durable import RunIdentity
from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.fitness import Metric
from hyperfunc.journal import fingerprint_data, fingerprint_program, fingerprint_system
from hyperfunc.optimization.options import LoopOptions
from hyperfunc.optimization.texts import TextOptimizer

__all__ = ["identity_of", "learned_values"]


def identity_of(
    system: TrainableSystem,
    group: ParameterGroup,
    train: Sequence[Example],
    validation: Sequence[Example] | None,
    metric: Metric,
    optimizer: Any,
    prompts: TextOptimizer | None,
    options: LoopOptions,
    steps: int,
    name: str | None,
) -> RunIdentity:
    """What a resumed run is compared with: program, data, and everything that decides its bits."""
    moved = {*group.parameters, *learned_values(system)}
    frozen = [name for name in system.theta if name not in moved]
    config = {
        "steps": steps,
        "seed": options.seed,
        "minibatch": options.minibatch,
        "economy": repr(options.economy),
        "validate_every": options.validate_every,
        "patience": options.patience,
        "target": options.target,
        "parameters": list(group.names),
        "other_parameters": {name: system.theta.select([name]).content_hash for name in frozen},
        "optimizer": _without_steps(optimizer),
        "metric": metric if isinstance(metric, str) else fingerprint_program(metric).texts(),
    }
    if prompts is not None:
        config |= {"prompt_optimizer": fingerprint_program(prompts).texts(), "schedule": options.schedule}
    return RunIdentity(
        name,
        config,
        fingerprint_system(system),
        fingerprint_data(train=train, validation=validation),
        options.seed,
    )


def learned_values(system: TrainableSystem) -> Sequence[str]:
    """Values of θ that follow from what a population's runs came to."""
    statistics = system.program().statistics
    return () if statistics is None else statistics.names


def _without_steps(optimizer: Any) -> dict[str, str]:
    """What an optimizer is made of, but for how long it goes on, which may differ when a run is resumed."""
    texts = fingerprint_program(optimizer).texts()
    texts.pop(f"constant {type(optimizer).__qualname__}.steps", None)
    return texts
