"""How σ changes over generations: pure functions of the generation number, as small values.

A schedule multiplies a strategy's ``sigma``. Strategies that adapt σ themselves take none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hyperfunc.errors import ConfigurationError

__all__ = ["CONSTANT_SIGMA", "ConstantSigma", "CosineSigma", "ExponentialSigma", "LinearSigma", "SigmaSchedule"]

SigmaSchedule = Callable[[int], float]
"""Generation (0, 1, …) -> factor on σ, above 0."""


@dataclass(frozen=True)
class ConstantSigma:
    """σ stays as it is."""

    def __call__(self, generation: int) -> float:
        return 1.0


CONSTANT_SIGMA = ConstantSigma()


@dataclass(frozen=True)
class ExponentialSigma:
    """``decay ** generation``, never below ``floor``."""

    decay: float = 0.99
    floor: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ConfigurationError(f"decay: expected a number in (0, 1], got {self.decay}")
        _check_floor(self.floor)

    def __call__(self, generation: int) -> float:
        return max(self.decay**generation, self.floor)


@dataclass(frozen=True)
class LinearSigma:
    """A straight line from 1 to ``final`` over ``generations``, then ``final``."""

    generations: int
    final: float = 0.1

    def __post_init__(self) -> None:
        _check_span(self.generations)
        _check_floor(self.final)

    def __call__(self, generation: int) -> float:
        return 1.0 + (self.final - 1.0) * min(generation / self.generations, 1.0)


@dataclass(frozen=True)
class CosineSigma:
    """Half a cosine from 1 to ``final`` over ``generations``, then ``final``."""

    generations: int
    final: float = 0.1

    def __post_init__(self) -> None:
        _check_span(self.generations)
        _check_floor(self.final)

    def __call__(self, generation: int) -> float:
        progress = min(generation / self.generations, 1.0)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _check_span(generations: int) -> None:
    if generations < 1:
        raise ConfigurationError(f"generations: expected at least 1, got {generations}")


def _check_floor(value: float) -> None:
    if not value > 0:
        raise ConfigurationError(
            f"the smallest factor on sigma: expected above 0 (σ = 0 explores nothing), got {value}"
        )
