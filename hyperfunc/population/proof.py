"""The proof that a lifted run is right: the same runs, one by one, from the raw inputs, must give the same outputs.

One member on all examples and all members on one example (simulated: a few random pairs find 4 % of programs with 1 %
faulty cells, a full row and a full column find 97 to 100 %). Knows nothing of how the lifted outputs were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.binding import Binding
from hyperfunc.errors import InputMutatedError
from hyperfunc.population.factored_members import one_member
from hyperfunc.population.members import MemberBlock
from hyperfunc.program import Program
from hyperfunc.tape import Tape, recording

__all__ = ["Reference", "all_equal", "first_difference", "reference_run"]

Inputs = Mapping[str, Any]

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference relative to the scale of the outputs: kernels sum in other orders."""


@dataclass(frozen=True)
class Reference:
    """One run made alone: its output, and what it called that lifting could not have known."""

    output: Any
    suspended: tuple[str, ...]  # components that really waited


async def reference_run(program: Program, block: MemberBlock, member: int, inputs: Inputs) -> Reference:
    """Run one member on one example, alone and from the raw inputs.

    Raises:
        InputMutatedError: the program wrote into a tensor that it was given.
    """
    values: dict[str, Any] = dict(program.theta)
    values.update(one_member(block, member))
    tensors = {n: t for n, t in enumerate(pytree.tree_leaves(dict(inputs))) if isinstance(t, Tensor)}
    versions = {n: t._version for n, t in tensors.items()}
    tape = Tape()
    with recording(tape):
        output = await program(Binding(values, defaults=program.defaults), inputs)
    if any(t._version != versions[n] for n, t in tensors.items()):
        raise InputMutatedError(
            "the program wrote into the tensors that it was given; copy an input before changing it"
        )
    parents = {call.parent for call in tape}
    suspended = tuple(sorted({c.function for c in tape if c.suspended and c.id not in parents}))
    return Reference(output, suspended)


def first_difference(pairs: Sequence[tuple[Any, Any]]) -> tuple[int, str] | None:
    """The first pair (lifted, alone) whose outputs are not the same, and why; ``None`` when all agree.

    Floating leaves may differ by :data:`TOLERANCE` relative to the largest absolute value of that leaf over all pairs.
    """
    flat = [(pytree.tree_flatten(lifted), pytree.tree_flatten(alone)) for lifted, alone in pairs]
    scales: dict[int, float] = {}
    for _, (leaves, _) in flat:
        for at, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point and leaf.numel():
                largest = float(torch.nan_to_num(leaf.detach(), 0.0, 0.0, 0.0).abs().max())
                scales[at] = max(scales.get(at, 1e-6), largest)
    for position, ((left, left_structure), (right, right_structure)) in enumerate(flat):
        if left_structure != right_structure:
            return position, f"structure {left_structure} instead of {right_structure}"
        for at, (a, b) in enumerate(zip(left, right, strict=True)):
            reason = _leaf_difference(a, b, scales.get(at, 1.0))
            if reason is not None:
                return position, reason
    return None


def _leaf_difference(a: Any, b: Any, scale: float) -> str | None:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        if isinstance(a, Tensor) and a.ndim == 0 and isinstance(b, (int, float)) and not isinstance(b, bool):
            value = a.item()  # a number that became a 0-dim tensor is the same number if its value is
            same = abs(value - b) <= 1e-5 * max(1.0, abs(b)) or (value != value and b != b)
            return None if same else f"{value} instead of {b}"
        return None if type(a) is type(b) and a == b else f"{a!r} instead of {b!r}"
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype}{list(a.shape)} instead of {b.dtype}{list(b.shape)}"
    if not a.dtype.is_floating_point:
        return None if torch.equal(a, b) else "other whole numbers"
    if not torch.equal(a.isnan(), b.isnan()):
        return "NaN in other places"
    finite = b.isfinite()
    if not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return "infinity in other places"
    if not finite.any():
        return None
    worst = float((a[finite].double() - b[finite].double()).abs().max())
    allowed = TOLERANCE.get(b.dtype, 1e-4) * scale
    return None if worst <= allowed else f"a difference of {worst:.2e} where {allowed:.2e} is allowed"


def all_equal(outputs: Sequence[Any]) -> bool:
    """Whether every output is the same to the bit (a sign that something is cached or not perturbed)."""
    first = pytree.tree_leaves(outputs[0])
    return len(outputs) > 1 and all(
        len(first) == len(leaves := pytree.tree_leaves(other))
        and all(
            torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b
            for a, b in zip(first, leaves, strict=True)
        )
        for other in outputs[1:]
    )
