"""The gradient that a block's noise and its fitness weights estimate, pair-collapsed.

An evolution strategy's estimate is a weighted sum of the noise: ``Σᵢ wᵢ Eᵢ``. Antithetic twins share one draw with
opposite signs, so a pair contributes ``(f⁺ − f⁻) E`` and the sum runs over half the members. For factored noise
``E = A Bᵀ`` that sum is one matrix product, ``(diag(c) A)ᵀ B`` (Sarkar et al. 2025, "Evolution Strategies at the
Hyperscale"), and no ``E`` is ever built.

The sum over a whole population is *defined* as the sum of its blocks' sums, added in block order (`blocked_sum`): the
same bits for any number of workers and any chunk of memory.

It does not know how fitness became weights, nor what is done with the gradient: no σ, no 1/N, no learning rate here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hyperfunc.errors import ShapeError

__all__ = ["accumulation_dtype", "blocked_sum", "dense_gradient", "factored_gradient"]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over members are kept: float64 for float64 noise, float32 for everything narrower.

    In bfloat16 a seed-by-seed sum has a cosine of about 0.67 with the true step.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def factored_gradient(left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
    """``Σᵢ weightsᵢ · leftᵢ @ rightᵢᵀ`` over the pairs of one block, as one matrix product.

    Args:
        left: ``[pairs, rows, r]``, the draw that a pair shares (the + twin's sign).
        right: ``[pairs, columns, r]``.
        weights: ``[pairs]``, ``f⁺ − f⁻`` after shaping (or any weight per draw; pairs are not required).

    Returns:
        ``[rows, columns]`` in float32, or in float64 where the noise is float64.

    Raises:
        ShapeError: the three do not describe the same pairs and the same rank.
    """
    if left.ndim != 3 or right.ndim != 3 or left.shape[0] != right.shape[0] or left.shape[2] != right.shape[2]:
        raise ShapeError(
            "expected left [pairs, rows, r] and right [pairs, columns, r] with the same pairs and r, "
            f"got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    dtype = accumulation_dtype(torch.promote_types(left.dtype, right.dtype))
    pair_weights = _pair_weights(weights, left.shape[0], dtype, left.device)
    # Pairs and rank are both summed over, so they become one axis; at rank 1 these reshapes copy nothing.
    weighted_left = (left.to(dtype) * pair_weights[:, None, None]).mT.reshape(-1, left.shape[1])
    flat_right = right.to(dtype).mT.reshape(-1, right.shape[1])
    return weighted_left.mT @ flat_right


def dense_gradient(noise: Tensor, weights: Tensor) -> Tensor:
    """``Σᵢ weightsᵢ · noiseᵢ`` over the pairs of one block, as one matrix-vector product.

    Args:
        noise: ``[pairs, *shape]``, the draw that a pair shares (the + twin's sign).
        weights: ``[pairs]``, as for `factored_gradient`.

    Returns:
        ``[*shape]`` in float32, or in float64 where the noise is float64.

    Raises:
        ShapeError: ``weights`` does not have one entry per pair.
    """
    if noise.ndim < 1:
        raise ShapeError("expected noise [pairs, *shape], got a tensor without axes")
    dtype = accumulation_dtype(noise.dtype)
    pair_weights = _pair_weights(weights, noise.shape[0], dtype, noise.device)
    pairs = noise.shape[0]
    columns = torch.Size(noise.shape[1:]).numel()
    return (pair_weights @ noise.to(dtype).reshape(pairs, columns)).reshape(noise.shape[1:])


def blocked_sum(gradients: Iterable[Tensor]) -> Tensor:
    """The sum of the blocks' gradients, added one after the other in the order given; it must be block order.

    Floating-point addition is not associative, so this order is part of the result. The inputs are left alone.

    Raises:
        ShapeError: there is no block, or the blocks' shapes differ.
    """
    total: Tensor | None = None
    for block, gradient in enumerate(gradients):
        if total is None:
            total = gradient.clone()
            continue
        if gradient.shape != total.shape:
            raise ShapeError(
                f"expected every block's gradient to be {tuple(total.shape)}, got {tuple(gradient.shape)} from "
                f"block {block}"
            )
        total += gradient
    if total is None:
        raise ShapeError("expected at least one block's gradient, got none")
    return total


def _pair_weights(weights: Tensor, pairs: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if weights.shape != (pairs,):
        raise ShapeError(f"expected one weight per pair, [{pairs}], got {tuple(weights.shape)}")
    return weights.to(device=device, dtype=dtype)
