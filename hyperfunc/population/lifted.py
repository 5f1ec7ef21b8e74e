"""Lifted execution: the whole ``run()`` as one function of (θ, inputs), vmapped over members and over examples.

Python is executed once per kernel. Nothing is recorded and replayed, so nothing can be stale; what vmap cannot express
is refused, and every way around the refusal is closed:

* reads of a tensor's value (``bool``, ``item``, ``tolist``, …) are noted by a :class:`TorchFunctionMode`, so that a
  program that catches vmap's error is still refused;
* hyperfunctions that do I/O refuse before they are called: a half-finished lift has paid for nothing;
* a batched tensor left on a system would be dead in the next generation, so it is refused.

Knows nothing of how the choice between lifted and gathered is made (:mod:`hyperfunc.population.evaluate`).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from hyperfunc.binding import Binding
from hyperfunc.errors import HyperfuncError, InputMutatedError
from hyperfunc.population.factored import FactoredTensor
from hyperfunc.population.factored_members import Leaves, member_leaves, member_parameters
from hyperfunc.population.inputs import InputGroup
from hyperfunc.population.members import MemberBlock
from hyperfunc.population.outcomes import BlockOutcome, LiftedGroup
from hyperfunc.program import Program
from hyperfunc.tape import recording

__all__ = ["LiftRefusedError", "run_lifted"]


class LiftRefusedError(HyperfuncError):
    """The program cannot be run as one kernel; the message is the reason. Not part of the public tree: ``auto``
    falls back on it, and an explicit ``execution="lifted"`` turns it into a :class:`~hyperfunc.errors.LiftError`."""


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


class _ReadGuard(TorchFunctionMode):
    """Notes every read of a batched tensor's value."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        what = _READS.get(func)
        if what is not None and args and isinstance(args[0], Tensor) and _is_batched(args[0]):
            self.reads.append(what)
        return func(*args, **(kwargs or {}))


def _is_batched(tensor: Tensor) -> bool:
    """Whether vmap hides more than one value behind ``tensor``."""
    return isinstance(tensor, FactoredTensor) or bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def run_lifted(program: Program, block: MemberBlock, groups: list[InputGroup], runner: asyncio.Runner) -> BlockOutcome:
    """Run every member of ``block`` on every example of ``groups``: one kernel per group.

    Args:
        runner: an event loop of its own in the calling thread, which must not be running one.

    Raises:
        LiftRefusedError: the program cannot be lifted; nothing was paid for.
        InputMutatedError: it wrote into its inputs.
    """
    members = next(iter(block.values())).size if block else 1
    outcome = BlockOutcome(members, sum(len(g.examples) for g in groups))
    with torch.no_grad():
        for group in groups:
            outcome.groups.append(_run_group(program, block, members, group, runner))
    return outcome


def _run_group(
    program: Program, block: MemberBlock, members: int, group: InputGroup, runner: asyncio.Runner
) -> LiftedGroup:
    leaves_of_members = member_leaves(block)
    counts = [t._version for t in group.tensors]
    refusals: list[str] = []
    shape: dict[str, Any] = {}

    def route(function: Any, component: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[Any] | None:
        if function.performs_io or function.batched:
            kind = "performs I/O, has limits or texts" if function.performs_io else "takes whole batches"
            refusals.append(f"{component} {kind}")
            raise LiftRefusedError(refusals[-1])
        return None

    def one_run(leaves_of_member: Leaves, tensors_of_example: tuple[Tensor, ...]) -> Any:
        values: dict[str, Any] = dict(program.theta)
        values.update(member_parameters(block, leaves_of_member))
        binding = Binding(values, route=route, defaults=program.defaults)
        context = contextvars.copy_context()
        with recording(None):
            output = runner.run(program(binding, group.inputs(tensors_of_example)), context=context)
        leaves, structure = pytree.tree_flatten(output)
        lifted = tuple(isinstance(leaf, Tensor) for leaf in leaves)
        for leaf, is_tensor in zip(leaves, lifted, strict=True):
            if not is_tensor and not (leaf is None or isinstance(leaf, (str, bool, int, float, bytes))):
                raise LiftRefusedError(f"the output contains a {type(leaf).__name__}, which vmap cannot return")
        shape.update(structure=structure, lifted=lifted, constants=leaves)
        return tuple(leaf for leaf, is_tensor in zip(leaves, lifted, strict=True) if is_tensor)

    mapped: Any = one_run
    if group.tensors:
        mapped = torch.vmap(mapped, in_dims=(None, 0))
    if block:
        mapped = torch.vmap(mapped, in_dims=(0, None))
    guard = _ReadGuard()
    try:
        with guard:
            tensors = mapped(leaves_of_members, group.tensors)
    except LiftRefusedError:
        raise
    except Exception as error:
        reason = (
            guard.reads[0]
            if guard.reads
            else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        raise LiftRefusedError(refusals[0] if refusals else _explain(reason, bool(guard.reads))) from error
    if refusals:
        raise LiftRefusedError(refusals[0])
    if guard.reads:
        raise LiftRefusedError(_explain(guard.reads[0], True))
    _refuse_state(program)
    if [t._version for t in group.tensors] != counts:
        raise InputMutatedError(
            "the program wrote into the tensors that it was given; copy an input before changing it"
        )
    if not any(shape["lifted"]):
        raise LiftRefusedError("the output contains no tensor, so that it cannot depend on the member")
    return _group_outcome(group, members, tensors, shape, per_example=bool(group.tensors), per_member=bool(block))


def _explain(reason: str, was_read: bool) -> str:
    return f"the program reads a tensor's value: {reason}" if was_read else reason


def _group_outcome(
    group: InputGroup,
    members: int,
    tensors: tuple[Tensor, ...],
    shape: Mapping[str, Any],
    *,
    per_example: bool,
    per_member: bool,
) -> LiftedGroup:
    remaining = iter(tensors)
    leaves: list[Any] = []
    for leaf, lifted in zip(shape["constants"], shape["lifted"], strict=True):
        if not lifted:
            leaves.append(leaf)
            continue
        tensor = next(remaining)
        if not per_member:
            tensor = tensor.unsqueeze(0)
        if not per_example:  # inputs without tensors: every example of the group is the same run
            tensor = tensor.unsqueeze(1).expand(tensor.shape[0], len(group.examples), *tensor.shape[1:])
        leaves.append(tensor)
    return LiftedGroup(group.examples, leaves, shape["lifted"], shape["structure"])


def _refuse_state(program: Program) -> None:
    for holder in program.holders:
        for name, value in vars(holder).items():
            for leaf in pytree.tree_leaves(value):
                if isinstance(leaf, Tensor) and _is_batched(leaf):
                    raise LiftRefusedError(
                        f"run() keeps a tensor on the system ({type(holder).__name__}.{name}), "
                        "which would be dead after this kernel; return it instead"
                    )
