"""Effort where it shows: components whose perturbations explain nothing of the fitness pause, and are tried again.

Every component gets a strategy of its own. After a generation, each is asked how much of the members' fitness its
perturbations explain, to first order. With dᵢ the (ranked, centred) fitness of member i, or of a pair its difference,
and δᵢ the component's own perturbation of it, over n members or pairs,

    T = (‖Σᵢ dᵢ δᵢ‖² - Σᵢ dᵢ² ‖δᵢ‖²) / (n (n - 1))        (a U-statistic: the terms i ≠ j only)
    share = T / (mean ‖δᵢ‖² / D · mean dᵢ²)

T's expectation is exactly ``‖E[d δ]‖²``, 0 where the component does nothing or only adds noise, so that the mean share
over a window of generations comes with a standard error. A component whose share is clearly (by ``deviations`` standard
errors) below ``least`` of the greatest one pauses: for ``pause`` generations it stands at its centre in every member,
its strategy neither asked nor told, and then it is tried again for a window. Every further pause in a row is twice as
long.

A pause takes the component's *noise* out of the comparison of members: that is what it saves. Components that do
nothing at all add no noise, and nothing is saved by pausing them. Programs are still run in whole.

Knows strategies and blocks of members, nothing of programs and examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.composite import CompositeState, CompositeStrategy, Part
from hyperfunc.evolution.shaping import shape_fitness
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock, MemberValues
from hyperfunc.population.update import factored_gradient

__all__ = ["Focus", "FocusState", "FocusedStrategy", "build_strategy"]


@dataclass(frozen=True, kw_only=True)
class Focus:
    """When components pause.

    Args:
        window: generations over which a component's share is judged, at least 4.
        least: the share, relative to the greatest one, below which a component pauses; from 0 (never) to 1.
        deviations: by how many standard errors it must be below.
        pause: generations of a first pause.

    Raises:
        ConfigurationError: a number out of range.
    """

    window: int = 12
    least: float = 0.1
    deviations: float = 2.0
    pause: int = 24

    def __post_init__(self) -> None:
        if self.window < 4:
            raise ConfigurationError(f"window: expected at least 4 generations, got {self.window}")
        if not 0 <= self.least <= 1:
            raise ConfigurationError(f"least: expected a share from 0 to 1, got {self.least}")
        if not (self.deviations >= 0 and math.isfinite(self.deviations)):
            raise ConfigurationError(f"deviations: expected 0 or more standard errors, got {self.deviations}")
        if self.pause < 1:
            raise ConfigurationError(f"pause: expected at least 1 generation, got {self.pause}")


class BuildsStrategies(Protocol):
    """An optimizer, as far as this file needs one."""

    def build(self, group: ParameterGroup) -> Strategy[Any]: ...


def build_strategy(optimizer: BuildsStrategies, group: ParameterGroup, focus: Focus | None) -> Strategy[Any]:
    """The optimizer's strategy; with a focus and several components, one for each of them, which may pause.

    A strategy that couples parameters (the CMA family) couples those of a component only, then.
    """
    components: dict[str, list[str]] = {}
    for name in group.names:
        components.setdefault(name.rpartition(".")[0], []).append(name)
    if focus is None or len(components) < 2:
        return optimizer.build(group)
    parts = [Part(optimizer.build(group.select(names)), tuple(names)) for names in components.values()]
    return FocusedStrategy(parts=tuple(parts), focus=focus)


@dataclass(frozen=True)
class FocusState:
    """The parts' states, and what is known of each part's share.

    Attributes:
        whole: of the parts.
        shares: per part, its shares in the generations since it was last begun, newest last.
        resumes: per part, the generation at which it is tried again; 0 where it never paused.
        pauses: per part, how long its next pause is.
    """

    whole: CompositeState
    shares: tuple[tuple[float, ...], ...]
    resumes: tuple[int, ...]
    pauses: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FocusedStrategy(Strategy[FocusState]):
    """Strategies on one population, of which those that explain nothing pause.

    Args:
        parts: as of :class:`~hyperfunc.evolution.composite.CompositeStrategy`.
        focus: when they pause.
    """

    name: ClassVar[str] = "focused"

    parts: tuple[Part, ...] = ()
    focus: Focus = field(default_factory=Focus)

    def __post_init__(self) -> None:
        whole = CompositeStrategy(parts=self.parts)
        for name in ("population_size", "block_size", "antithetic"):
            object.__setattr__(self, name, getattr(whole, name))
        object.__setattr__(self, "_whole", whole)
        super().__post_init__()

    @property
    def whole(self) -> CompositeStrategy:
        """All parts, none pausing."""
        whole: CompositeStrategy = self._whole  # type: ignore[attr-defined]
        return whole

    @property
    def state_types(self) -> tuple[type, ...]:  # type: ignore[override]
        """This strategy's own state, then the parts'."""
        return (FocusState, *self.whole.state_types)

    def init(self, group: ParameterGroup, values: Mapping[str, Tensor], seed: int) -> FocusState:
        count = len(self.parts)
        return FocusState(
            self.whole.init(group, values, seed), ((),) * count, (0,) * count, (self.focus.pause,) * count
        )

    def pausing(self, state: FocusState) -> tuple[str, ...]:
        """The parameters that stand still in the state's generation."""
        paused = zip(self.parts, state.resumes, strict=True)
        return tuple(name for part, resumes in paused if state.whole.generation < resumes for name in part.names)

    def ask(self, state: FocusState, block: int) -> MemberBlock:
        members: dict[str, MemberValues] = {}
        for part, part_state, resumes in zip(self.parts, state.whole.parts, state.resumes, strict=True):
            if state.whole.generation < resumes:
                center = part.strategy.mean(part_state)
                members.update({name: _standing(value, self.size_of(block)) for name, value in center.items()})
            else:
                members.update(part.strategy.ask(part_state, block))
        return members

    def tell(self, state: FocusState, fitness: Tensor, *, groups: Tensor | None = None) -> FocusState:
        fitness = self.check_fitness(fitness)
        told = self.whole.tell(state.whole, fitness, groups=groups)
        weights = shape_fitness(fitness, "centered_ranks", twins=self.twins(), groups=groups).weights
        informative = bool(weights.any())
        measured = [
            self._share(part, part_state, weights) if informative and state.whole.generation >= resumes else None
            for part, part_state, resumes in zip(self.parts, state.whole.parts, state.resumes, strict=True)
        ]
        shares = tuple(
            past if share is None else (*past, share)[-self.focus.window :]
            for past, share in zip(state.shares, measured, strict=True)
        )
        parts = tuple(
            before if told.generation - 1 < resumes else after  # a paused part was not perturbed, and learns nothing
            for before, after, resumes in zip(state.whole.parts, told.parts, state.resumes, strict=True)
        )
        return self._judge(replace(state, whole=replace(told, parts=parts), shares=shares))

    def _judge(self, state: FocusState) -> FocusState:
        """Pause the parts that are clearly below the least share of the greatest."""
        window, now = self.focus.window, state.whole.generation
        means = [math.fsum(past) / len(past) if past else 0.0 for past in state.shares]
        greatest = max(means)
        if greatest <= 0:
            return state
        shares, resumes, pauses = list(state.shares), list(state.resumes), list(state.pauses)
        for part, past in enumerate(state.shares):
            if len(past) < window or now < resumes[part] or means[part] == greatest:
                continue
            variance = math.fsum((share - means[part]) ** 2 for share in past) / (window - 1)
            if means[part] + self.focus.deviations * math.sqrt(variance / window) < self.focus.least * greatest:
                shares[part], resumes[part], pauses[part] = (), now + pauses[part], 2 * pauses[part]
            else:
                pauses[part] = self.focus.pause
        return replace(state, shares=tuple(shares), resumes=tuple(resumes), pauses=tuple(pauses))

    def _share(self, part: Part, state: Any, weights: Tensor) -> float:
        """The share of ranked fitness that this generation's perturbations of one part explain to first order."""
        center = part.strategy.mean(state)
        sums: dict[str, Tensor] = {}
        lengths, squares, dimensions = [], [], 0
        for block in self.blocks():
            members = part.strategy.ask(state, block)
            of_block = weights[self.members_of(block)]
            rows = self.size_of(block)
            if self.antithetic:
                rows, (plus, minus) = rows // 2, of_block.chunk(2)
                of_block = plus - minus
            length = torch.zeros(rows, dtype=torch.float64)
            for name, values in members.items():
                gradient, length_of_parameter = _projected(values, center[name], of_block, rows)
                sums[name] = sums[name] + gradient if name in sums else gradient
                length += length_of_parameter
            lengths.append(length)
            squares.append(of_block.square())
        length, square = torch.cat(lengths), torch.cat(squares)
        kept = square > 0
        count, dimensions = int(kept.sum()), sum(value.numel() for value in center.values())
        scale = float(length.mean()) * float(square.sum()) / max(count, 1) / dimensions
        if count < 2 or scale == 0.0:
            return 0.0
        whole = math.fsum(float(value.double().square().sum()) for value in sums.values())
        return (whole - float((square * length).sum())) / (count * (count - 1)) / scale

    def mean(self, state: FocusState) -> dict[str, Tensor]:
        return self.whole.mean(state.whole)

    def best(self, state: FocusState) -> dict[str, Tensor]:
        return self.whole.best(state.whole)

    def step_size(self, state: FocusState) -> float:
        return self.whole.step_size(state.whole)

    def generation(self, state: FocusState) -> int:
        return state.whole.generation


def _standing(value: Tensor, members: int) -> MemberValues:
    """``members`` times the same value, without copies of a matrix."""
    if value.ndim < 2:
        return DenseMembers(value.expand(members, *value.shape))
    rows, columns = value.shape[0], torch.Size(value.shape[1:]).numel()
    left, right = value.new_zeros(members, rows, 1), value.new_zeros(members, columns, 1)
    return FactoredMembers(value, left, right, 0.0)


def _projected(values: MemberValues, center: Tensor, weights: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """``Σᵢ weightsᵢ δᵢ`` and ``‖δᵢ‖²`` (``[rows]``) over the first ``rows`` members of a block."""
    if isinstance(values, FactoredMembers):
        left, right = values.left[:rows].double(), values.right[:rows].double()
        gram = (left.mT @ left) * (right.mT @ right)
        return values.scale * factored_gradient(left, right, weights), values.scale**2 * gram.sum((1, 2))
    deltas = (values.values[:rows].double() - center.double()).reshape(rows, -1)
    return weights @ deltas, deltas.square().sum(1)
