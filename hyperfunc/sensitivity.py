"""What each component contributes to the score: how much its parameters move it, and what is lost without them.

``sensitivity`` perturbs one component at a time by antithetic pairs ``θ ± σ ε`` (the pairs of OpenAI-ES) and reads two
numbers from the pairs' fitness: half the difference is what the perturbation does to first order, the mean less the
unperturbed fitness what it does beyond. ``ablate`` takes away what training gave a component, or puts another function
in its place. Nothing here changes the system.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperfunc.binding import Binding
from hyperfunc.discovery import TrainableSystem, discover
from hyperfunc.errors import ConfigurationError, UnknownParameterError
from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.openai_es import OpenAIES
from hyperfunc.fitness import Fitness, MemberFitness, Metric
from hyperfunc.parameters.theta import ThetaValue
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.members import MemberBlock
from hyperfunc.population.noise import generator_for
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.program import Program
from hyperfunc.registry import Registry
from hyperfunc.scope import enter_scope
from hyperfunc.selection import as_examples, parameter_group, select_entries
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.training import evaluate_members

__all__ = ["Ablation", "ComponentSensitivity", "Sensitivity", "ablate_component", "measure_sensitivity"]

Patterns = str | Sequence[str] | None


@dataclass(frozen=True)
class ComponentSensitivity:
    """How the score answers to one component's parameters.

    Attributes:
        component: dotted name.
        effect: root mean square over the pairs of ``(f(θ+σε) - f(θ-σε)) / 2``, in units of the score.
        bend: mean over the pairs of ``(f(θ+σε) + f(θ-σε)) / 2 - f(θ)``; clearly below 0 near a maximum.
        bend_error: standard error of ``bend``; NaN with fewer than two pairs.
        pairs: how many counted; those of which a run raised do not.
    """

    component: str
    effect: float
    bend: float
    bend_error: float
    pairs: int


@dataclass(frozen=True)
class Sensitivity:
    """All components, the most influential first.

    Attributes:
        fitness: of the unperturbed θ.
        sigma: deviation of the perturbations, in latent units (of the range, for bounded parameters).
        evaluations: (member, example) runs.
    """

    fitness: float
    sigma: float
    components: tuple[ComponentSensitivity, ...]
    evaluations: int

    def __getitem__(self, component: str) -> ComponentSensitivity:
        for entry in self.components:
            if entry.component == component:
                return entry
        raise UnknownParameterError(component, [entry.component for entry in self.components])

    def __str__(self) -> str:
        rows = [f"fitness {self.fitness:.5g}; per component, under noise of σ = {self.sigma:g}:"]
        rows += [
            f"  {e.component}: effect {e.effect:.3g}, bend {e.bend:+.3g} ± {e.bend_error:.2g}" for e in self.components
        ]
        return "\n".join(rows)


@dataclass(frozen=True)
class Ablation:
    """A system's score with and without one component.

    Attributes:
        score, without: on the same examples.
        standard_error: of ``contribution``, from the paired differences per example; NaN where the metric gives one
            number for all examples, or there is only one.
    """

    component: str
    score: float
    without: float
    standard_error: float
    examples: int

    @property
    def contribution(self) -> float:
        """What the component adds to the score."""
        return self.score - self.without

    def __str__(self) -> str:
        return (
            f"{self.component}: {self.score:.5g} with, {self.without:.5g} without; contributes "
            f"{self.contribution:+.3g} ± {self.standard_error:.2g}"
        )


async def measure_sensitivity(
    system: TrainableSystem,
    examples: Sequence[Example],
    metric: Metric,
    *,
    only: Patterns,
    freeze: Patterns,
    members: int,
    sigma: float,
    seed: int,
    settings: Settings | None,
) -> Sensitivity:
    """Explained at :meth:`hyperfunc.system.HyperSystem.sensitivity`."""
    examples = as_examples(examples)
    if members < 2 or members % 2:
        raise ConfigurationError(f"members: expected an even number of at least 2, got {members}")
    (unperturbed,) = await evaluate_members(system, [{}], examples, metric, seed=seed, settings=settings)
    if unperturbed.errors:
        raise next(iter(unperturbed.errors.values()))
    fitness = float(unperturbed.values[0])
    entries = select_entries(system.registry.tensor_entries(), only=only, freeze=freeze)
    strategy = OpenAIES(population_size=members, sigma=sigma, antithetic=True)
    scoring, batch = Fitness(metric, examples), ExampleBatch([e.inputs for e in examples])
    found = []
    resolved = resolve_settings(settings, system.settings)
    with (
        PopulationRunner(system.program(None, settings), resolved) as runner,
        enter_scope(seed=seed, evaluating=True),
    ):
        for component in dict.fromkeys(entry.component for entry in entries):
            group = parameter_group(entry for entry in entries if entry.component == component)
            state = strategy.init(group, {n: system.theta.tensors[n] for n in group.names}, seed)

            def ask(block: int, state: Any = state) -> MemberBlock:
                return strategy.ask(state, block)

            parts = await runner.run(ask, strategy.blocks(), batch, scoring.reduce)
            values = torch.cat([(await scoring.finish(part)).values for part in parts])
            found.append(_component(component, values, strategy.twins(), fitness))
    found.sort(key=lambda entry: (-entry.effect if math.isfinite(entry.effect) else math.inf, entry.component))
    return Sensitivity(fitness, sigma, tuple(found), len(examples) * (1 + members * len(found)))


def _component(name: str, values: Tensor, twins: Tensor | None, fitness: float) -> ComponentSensitivity:
    assert twins is not None
    first = torch.arange(len(values)) < twins  # one of each pair
    plus, minus = values[first], values[twins[first]]
    counted = torch.isfinite(plus) & torch.isfinite(minus)
    plus, minus = plus[counted], minus[counted]
    pairs = len(plus)
    if pairs == 0:
        return ComponentSensitivity(name, math.nan, math.nan, math.nan, 0)
    bends = (plus + minus) / 2 - fitness
    error = float(bends.std() / math.sqrt(pairs)) if pairs > 1 else math.nan
    return ComponentSensitivity(
        name, float(((plus - minus) / 2).square().mean().sqrt()), float(bends.mean()), error, pairs
    )


async def ablate_component(
    system: TrainableSystem,
    component: str,
    examples: Sequence[Example],
    metric: Metric,
    *,
    replacement: Callable[..., Any] | None,
    seed: int,
    settings: Settings | None,
) -> Ablation:
    """Explained at :meth:`hyperfunc.system.HyperSystem.ablate`."""
    examples = as_examples(examples)
    await discover(system, examples, settings)
    components = system.registry.all_components()
    if component not in components:
        raise UnknownParameterError(component, components)
    (whole,) = await evaluate_members(system, [{}], examples, metric, seed=seed, settings=settings)
    if replacement is None:
        values = _initial_values(system.registry, component)
        if not values:
            raise ConfigurationError(
                f"{component} has no parameters to take away; say replacement=, a function called in its place"
            )
        (without,) = await evaluate_members(system, [values], examples, metric, seed=seed, settings=settings)
    else:
        program = system.program(None, settings)
        with enter_scope(seed=seed, evaluating=True):
            without = await _scored_with_replacement(program, component, replacement, examples, metric)
    for fitness in (whole, without):
        if fitness.errors:
            raise next(iter(fitness.errors.values()))
    return Ablation(component, float(whole.values[0]), float(without.values[0]), _error(whole, without), len(examples))


async def _scored_with_replacement(
    program: Program, component: str, replacement: Callable[..., Any], examples: Sequence[Example], metric: Metric
) -> MemberFitness:
    def route(function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[Any] | None:
        return _call(replacement, args, kwargs) if name == component else None

    outcome = BlockOutcome(1, len(examples), rows=[[None] * len(examples)])
    assert outcome.rows is not None
    for position, example in enumerate(examples):
        try:
            binding = Binding(program.theta, route=route, defaults=program.defaults)
            outcome.rows[0][position] = await program(binding, example.inputs)
        except Exception as error:
            outcome.errors[0, position] = error
    fitness = Fitness(metric, examples)
    return await fitness.finish(fitness.reduce(0, outcome))


async def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The replacement, with awaitable arguments awaited, as a component's are."""
    result = function(*[await _value(a) for a in args], **{name: await _value(a) for name, a in kwargs.items()})
    return await _value(result)


async def _value(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value


def _initial_values(registry: Registry, component: str) -> Mapping[str, ThetaValue]:
    """The values that ``component`` has in a fresh system of the same seed, by dotted name."""
    head, _, rest = component.partition(".")
    if head in registry.children:
        return {f"{head}.{name}": value for name, value in _initial_values(registry.children[head], rest).items()}
    function = registry.components[component]
    values: dict[str, ThetaValue] = {
        f"{component}.{spec.name}": spec.initial_value(
            generator_for(*registry.seed_path, "initial", component, spec.name)
        )
        for spec in function.tensor_specs
    }
    return {**values, **{f"{component}.{name}": text.value for name, text in function.texts.items()}}


def _error(whole: MemberFitness, without: MemberFitness) -> float:
    if whole.scores is None or without.scores is None or whole.scores.shape[1] < 2:
        return math.nan
    differences = (whole.scores - without.scores)[0]
    return float(differences.std() / math.sqrt(len(differences)))
