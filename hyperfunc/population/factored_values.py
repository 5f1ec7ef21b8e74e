"""A factored value as plain data: ``base + scale · left @ rightᵀ`` and the algebra that keeps it factored.

It is no tensor: nothing here dispatches, so an operation that works on `Factors` cannot materialise them by accident.
It does not know which torch functions exist (`factored_operations`) nor how they reach it (`factored`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hyperfunc.errors import ParameterTypeError, ShapeError

__all__ = ["Factors"]


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """``base + scale · left @ rightᵀ``; a base of more than two axes is seen as ``[shape[0], prod(shape[1:])]``.

    Under ``torch.vmap`` each part may carry its own hidden batch axes; usually ``left`` and ``right`` carry the
    members and ``base`` carries none.
    """

    base: Tensor  # [rows, *rest], floating point
    left: Tensor  # [rows, r], base's dtype
    right: Tensor  # [prod(rest), r], base's dtype
    scale: float
    label: str = ""  # the parameter's name, for messages

    @classmethod
    def checked(cls, base: Tensor, left: Tensor, right: Tensor, scale: float, label: str = "") -> Factors:
        """Build from outside values, with the factors brought to the base's dtype.

        Raises:
            ShapeError: the factors do not fit the base.
            ParameterTypeError: the base is not a floating-point tensor.
        """
        where = f" of {label!r}" if label else ""
        if not base.is_floating_point():
            raise ParameterTypeError(f"expected a floating-point base{where}, got {base.dtype}")
        rows = base.shape[0] if base.ndim else 0
        columns = base.numel() // rows if rows else 0
        fits = base.ndim >= 2 and left.ndim == 2 == right.ndim and left.shape[1] == right.shape[1]
        if not (fits and left.shape[0] == rows and right.shape[0] == columns):
            raise ShapeError(
                f"expected factors [{rows}, r] and [{columns}, r] for a base{where} of at least two axes, "
                f"got base {tuple(base.shape)}, left {tuple(left.shape)}, right {tuple(right.shape)}"
            )
        if left.dtype != base.dtype:
            left = left.to(base.dtype)
        if right.dtype != base.dtype:
            right = right.to(base.dtype)
        return cls(base, left, right, scale, label)

    @property
    def is_matrix(self) -> bool:
        return self.base.ndim == 2

    @property
    def requires_grad(self) -> bool:
        return self.base.requires_grad or self.left.requires_grad or self.right.requires_grad

    def dense(self) -> Tensor:
        """The value as a fresh plain tensor; narrow dtypes are summed in float32 and rounded once."""
        wide = torch.float64 if self.base.dtype == torch.float64 else torch.float32
        delta = (self.left.to(wide) @ self.right.to(wide).mT).reshape(self.base.shape)
        return torch.add(self.base.to(wide), delta, alpha=self.scale).to(self.base.dtype)

    def with_base(self, base: Tensor) -> Factors:
        """The same perturbation on another view of the base (same rows, same order of columns)."""
        return replace(self, base=base)

    def transposed(self) -> Factors:
        """``wᵀ`` of a matrix."""
        return replace(self, base=self.base.mT, left=self.right, right=self.left)

    def scaled(self, factor: float) -> Factors:
        """``factor · w``."""
        return replace(self, base=self.base * factor, scale=self.scale * factor)

    def detached(self) -> Factors:
        return replace(self, base=self.base.detach(), left=self.left.detach(), right=self.right.detach())

    def sliced(self, rows: slice, columns: slice = slice(None)) -> Factors:
        """``w[rows, columns]``; other columns than all need a matrix."""
        if columns == slice(None):
            return replace(self, base=self.base[rows], left=self.left[rows])
        return replace(self, base=self.base[rows, columns], left=self.left[rows], right=self.right[columns])

    def looked_up(self, index: Tensor | int) -> Tensor:
        """``w[index]`` as a plain tensor ``[*index.shape, *rest]``: rows, as an embedding takes them."""
        base, left = self.base[index], self.left[index]
        return torch.add(base, (left @ self.right.mT).reshape(base.shape), alpha=self.scale)
