"""What a parameter type (``hp_type``) looks like, and how its optional parts are read.

A *parameter type* is a class whose instances a hyperfunction receives as ``hp``. Required: ``dim()`` (or ``shape()``),
``from_tensor(t)``, ``to_tensor()``. Optional: ``shape()``, ``noise_rank()``, ``default_init()``, ``bounds()``,
``integer_mask()``. Knows nothing of systems or strategies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hyperfunc.errors import ParameterError, ShapeError

__all__ = [
    "HyperParam",
    "TensorSpec",
    "get_hp_bounds",
    "get_hp_default_init",
    "get_hp_noise_rank",
    "get_hp_shape",
    "hp_tensor_spec",
    "xavier_normal",
]


@runtime_checkable
class HyperParam(Protocol):
    """A value that a hyperfunction receives as ``hp`` and that has a tensor form."""

    @classmethod
    def dim(cls) -> int:
        """Number of elements of the tensor form."""
        ...

    @classmethod
    def from_tensor(cls, t: Tensor) -> HyperParam:
        """The value with tensor form ``t``, of shape ``shape()`` (or ``[dim()]``)."""
        ...

    def to_tensor(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """The tensor form."""
        ...


@dataclass(frozen=True)
class TensorSpec:
    """One tensor parameter of a component, before it has a value.

    Attributes:
        name: the parameter's name inside its component.
        shape: its shape.
        dtype: its dtype in θ.
        noise_rank: rank of factored perturbations; ``None`` means full (dense) noise.
        bounds: ``(low, high)``, each of ``shape``, finite and ``low < high``; ``None`` where unbounded.
        integer: boolean mask of ``shape``: dimensions that the program reads as whole numbers.
        trainable: whether strategies may move it.
        initial: an explicit initial value, or ``None`` for Xavier-normal noise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    noise_rank: int | None = None
    bounds: tuple[Tensor, Tensor] | None = None
    integer: Tensor | None = None
    trainable: bool = True
    initial: Tensor | None = None

    def initial_value(self, generator: torch.Generator) -> Tensor:
        """The explicit initial value, or Xavier-normal noise (the middle of the range where bounded)."""
        if self.initial is not None:
            return self.initial.detach().to(self.dtype).clone()
        if self.bounds is not None:
            return ((self.bounds[0] + self.bounds[1]) / 2).to(self.dtype)
        return xavier_normal(self.shape, generator).to(self.dtype)

    def check(self, owner: str, value: Tensor) -> Tensor:
        """``value`` in this spec's shape and dtype; a flat tensor of the right length is reshaped."""
        if tuple(value.shape) != self.shape:
            if value.numel() != math.prod(self.shape):
                raise ShapeError(
                    f"initial value of {owner}.{self.name}: expected shape {list(self.shape)}, got {list(value.shape)}"
                )
            value = value.reshape(self.shape)
        return value.detach().to(self.dtype).clone()


def xavier_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal draws with standard deviation ``sqrt(2 / sum(shape))`` (Glorot & Bengio 2010), of ``shape``, float32."""
    return torch.randn(shape, generator=generator) * math.sqrt(2.0 / max(1, sum(shape)))


def _optional(hp_type: type[Any] | None, name: str) -> Any:
    method = getattr(hp_type, name, None) if hp_type is not None else None
    return method() if callable(method) else None


def get_hp_shape(hp_type: type[Any] | None) -> tuple[int, ...] | None:
    """``hp_type.shape()``, or ``(dim(),)`` where only ``dim()`` is declared, or ``None`` without a type."""
    if hp_type is None:
        return None
    shape = _optional(hp_type, "shape")
    if shape is not None:
        return tuple(int(s) for s in shape)
    dim = _optional(hp_type, "dim")
    if dim is None:
        raise ParameterError(f"parameter type {hp_type.__name__} must define the classmethod shape() or dim()")
    return (int(dim),)


def get_hp_noise_rank(hp_type: type[Any] | None) -> int | None:
    """Rank of factored noise that the type asks for; ``None`` means dense noise."""
    rank = _optional(hp_type, "noise_rank")
    return None if rank is None else int(rank)


def get_hp_bounds(hp_type: type[Any] | None) -> tuple[Tensor, Tensor] | None:
    """``(low, high)`` per dimension, each of the type's shape, or ``None``.

    Raises:
        ParameterError: a bound is not finite, or ``low >= high``.
    """
    given = _optional(hp_type, "bounds")
    if given is None or hp_type is None:
        return None
    shape = get_hp_shape(hp_type) or ()
    low, high = (torch.as_tensor(side, dtype=torch.float32).expand(shape).clone() for side in given)
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all() and (low < high).all()):
        raise ParameterError(
            f"bounds of {hp_type.__name__}: expected finite low < high in every dimension, got {given}"
        )
    return low, high


def get_hp_default_init(hp_type: type[Any] | None) -> Tensor | None:
    """The type's ``default_init()``; without one, Xavier-normal noise from a fixed seed; ``None`` without a type."""
    if hp_type is None:
        return None
    declared = _optional(hp_type, "default_init")
    if declared is not None:
        return torch.as_tensor(declared).reshape(get_hp_shape(hp_type) or ())
    return xavier_normal(get_hp_shape(hp_type) or (), torch.Generator().manual_seed(0))


def hp_tensor_spec(hp_type: type[Any], *, trainable: bool) -> TensorSpec:
    """The spec of the single tensor, named ``hp``, behind a parameter type.

    Raises:
        ParameterError: ``from_tensor`` is missing.
    """
    if not callable(getattr(hp_type, "from_tensor", None)):
        raise ParameterError(f"parameter type {hp_type.__name__} must define the classmethod from_tensor(t)")
    shape = get_hp_shape(hp_type) or ()
    declared = _optional(hp_type, "default_init")
    mask = _optional(hp_type, "integer_mask")
    dtype = _optional(hp_type, "dtype")
    return TensorSpec(
        name="hp",
        shape=shape,
        dtype=dtype if isinstance(dtype, torch.dtype) else torch.float32,
        noise_rank=get_hp_noise_rank(hp_type),
        bounds=get_hp_bounds(hp_type),
        integer=None if mask is None else torch.as_tensor(mask, dtype=torch.bool).expand(shape),
        trainable=trainable,
        initial=None if declared is None else torch.as_tensor(declared).reshape(shape),
    )
