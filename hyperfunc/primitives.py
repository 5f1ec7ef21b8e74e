"""Two tensor primitives that programs of 0.3 know. Plain torch does the same; both work lifted and gathered."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfunc.errors import ShapeError

__all__ = ["combine", "split"]


def combine(tensors: list[Tensor], dim: int = -1) -> Tensor:
    """Concatenate along ``dim``; 0-dim tensors count as one element.

    Raises:
        ShapeError: nothing to combine.
    """
    if not tensors:
        raise ShapeError("combine: expected at least one tensor, got none")
    return torch.cat([t.unsqueeze(0) if t.ndim == 0 else t for t in tensors], dim)


def split(tensor: Tensor, sizes: list[int], dim: int = -1) -> tuple[Tensor, ...]:
    """Split along ``dim`` into parts of ``sizes``.

    Raises:
        ShapeError: the sizes do not add up to the tensor's size.
    """
    if sum(sizes) != tensor.shape[dim]:
        raise ShapeError(
            f"split: sizes {sizes} add up to {sum(sizes)}, but dimension {dim} has size {tensor.shape[dim]}"
        )
    return torch.split(tensor, sizes, dim)
