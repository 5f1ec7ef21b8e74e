"""A block of members: the values that one block of the population gives to each parameter.

Axes, everywhere in this package: ``P`` members of one block, ``E`` examples, ``r`` rank, then the parameter's own.
A strategy's ``ask`` makes these; the executors run programs on them; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DenseMembers", "FactoredMembers", "MemberBlock", "MemberValues", "member_count"]


@dataclass(frozen=True, slots=True)
class DenseMembers:
    """Each member's own full tensor."""

    values: Tensor  # [P, *shape]

    @property
    def size(self) -> int:
        return self.values.shape[0]

    def dense(self, index: int) -> Tensor:
        """Member ``index`` as a plain tensor, ``[*shape]``."""
        return self.values[index]


@dataclass(frozen=True, slots=True)
class FactoredMembers:
    """A shared base plus each member's factored perturbation: ``base + scale · left @ rightᵀ``, never materialised.

    A base of more than two dimensions (a convolution's weight) is seen as the matrix ``[shape[0], prod(shape[1:])]``.
    """

    base: Tensor  # [*shape]
    left: Tensor  # [P, rows, r]
    right: Tensor  # [P, columns, r]
    scale: float

    @property
    def size(self) -> int:
        return self.left.shape[0]

    def dense(self, index: int) -> Tensor:
        """Member ``index`` as a plain tensor, ``[*shape]``."""
        delta = (self.left[index] @ self.right[index].mT).reshape(self.base.shape)
        wide = torch.promote_types(self.base.dtype, torch.float32)  # summed wide, rounded once
        return torch.add(self.base.to(wide), delta.to(wide), alpha=self.scale).to(self.base.dtype)


MemberValues = DenseMembers | FactoredMembers

MemberBlock = Mapping[str, MemberValues]
"""Parameter name -> the block's values for it. A parameter that is absent keeps its value of θ for every member."""


def member_count(block: MemberBlock) -> int:
    """How many members a block has; an empty one is a single member with θ's own values."""
    return next(iter(block.values())).size if block else 1
