"""Values as tensors, for scorers that compare numbers. Knows shapes and dtypes, and no scorer.

The axes are named as everywhere: ``members`` of a population, ``examples``, ``*features`` (what one output holds).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfunc.errors import EvaluationError

__all__ = [
    "as_tensor",
    "has_class_axis",
    "is_numeric",
    "mean_over_features",
    "require_same_features",
    "stack_values",
    "wide",
]


def is_numeric(value: object) -> bool:
    """Whether ``value`` is a number, a boolean, a tensor or an array of these."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return isinstance(value, (int, float, np.number, np.bool_, Tensor))


def as_tensor(value: Any) -> Tensor:
    """Numbers, arrays, tensors and rectangular lists of numbers as a detached tensor.

    Raises:
        EvaluationError: text, ragged lists, or anything else that is no array of numbers.
    """
    if isinstance(value, Tensor):
        return value.detach()
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
            return torch.stack([as_tensor(item) for item in value])
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EvaluationError(f"expected numbers or a tensor, got {value!r}: {error}") from error


def stack_values(values: Sequence[Any]) -> Tensor | None:
    """One tensor ``[examples, *features]`` of one value per example; ``None`` unless they are numbers of one shape."""
    if not values:
        return None
    if not all(is_numeric(value) or isinstance(value, (list, tuple)) for value in values):
        return None
    try:
        tensors = [as_tensor(value) for value in values]
    except EvaluationError:
        return None
    if len({tensor.shape for tensor in tensors}) > 1 or len({tensor.device for tensor in tensors}) > 1:
        return None
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.stack([tensor.to(dtype) for tensor in tensors])


def wide(values: Tensor) -> Tensor:
    """``values`` in a dtype that losses may be computed in: float32 or float64."""
    if values.dtype in (torch.float32, torch.float64):
        return values
    return values.to(torch.float32 if values.is_floating_point() else torch.get_default_dtype())


def has_class_axis(
    outputs: Tensor,  # [members, examples, *positions, classes]
    expected: Tensor,  # [examples, *positions]
) -> bool:
    """Whether ``outputs`` are scores per class: floating, with one axis more than the class numbers expected."""
    return outputs.is_floating_point() and outputs.shape[1:-1] == expected.shape


def require_same_features(
    scorer: object,
    outputs: Tensor,  # [members, examples, *features]
    expected: Tensor,  # [examples, *features]
) -> None:
    """Refuse shapes that would broadcast.

    Raises:
        EvaluationError: the axes of ``outputs`` after the first are not the axes of ``expected``.
    """
    if expected.ndim == 0 or outputs.shape[1:] != expected.shape:
        raise EvaluationError(
            f"{type(scorer).__qualname__} needs outputs [members, examples, *features] and expected "
            f"[examples, *features] with equal examples and features, got {list(outputs.shape)} and "
            f"{list(expected.shape)}"
        )


def mean_over_features(
    values: Tensor,  # [members, examples, *features], floating
) -> Tensor:  # [members, examples]
    """Mean over the feature axes."""
    return values if values.ndim == 2 else values.flatten(2).mean(-1)
