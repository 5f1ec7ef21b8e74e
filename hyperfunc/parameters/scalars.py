"""Bounded scalars, whole numbers and choices as one parameter type.

Strategies search every dimension in units of its range; the program sees exact values: floats inside their bounds,
whole numbers, members of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hyperfunc.errors import ParameterError

__all__ = ["Choice", "Float", "Integer", "Space"]


@dataclass(frozen=True)
class Float:
    """A float in ``[low, high]``; the initial value defaults to the middle."""

    low: float
    high: float
    initial: float | None = None


@dataclass(frozen=True)
class Integer:
    """A whole number in ``[low, high]``, both included."""

    low: int
    high: int
    initial: int | None = None


@dataclass(frozen=True)
class Choice:
    """One of ``options`` (any values: model names, functions, …). Relaxed by one score per option; the highest wins."""

    options: tuple[Any, ...]
    initial: Any = None

    def __init__(self, options: Sequence[Any], initial: Any = None) -> None:
        object.__setattr__(self, "options", tuple(options))
        object.__setattr__(self, "initial", initial)


Dimension = Float | Integer | Choice


class Space:
    """Base of the types that :meth:`create` makes; instances carry one attribute per dimension."""

    dimensions: ClassVar[Mapping[str, Dimension]] = {}

    def __init__(self, **values: Any) -> None:
        for name in self.dimensions:
            setattr(self, name, values[name])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in self.dimensions)})"

    @staticmethod
    def create(name: str = "Space", /, **dimensions: Dimension) -> type[Space]:
        """A parameter type with these dimensions.

        >>> Router = Space.create("Router", threshold=Float(0, 1), k=Integer(1, 8), model=Choice(["small", "large"]))
        >>> Router.from_tensor(Router.default_init()).model
        'small'

        Raises:
            ParameterError: no dimension, an empty range, fewer than two options, or an initial value outside.
        """
        if not dimensions:
            raise ParameterError("Space.create: give at least one dimension, e.g. threshold=Float(0, 1)")
        for key, d in dimensions.items():
            if isinstance(d, Choice):
                if len(d.options) < 2:
                    raise ParameterError(f"{name}.{key}: a Choice needs at least two options, got {len(d.options)}")
                if d.initial is not None and d.initial not in d.options:
                    raise ParameterError(f"{name}.{key}: initial {d.initial!r} is not one of {list(d.options)}")
            elif not d.low < d.high:
                raise ParameterError(f"{name}.{key}: expected low < high, got {d.low} and {d.high}")
            elif d.initial is not None and not d.low <= d.initial <= d.high:
                raise ParameterError(f"{name}.{key}: initial {d.initial} is outside [{d.low}, {d.high}]")
        return type(name, (Space,), {"dimensions": dict(dimensions)})

    @classmethod
    def _width(cls, dimension: Dimension) -> int:
        return len(dimension.options) if isinstance(dimension, Choice) else 1

    @classmethod
    def dim(cls) -> int:
        return sum(cls._width(d) for d in cls.dimensions.values())

    @classmethod
    def shape(cls) -> tuple[int, ...]:
        return (cls.dim(),)

    @classmethod
    def bounds(cls) -> tuple[list[float], list[float]]:
        low: list[float] = []
        high: list[float] = []
        for d in cls.dimensions.values():
            if isinstance(d, Choice):
                low += [0.0] * len(d.options)
                high += [1.0] * len(d.options)
            else:
                low.append(float(d.low))
                high.append(float(d.high))
        return low, high

    @classmethod
    def integer_mask(cls) -> list[bool]:
        return [isinstance(d, Integer) for d in cls.dimensions.values() for _ in range(cls._width(d))]

    @classmethod
    def default_init(cls) -> Tensor:
        values: list[float] = []
        for d in cls.dimensions.values():
            if isinstance(d, Choice):
                first = d.options.index(d.initial) if d.initial is not None else 0
                values += [0.6 if i == first else 0.4 for i in range(len(d.options))]
            elif d.initial is not None:
                values.append(float(d.initial))
            else:
                values.append(float(d.low + d.high) / 2 if isinstance(d, Float) else float((d.low + d.high) // 2))
        return torch.tensor(values)

    @classmethod
    def from_tensor(cls, t: Tensor) -> Space:
        """The exact values at ``t``, shape ``[dim()]``: floats stay tensors until read whole, so that a program that
        only computes with them can still be lifted; whole numbers and choices are read at once."""
        values: dict[str, Any] = {}
        at = 0
        for name, d in cls.dimensions.items():
            width = cls._width(d)
            if isinstance(d, Choice):
                values[name] = d.options[int(t[at : at + width].argmax())]
            elif isinstance(d, Integer):
                values[name] = min(max(round(float(t[at])), d.low), d.high)
            else:
                values[name] = t[at].clamp(d.low, d.high)
            at += width
        return cls(**values)

    def to_tensor(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        flat: list[float] = []
        for name, d in self.dimensions.items():
            value = getattr(self, name)
            if isinstance(d, Choice):
                flat += [1.0 if option == value else 0.0 for option in d.options]
            else:
                flat.append(float(value))
        return torch.tensor(flat, dtype=dtype, device=device)
