"""Which strategy suits which parameter: the assignment behind ``ESHybridSystemOptimizer``.

Scalars and bounded or integer settings (a temperature, a threshold, k) go to a strategy that adapts σ: their scales
differ and are unknown. Matrices go to EGGROLL, and unbounded vectors (biases) go along with them, since a layer's
weight and bias should move by the same rule. Where there is no matrix at all, vectors too are settings: σ adapts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.composite import CompositeStrategy, Part
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec

__all__ = ["assemble", "assign", "is_setting"]


def is_setting(spec: ParameterSpec, *, with_matrices: bool) -> bool:
    """Whether a parameter is a setting whose σ should adapt, rather than a weight.

    Args:
        with_matrices: whether its group also holds unbounded matrices.
    """
    if not spec.is_free or len(spec.shape) == 0:
        return True
    return len(spec.shape) == 1 and not with_matrices


def assign(
    group: ParameterGroup,
    *,
    settings: Strategy[Any],
    weights: Strategy[Any],
    overrides: Mapping[str, Strategy[Any]] | None = None,
) -> list[Part]:
    """Every parameter of the group under one strategy.

    Args:
        settings: for scalars, bounded and integer parameters.
        weights: for matrices, and vectors beside them.
        overrides: parameter name or pattern (``*``, ``?``) -> its strategy; the first that matches wins. Population and
            block sizes are taken from ``weights``.

    Raises:
        ConfigurationError: an override matches no parameter.
    """
    overrides = overrides or {}
    unused = [pattern for pattern in overrides if not any(fnmatchcase(name, pattern) for name in group.names)]
    if unused:
        raise ConfigurationError(
            f"strategies: {', '.join(map(repr, unused))} matches none of the parameters "
            f"{', '.join(group.names) or '(none)'}"
        )
    with_matrices = any(len(spec.shape) >= 2 and spec.is_free for spec in group.parameters.values())
    chosen: list[tuple[Strategy[Any], list[str]]] = []
    for name, spec in group.parameters.items():
        strategy = next((s for pattern, s in overrides.items() if fnmatchcase(name, pattern)), None)
        if strategy is None:
            strategy = settings if is_setting(spec, with_matrices=with_matrices) else weights
        strategy = replace(strategy, population_size=weights.population_size, block_size=weights.block_size)
        names = next((names for known, names in chosen if known == strategy), None)
        if names is None:
            chosen.append((strategy, [name]))
        else:
            names.append(name)
    return [Part(strategy, tuple(names)) for strategy, names in chosen]


def assemble(parts: Sequence[Part]) -> Strategy[Any]:
    """One strategy from the parts; a single part needs no composite around it."""
    return parts[0].strategy if len(parts) == 1 else CompositeStrategy(parts=tuple(parts))
