"""Observation normalisation: running mean and spread of what a population saw, as values of θ that no strategy moves.

Sums are taken relative to each episode's first observation and merged pairwise (Chan, Golub & LeVeque 1983,
doi:10.1080/00031305.1983.10483115), in float64 and in block order, so that neither magnitude nor concurrency shows in
them. Every member of a generation is normalised alike; what a generation saw counts from the next one on. Knows neither
environments nor how episodes are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError, ParameterError
from hyperfunc.function import HyperFunction
from hyperfunc.parameters.theta import Theta
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc_agents.game_results import EpisodeResult, ObservationMoments

__all__ = [
    "NormalizerStatistics",
    "ObservationStatistics",
    "Seen",
    "moments",
    "normalizers_of",
    "observation_normalizer",
    "see",
    "unseen",
]

_CONSTANT = 1e-7
"""A spread below this share of the mean is float32's rounding: the number counts as constant and is only centred."""


# --- summing up what is seen -----------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Observations of some lanes so far; ``S`` numbers each, with or without axes of lanes in front.

    Attributes:
        number: ``[…, 1]`` int64, how many.
        first: ``[…, S]`` float64, the first observation, from which deviations are taken.
        total, squares: ``[…, S]`` float64, sums of deviations and of their squares.
    """

    number: Tensor
    first: Tensor
    total: Tensor
    squares: Tensor


def unseen(size: int, *lanes: int) -> Seen:
    """Nothing seen yet."""
    zeros = torch.zeros(*lanes, size, dtype=torch.float64)
    return Seen(torch.zeros(*lanes, 1, dtype=torch.int64), zeros, zeros, zeros)


def see(seen: Seen, observation: Any, live: Tensor) -> Seen:
    """With one more observation in each lane that is ``live`` (``[…]`` bool). May be vmapped.

    Raises:
        ConfigurationError: the observation is no tensor of ``S`` numbers.
    """
    size = seen.first.shape[-1]
    lanes = live.shape
    if not isinstance(observation, Tensor) or observation.numel() != size * live.numel():
        numbers = isinstance(observation, Tensor)
        shown = f"{observation.numel() // live.numel()} numbers" if numbers else f"a {type(observation).__name__}"
        raise ConfigurationError(
            f"observation normalisation: observation_normalizer({size}) expects observations of {size} numbers, "
            f"got {shown}"
        )
    counted = live.unsqueeze(-1)
    value = observation.reshape(*lanes, size).double()
    first = torch.where(seen.number == 0, value, seen.first)
    apart = torch.where(counted, value - first, 0.0)
    return Seen(seen.number + counted, first, seen.total + apart, seen.squares + apart * apart)


def moments(seen: Seen) -> list[ObservationMoments | None]:
    """Each lane's (``[N, …]``); ``None`` for one that saw nothing, or something that is no finite number."""
    count = seen.number.double()
    mean = seen.first + seen.total / count
    squares = seen.squares - seen.total * seen.total / count
    usable = (torch.isfinite(mean) & torch.isfinite(squares)).all(-1).tolist()
    counts = seen.number.squeeze(-1).tolist()
    return [
        ObservationMoments(number, m, s.clamp(min=0.0)) if number and use else None
        for number, m, s, use in zip(counts, mean, squares, usable, strict=True)
    ]


class _Moments(NamedTuple):
    number: float
    mean: np.ndarray[Any, np.dtype[np.float64]]  # [S]
    squares: np.ndarray[Any, np.dtype[np.float64]]  # [S]


def _merge(parts: Sequence[_Moments | ObservationMoments]) -> _Moments:
    """Several samples' moments as one's, in the order given."""
    counts = np.array([float(part.number) for part in parts])[:, None]
    means = np.stack([np.asarray(part.mean) for part in parts])
    squares = np.stack([np.asarray(part.squares) for part in parts])
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    return _Moments(float(count), mean, squares.sum(0) + (counts * (means - mean) ** 2).sum(0))


# --- the component ---------------------------------------------------------------------------------------------------


@dataclass
class ObservationStatistics:
    """What a policy's observations were so far. A parameter type, made by :meth:`create`; no strategy moves it.

    Attributes:
        number: 0-dim float64, how many.
        mean: ``[S]`` float64.
        squares: ``[S]`` float64, sums of squared deviations from the mean.
    """

    number: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def create(cls, size: int) -> type[ObservationStatistics]:
        """The type for observations of ``size`` numbers; its tensor form is ``[1 + 2·size]``, float64.

        Raises:
            ParameterError: the size is below 1.
        """
        if size < 1:
            raise ParameterError(f"ObservationStatistics.create: the size must be >= 1, got {size}")

        class _Sized(ObservationStatistics):
            @classmethod
            def dim(cls) -> int:
                return 1 + 2 * size

        _Sized.__name__ = _Sized.__qualname__ = f"ObservationStatistics_{size}"
        return _Sized

    @classmethod
    def dim(cls) -> int:
        raise ParameterError("ObservationStatistics has no size of its own; use ObservationStatistics.create(size)")

    @classmethod
    def dtype(cls) -> torch.dtype:
        return torch.float64

    @classmethod
    def default_init(cls) -> Tensor:
        return torch.zeros(cls.dim(), dtype=torch.float64)

    @classmethod
    def from_tensor(cls, t: Tensor) -> ObservationStatistics:
        size = (t.shape[-1] - 1) // 2
        return cls(t[0], t[1 : 1 + size], t[1 + size :])

    def to_tensor(self, device: torch.device | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.cat([self.number.reshape(1), self.mean, self.squares]).to(device=device, dtype=dtype)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation ``[S]``, float64; 1 where nothing was seen or nothing varied."""
        found = (self.squares / self.number.clamp(min=1.0)).sqrt()
        return torch.where(found > _CONSTANT * self.mean.abs(), found, 1.0)

    def normalize(self, observation: Tensor, clip: float) -> Tensor:
        """``observation`` less the mean, in deviations, within ±``clip``; of the same shape, floating."""
        mean, deviation = self.mean.reshape(observation.shape), self.deviation.reshape(observation.shape)
        kind = observation.dtype if observation.is_floating_point() else torch.float32
        return ((observation.double() - mean) / deviation).clamp(-clip, clip).to(kind)


def observation_normalizer(
    size: int, *, clip: float = 10.0, name: str = "normalize"
) -> HyperFunction[[Tensor], Tensor]:
    """A component that normalises observations by what the population has seen in earlier generations.

    Hold it on a GAME system and call it in ``run``: ``await self.network(await self.normalize(observation))``. Its
    statistics are the value ``<name>.hp`` of θ: they are saved, journaled and deployed with the rest.

    Args:
        size: numbers in one observation; ``run`` must be given a single tensor.
        clip: most deviations that come out.
        name: the component's name.

    Raises:
        ConfigurationError: ``clip`` is not above 0.
        ParameterError: the size is below 1.
    """
    if not clip > 0:
        raise ConfigurationError(f"observation_normalizer: clip must be > 0, got {clip}")

    def normalize(observation: Tensor, hp: ObservationStatistics) -> Tensor:
        return hp.normalize(observation, clip)

    return HyperFunction(normalize, ObservationStatistics.create(size), name=name)


# --- what a generation teaches ---------------------------------------------------------------------------------------


def normalizers_of(system: Any) -> dict[str, int]:
    """Dotted name of each normaliser's statistics in θ -> numbers in one observation.

    Raises:
        ConfigurationError: two normalisers for observations of different sizes.
    """
    found = {
        f"{name}.hp": (function.hp_type.dim() - 1) // 2
        for name, function in system.registry.all_components().items()
        if isinstance(function.hp_type, type) and issubclass(function.hp_type, ObservationStatistics)
    }
    if len(set(found.values())) > 1:
        raise ConfigurationError(f"observation normalisation: expected one size of observations, got {found}")
    return found


class NormalizerStatistics:
    """The statistics of a system's normalisers, as the loop knows them (:class:`hyperfunc.program.RunStatistics`).

    Args:
        names: where they stand in θ.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def of_block(self, outcome: BlockOutcome) -> _Moments | None:
        """What the block's episodes saw, in the order of members and examples."""
        results = [result for row in outcome for result in row if isinstance(result, EpisodeResult)]
        found = [result.observed for result in results if result.observed is not None]
        return _merge(found) if found else None

    def merged(self, theta: Theta, parts: Sequence[Any]) -> Mapping[str, Tensor]:
        """The statistics in ``theta`` with those of a generation."""
        seen = [part for part in parts if part is not None]
        changed: dict[str, Tensor] = {}
        for name in self.names:
            before = ObservationStatistics.from_tensor(theta.tensors[name])
            old = _Moments(float(before.number), before.mean.numpy(), before.squares.numpy())
            now = _merge([old, *seen] if old.number else seen) if seen else old
            changed[name] = torch.from_numpy(np.concatenate([[now.number], now.mean, now.squares]))
        return changed
