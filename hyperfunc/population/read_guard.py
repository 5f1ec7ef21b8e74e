"""Whoever reads a value that vmap hides, is heard: what both vmapped executions watch a program with.

vmap refuses such reads by raising, which a program may catch; the guard notes them all the same. Knows no program.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hyperfunc.population.factored import FactoredTensor

__all__ = ["ReadGuard", "is_stacked"]

_READS = {
    Tensor.__bool__: "bool()",
    Tensor.__int__: "int()",
    Tensor.__float__: "float()",
    Tensor.__index__: "use as an index or range",
    Tensor.item: ".item()",
    Tensor.tolist: ".tolist()",
    Tensor.numpy: ".numpy()",
    Tensor.__array__: "conversion to numpy",
    Tensor.__format__: "formatting",
    Tensor.__repr__: "printing",
    Tensor.__contains__: "`in`",
}


class ReadGuard(TorchFunctionMode):
    """Notes every read of a stacked tensor's value, so that a function that catches vmap's refusal is still refused."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        what = _READS.get(func)
        if what is not None and args and is_stacked(args[0]):
            self.reads.append(what)
        return func(*args, **(kwargs or {}))


def is_stacked(value: Any) -> bool:
    """Whether ``value`` is a tensor behind which vmap hides one value per member or example."""
    if isinstance(value, FactoredTensor):
        return True
    return isinstance(value, Tensor) and bool(torch._C._functorch.is_functorch_wrapped_tensor(value))
