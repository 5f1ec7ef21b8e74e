"""Comparing and copying values of any kind, as the contracts need it. Knows nothing of the contracts."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

__all__ = ["copy_of", "finish", "same"]

T = TypeVar("T")


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, tensors bit by bit; NaN equals NaN."""
    left_leaves, left_structure = pytree.tree_flatten(left)
    right_leaves, right_structure = pytree.tree_flatten(right)
    return bool(
        left_structure == right_structure
        and all(_same_leaf(a, b) for a, b in zip(left_leaves, right_leaves, strict=True))
    )


def _same_leaf(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        if not (isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)) or left.shape != right.shape:
            return False
        return left.dtype == right.dtype and torch.equal(left.nan_to_num(nan=0.5), right.nan_to_num(nan=0.5))
    if is_dataclass(left) and not isinstance(left, type):
        compared = [field.name for field in fields(left) if field.compare]
        return type(left) is type(right) and all(same(getattr(left, n), getattr(right, n)) for n in compared)
    equal = left == right
    return bool(equal.all() if hasattr(equal, "all") else equal) or bool(left != left and right != right)


def copy_of(value: T) -> T:
    """A deep copy; what cannot be copied stands for itself."""
    try:
        return copy.deepcopy(value)
    except TypeError:
        return value


def finish(coroutine: Coroutine[Any, Any, T], timeout_s: float = 60.0) -> T:
    """Run a coroutine on a loop of its own; a contract needs no pytest plugin for asynchronous tests.

    Raises:
        TimeoutError: it hangs.
    """

    async def bounded() -> T:
        return await asyncio.wait_for(coroutine, timeout_s)

    return asyncio.run(bounded())
