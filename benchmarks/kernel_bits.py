"""Which sizes of kernels may vary without changing bits: the same runs, put into kernels of other sizes.

    python -m benchmarks.scheduling bits

A case is one function (a layer, or other operations), one shape, one kind of members; it has changed if any bit of any
output has. Which kernels the libraries choose differs between types of machine, and so do these counts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hyperfunc.population.factored_members import gather_members, member_leaves, member_parameters
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock

__all__ = ["print_bits"]

FUNCTIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "linear": lambda w, x: functional.linear(x, w),
    "two layers": lambda w, x: torch.tanh(functional.linear(torch.tanh(functional.linear(x, w)), w.T)),
    "elementwise": lambda w, x: torch.sigmoid(torch.tanh(x).exp().log1p()) * w.sum(),
    "softmax": lambda w, x: torch.softmax(x, -1),
    "layer norm": lambda w, x: functional.layer_norm(x, x.shape[-1:]),
    "sums": lambda w, x: x.sum() + x.square().mean() + x.norm() + x.logsumexp(-1).sum(),
}
CASES = 24
ROWS = 512


def _part(block: MemberBlock, start: int, stop: int) -> MemberBlock:
    return gather_members(block, torch.arange(start, stop))


def _lifted(block: MemberBlock, inputs: Tensor, function: Callable[[Any, Tensor], Tensor]) -> Tensor:
    def one(leaves: Any, x: Tensor) -> Tensor:
        return function(member_parameters(block, leaves)["w"], x)

    mapped: Any = torch.vmap(torch.vmap(one, in_dims=(None, 0)), in_dims=(0, None))
    result: Tensor = mapped(member_leaves(block), inputs)
    return result


def _gathered(block: MemberBlock, inputs: Tensor, first: int, function: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """Row ``i`` belongs to member ``(first + i) mod P``, as calls of concurrent runs may."""
    members = next(iter(block.values())).size
    gathered = gather_members(block, (first + torch.arange(len(inputs))) % members)

    def one(leaves: Any, x: Tensor) -> Tensor:
        return function(member_parameters(gathered, leaves)["w"], x)

    mapped: Any = torch.vmap(one)
    result: Tensor = mapped(member_leaves(gathered), inputs)
    return result


@torch.no_grad()
def print_bits(seeds: int, steps: int) -> None:
    """Counts of cases whose bits changed."""
    del seeds, steps
    generator, choose = torch.Generator().manual_seed(0), random.Random(0)
    changed: dict[tuple[str, str], list[int]] = {}

    def note(what: str, name: str, whole: Tensor, parts: list[Tensor], dim: int) -> None:
        counts = changed.setdefault((what, name), [0, 0])
        counts[0] += not torch.equal(torch.cat(parts, dim), whole)
        counts[1] += 1

    for name, function in FUNCTIONS.items():
        for case in range(2 * CASES):
            columns = choose.choice([2, 3, 5, 8, 10, 16, 17, 33, 64, 100, 128, 256])
            rows = choose.choice([1, 2, 3, 5, 10, 16, 33, 64, 128, 200])
            inner = choose.choice([(), (), (3,), (7,)])
            count, examples = choose.choice([4, 16, 32]), choose.choice([64, 100, 250])
            base = torch.randn(rows, columns, generator=generator) / math.sqrt(columns)
            left, right = (torch.randn(count, size, 1, generator=generator) for size in (rows, columns))
            dense = base + 0.1 * torch.randn(count, rows, columns, generator=generator)
            block: MemberBlock = {"w": FactoredMembers(base, left, right, 0.1) if case % 2 else DenseMembers(dense)}
            inputs = torch.randn(examples, *inner, columns, generator=generator)
            whole = _lifted(block, inputs, function)
            for size in (examples // 2, 32, 16, 8):
                parts = [_lifted(block, inputs[i : i + size], function) for i in range(0, examples, size)]
                note("examples of a lifted kernel", name, whole, parts, 1)
            halves = [_lifted(_part(block, i, i + count // 2), inputs, function) for i in (0, count // 2)]
            note("members of a lifted kernel", name, whole, halves, 0)
            calls = torch.randn(ROWS, *inner, columns, generator=generator)
            whole = _gathered(block, calls, 0, function)
            for size in (256, 128, 64, 32, 16, 8):
                parts = [_gathered(block, calls[i : i + size], i, function) for i in range(0, ROWS, size)]
                note("rows of a gathered kernel", name, whole, parts, 0)
    print(f"\ncases in which another size of the kernel changed bits, of so many ({torch.__version__})")
    print(f"{'':30}" + "".join(f"{name:>14}" for name in FUNCTIONS))
    for what in dict.fromkeys(what for what, _ in changed):
        cells = ["{} of {}".format(*changed[what, name]) for name in FUNCTIONS]
        print(f"{what:30}" + "".join(f"{cell:>14}" for cell in cells))
