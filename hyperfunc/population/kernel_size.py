"""How many examples one lifted kernel takes, where its tensors would be larger than the caches: by sizes alone.

A kernel's tensors have an axis of members and one of examples in front. Where one of them passes what caches hold (and,
on Linux, the 32 MiB from which on the allocator asks the system for fresh pages each time), most of the time goes into
memory. So the examples are taken a few at a time. How many changes bits (:mod:`hyperfunc.population.pace`), so it is
never measured by the clock: it follows from the bytes of the program's largest tensor in one run, which follow from
shapes, and is the same in every run and every resumed one.

Knows nothing of what a program computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from hyperfunc.errors import ConfigurationError
from hyperfunc.population.inputs import InputGroup

__all__ = ["BoundedKernels", "LargestTensor", "slices"]


@dataclass(frozen=True, kw_only=True)
class BoundedKernels:
    """How large the tensors of a lifted kernel may become.

    Args:
        tensor_bytes: most bytes of the largest tensor, over all members and examples of a kernel, at least 1; a kernel
            takes at least one example.

    Raises:
        ConfigurationError: a number out of range.
    """

    tensor_bytes: int = 4 * 2**20

    def __post_init__(self) -> None:
        if not isinstance(self.tensor_bytes, int) or isinstance(self.tensor_bytes, bool) or self.tensor_bytes < 1:
            raise ConfigurationError(f"tensor_bytes: expected a whole number of bytes >= 1, got {self.tensor_bytes!r}")

    def examples(self, members: int, largest_bytes: int) -> int:
        """How many examples a kernel takes.

        Args:
            members: of a block.
            largest_bytes: of the largest tensor of one run.
        """
        return max(1, self.tensor_bytes // max(1, members * largest_bytes))


class LargestTensor(TorchFunctionMode):
    """Notes the bytes of the largest tensor that one run makes of its example, inside ``vmap`` over examples.

    Attributes:
        nbytes: without the mapped axes. What depends on parameters alone is not counted.
    """

    def __init__(self, level: int) -> None:
        super().__init__()
        self.nbytes = 0
        self._level = level

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and torch._C._functorch.maybe_get_level(leaf) >= self._level:
                self.nbytes = max(self.nbytes, leaf.numel() * leaf.element_size())
        return result


def slices(group: InputGroup, most: int) -> Iterator[InputGroup]:
    """The examples of ``group`` in its order, ``most`` at a time; inputs without tensors stay one kernel."""
    count = len(group.examples)
    if most >= count or not any(group.lifted):
        yield group
        return
    for start in range(0, count, most):
        stop = min(start + most, count)
        leaves = tuple(
            leaf[start:stop] if lifted else leaf for leaf, lifted in zip(group.leaves, group.lifted, strict=True)
        )
        yield InputGroup(group.examples[start:stop], leaves, group.lifted, group.structure)
