"""Examples grouped so that each group can be one kernel: equal structure, shapes, dtypes and constant leaves.

Tensors and arrays become stacked tensors ``[E, …]``. Numbers are constants (a group of their own for each value) unless
lifting them is asked for: a 0-dim tensor is not a number in every respect, so that has to be proven. Everything else
(strings, flags, ``None``, objects) is a constant. Knows nothing of programs.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["ExampleBatch", "InputGroup", "contains_numbers", "group_inputs"]

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class InputGroup:
    """Examples that one kernel runs.

    Attributes:
        examples: their positions.
        leaves: one entry per leaf: ``[E, …]`` where lifted, else the constant.
        lifted: which leaves are stacked.
        structure: how leaves make the inputs of one example.
    """

    examples: tuple[int, ...]
    leaves: tuple[Any, ...]
    lifted: tuple[bool, ...]
    structure: pytree.TreeSpec

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The stacked leaves."""
        return tuple(leaf for leaf, lifted in zip(self.leaves, self.lifted, strict=True) if lifted)

    def inputs(self, tensors: Sequence[Tensor]) -> dict[str, Any]:
        """Inputs with ``tensors`` in the places of the stacked leaves."""
        remaining = iter(tensors)
        leaves = [next(remaining) if lifted else leaf for leaf, lifted in zip(self.leaves, self.lifted, strict=True)]
        inputs: dict[str, Any] = pytree.tree_unflatten(leaves, self.structure)
        return inputs


def _is_number(leaf: object) -> bool:
    return isinstance(leaf, (int, float, np.integer, np.floating)) and not isinstance(leaf, bool)


def contains_numbers(examples: Sequence[Inputs]) -> bool:
    """Whether any example has a plain number among its inputs."""
    return any(_is_number(leaf) for inputs in examples for leaf in pytree.tree_leaves(dict(inputs)))


def _leaf_key(leaf: object, lift_numbers: bool) -> Hashable:
    if isinstance(leaf, Tensor):
        return ("tensor", tuple(leaf.shape), leaf.dtype, str(leaf.device))
    if isinstance(leaf, np.ndarray) and leaf.dtype != object:
        return ("array", leaf.shape, leaf.dtype.str)
    if lift_numbers and _is_number(leaf):
        return ("number", type(leaf))
    if leaf is None or isinstance(leaf, (str, bool, int, float, bytes)):
        return ("value", type(leaf), leaf if leaf == leaf else "nan")
    return ("object", id(leaf))


def group_inputs(examples: Sequence[Inputs], *, lift_numbers: bool = False) -> list[InputGroup]:
    """Group ``examples`` (keyword arguments of one run each); groups in order of their first example."""
    groups: dict[Hashable, list[int]] = {}
    flattened = []
    for position, inputs in enumerate(examples):
        leaves, structure = pytree.tree_flatten(dict(inputs))
        flattened.append((leaves, structure))
        key = (str(structure), tuple(_leaf_key(leaf, lift_numbers) for leaf in leaves))
        groups.setdefault(key, []).append(position)
    return [_stack(positions, flattened, lift_numbers) for positions in groups.values()]


def _stack(positions: list[int], flattened: list[tuple[list[Any], pytree.TreeSpec]], lift_numbers: bool) -> InputGroup:
    first, structure = flattened[positions[0]]
    leaves: list[Any] = []
    lifted: list[bool] = []
    for at, example in enumerate(first):
        column = [flattened[p][0][at] for p in positions]
        if isinstance(example, Tensor):
            leaves.append(torch.stack(column))
        elif isinstance(example, np.ndarray) and example.dtype != object:
            leaves.append(torch.from_numpy(np.stack(column)))
        elif lift_numbers and _is_number(example):
            leaves.append(
                torch.tensor(column, dtype=torch.int64 if isinstance(example, (int, np.integer)) else torch.float32)
            )
        else:
            leaves.append(example)
            lifted.append(False)
            continue
        lifted.append(True)
    return InputGroup(tuple(positions), tuple(leaves), tuple(lifted), structure)


@dataclass
class ExampleBatch:
    """Inputs of some examples, stacked at their first lifted run and kept for the next generation."""

    inputs: Sequence[Mapping[str, Any]]
    _groups: dict[bool, list[InputGroup]] = field(default_factory=dict)

    def groups(self, lift_numbers: bool) -> list[InputGroup]:
        if lift_numbers not in self._groups:
            self._groups[lift_numbers] = group_inputs(self.inputs, lift_numbers=lift_numbers)
        return self._groups[lift_numbers]
