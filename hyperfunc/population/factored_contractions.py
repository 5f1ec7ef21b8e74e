"""Convolution and einsum with a factored weight.

Both are linear in the weight, so each is itself on the base plus the perturbation's share, for which the weight is
replaced by its two thin factors: a convolution into r channels followed by a 1×1 mixing, and an einsum with one more
index. It does not know which torch function leads here for which spelling (`factored_operations`).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfunc.population.factored_values import Factors

__all__ = ["CONTRACTIONS"]


def convolution(
    function: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """``F.conv1d/2d/3d``: ``input [N, C, *space]`` (or without N), ``weight [out, C / groups, *kernel]``."""
    if not isinstance(weight, Factors) or isinstance(input, Factors) or isinstance(bias, Factors):
        return NotImplemented
    out = function(input, weight.base, bias, stride, padding, dilation, groups)
    rank = weight.left.shape[1]
    # The r directions become r kernels, the same ones for every group of input channels.
    kernels = weight.right.mT.reshape(rank, *weight.base.shape[1:]).repeat(groups, *[1] * (weight.base.ndim - 1))
    projected = function(input, kernels, None, stride, padding, dilation, groups)
    channels = out.ndim - (weight.base.ndim - 1)  # the axis of channels: 1, or 0 without a batch axis
    space = projected.shape[channels + 1 :]
    grouped = projected.reshape(*projected.shape[:channels], groups, rank, space.numel())
    left = weight.left.reshape(groups, -1, rank)
    delta = (left @ grouped).reshape(out.shape)
    return torch.add(out, delta, alpha=weight.scale)


def einsum(_: Any, *args: Any) -> Any:
    """``torch.einsum`` with one factored operand: its indices ``ab…`` become ``az`` and ``b…z``, ``z`` new."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    positions = [i for i, operand in enumerate(operands) if isinstance(operand, Factors)]
    if not isinstance(equation, str) or len(positions) != 1:
        return NotImplemented
    position, weight = positions[0], operands[positions[0]]
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    subscripts = inputs.split(",")
    indices = subscripts[position] if len(subscripts) == len(operands) else ""
    unused = sorted(set(string.ascii_letters) - set(equation))
    if "." in indices or len(indices) != weight.base.ndim or len(set(indices)) != len(indices) or not unused:
        return NotImplemented
    rank = unused[0]
    if not arrow:
        # Implicit output: every index that appears once, in alphabetical order; the new one appears twice.
        letters = inputs.replace(",", "").replace(".", "")
        output = ("..." if "..." in inputs else "") + "".join(c for c in sorted(letters) if letters.count(c) == 1)
    others = [operand for i, operand in enumerate(operands) if i != position]
    other_subscripts = [subscript for i, subscript in enumerate(subscripts) if i != position]
    # Without opt_einsum operands are contracted from the left: against the thin factors, never building left @ rightᵀ.
    terms = [*other_subscripts, indices[1:] + rank, indices[0] + rank]
    right = weight.right.reshape(*weight.base.shape[1:], -1)
    delta = torch.einsum(f"{','.join(terms)}->{output}", *others, right, weight.left)
    base: Tensor = torch.einsum(equation, *[weight.base if i == position else o for i, o in enumerate(operands)])
    return torch.add(base, delta, alpha=weight.scale)


CONTRACTIONS: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {F.conv1d: convolution, F.conv2d: convolution, F.conv3d: convolution, torch.einsum: einsum}
)
