"""How a linear of the model is changed without touching its weight: ``adapter.apply(x, weight, bias) -> y``.

Every linear of the model goes through this one seam. Here are the two changes that evolution needs: a population of
factored perturbations over one shared weight, and a population of dense weights. Others (LoRA, DoRA, …) implement
:class:`Adapter` in the same way. Knows nothing of models.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfunc.errors import ShapeError
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberValues

__all__ = ["Adapter", "DenseAdapter", "FactoredAdapter", "adapter_for", "plain_linear"]

_NARROW = (torch.bfloat16, torch.float16)


class Adapter(Protocol):
    """A change of one linear, for one member or for a population of ``P``."""

    def apply(
        self,
        x: Tensor,  # [P, R, in]: R rows for each member
        weight: Tensor,  # [out, in], shared by all members
        bias: Tensor | None = None,  # [out] shared, or [P, 1, out]
    ) -> Tensor:
        """The linear's output, ``[P, R, out]``."""
        ...

    def select(self, members: Tensor) -> Adapter:
        """The adapter of the members with these indices, in that order (repeats allowed)."""
        ...


def plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weightᵀ + bias`` for a shared bias ``[out]`` or one for each member ``[P, 1, out]``."""
    if bias is None or bias.dim() == 1:
        return F.linear(x, weight, bias)
    return F.linear(x, weight) + bias


class FactoredAdapter:
    """``x @ (W + scale · left @ rightᵀ)ᵀ`` for each member: one product over all rows and a rank-r epilogue.

    In bfloat16 and float16 the member's own part comes first, and the shared product accumulates onto it in float32:
    added afterwards, a perturbation smaller than half a unit of the rounded product would be lost.

    Args:
        left: ``[P, out, r]``.
        right: ``[P, in, r]``.
    """

    def __init__(self, left: Tensor, right: Tensor, scale: float = 1.0) -> None:
        self.left_t = left.mT.contiguous()  # [P, r, out]
        self.right = right.contiguous()  # [P, in, r]
        self._scale = scale
        self._right_t = right.mT.contiguous() if right.shape[-1] == 1 else None

    @classmethod
    def of(cls, members: FactoredMembers, dtype: torch.dtype, device: torch.device) -> FactoredAdapter:
        left, right = (t.to(device=device, dtype=dtype) for t in (members.left, members.right))
        if dtype in _NARROW:  # a small scale would leave float16's range
            return cls(left, right, members.scale)
        return cls(left, right * members.scale)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dtype not in _NARROW:
            return self.add_to(plain_linear(x, weight, bias), x)
        self._check(x)
        own = torch.baddbmm(x.new_zeros(()), torch.bmm(x, self.right), self.left_t, beta=0, alpha=self._scale)
        y = own.view(-1, len(weight)).addmm_(x.reshape(-1, x.shape[-1]), weight.T).view_as(own)
        return y if bias is None else y + bias

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """Add each member's own part to the shared product ``y`` ``[P, R, out]``, in place."""
        self._check(x)
        if self._right_t is not None and x.dtype == torch.float32 and self._scale == 1:
            # Rank 1 on short rows: multiply-and-add beats a batched product with one column.
            return y.addcmul_((x * self._right_t).sum(-1, keepdim=True), self.left_t)
        return y.baddbmm_(torch.bmm(x, self.right), self.left_t, alpha=self._scale)

    def select(self, members: Tensor) -> FactoredAdapter:
        return FactoredAdapter(self.left_t[members].mT, self.right[members], self._scale)

    def _check(self, x: Tensor) -> None:
        if x.shape[0] != self.right.shape[0]:
            raise ShapeError(f"this adapter is for {self.right.shape[0]} members, the input has {x.shape[0]}")


class DenseAdapter:
    """Each member's own full weight ``[P, out, in]``, in place of the shared one."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = torch.bmm(x, self.values.mT)
        return y if bias is None else y + bias

    def select(self, members: Tensor) -> DenseAdapter:
        return DenseAdapter(self.values[members])


def adapter_for(values: MemberValues, dtype: torch.dtype, device: torch.device) -> FactoredAdapter | DenseAdapter:
    """The adapter that gives each member its value of a matrix."""
    if isinstance(values, FactoredMembers):
        return FactoredAdapter.of(values, dtype, device)
    if isinstance(values, DenseMembers):
        return DenseAdapter(values.values.to(device=device, dtype=dtype))
    raise TypeError(f"expected FactoredMembers or DenseMembers, got {type(values).__name__}")
