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
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.binding import Binding
from hyperfunc.errors import HyperfuncError, InputMutatedError
from hyperfunc.population.factored_members import Leaves, member_leaves, member_parameters
from hyperfunc.population.inputs import InputGroup
from hyperfunc.population.kernel_size import LargestTensor, slices
from hyperfunc.population.members import MemberBlock, member_count
from hyperfunc.population.outcomes import BlockOutcome, LiftedGroup
from hyperfunc.population.read_guard import ReadGuard, is_stacked
from hyperfunc.program import Program
from hyperfunc.tape import recording

__all__ = ["LiftRefusedError", "LiftedKernel", "LiftedOutput", "largest_tensor", "run_lifted"]


class LiftRefusedError(HyperfuncError):
    """The program cannot be run as one kernel; the message is the reason. Not part of the public tree: ``auto``
    falls back on it, and an explicit ``execution="lifted"`` turns it into a :class:`~hyperfunc.errors.LiftError`."""


def run_lifted(
    program: Program,
    block: MemberBlock,
    groups: list[InputGroup],
    runner: asyncio.Runner,
    *,
    examples_at_once: int | None = None,
) -> BlockOutcome:
    """Run every member of ``block`` on every example of ``groups``: one kernel per group.

    Args:
        runner: an event loop of its own in the calling thread, which must not be running one.
        examples_at_once: most examples of one kernel; ``None`` takes a whole group. It can change bits.

    Raises:
        LiftRefusedError: the program cannot be lifted; nothing was paid for.
        InputMutatedError: it wrote into its inputs.
    """
    members = member_count(block)
    outcome = BlockOutcome(members, sum(len(g.examples) for g in groups))
    with torch.no_grad():
        kernel = LiftedKernel(program, block, runner)
        for group in groups:
            parts = []
            for part in slices(group, examples_at_once or len(group.examples)):
                output = kernel.run(part.inputs, part.tensors, examples=bool(part.tensors))
                if not any(output.lifted):
                    raise LiftRefusedError("the output contains no tensor, so that it cannot depend on the member")
                parts.append(_group_outcome(part, output, per_member=bool(block)))
            outcome.groups.append(_joined(parts))
        kernel.refuse_state()
    return outcome


def largest_tensor(program: Program, block: MemberBlock, groups: list[InputGroup], runner: asyncio.Runner) -> int:
    """Bytes of the largest tensor that one run makes of its example; one kernel of one example per group.

    Raises:
        LiftRefusedError, InputMutatedError: as :func:`run_lifted`.
    """
    largest = LargestTensor(level=2 if block else 1)
    with torch.no_grad():
        kernel = LiftedKernel(program, block, runner, watch=largest)
        for group in groups:
            one = next(slices(group, 1))
            kernel.run(one.inputs, one.tensors, examples=bool(one.tensors))
    return largest.nbytes


@dataclass(frozen=True)
class LiftedOutput:
    """What one kernel gave.

    Attributes:
        leaves: the output's leaves: with the axes that were mapped in front where lifted, else the constant itself.
        lifted: which leaves are tensors.
        structure: how the leaves make one output.
        examples: whether the examples' axis was mapped.
    """

    leaves: list[Any]
    lifted: tuple[bool, ...]
    structure: pytree.TreeSpec
    examples: bool

    def tree(self) -> Any:
        """The output with its tensors as they came: all members and examples at once."""
        return pytree.tree_unflatten(self.leaves, self.structure)


class LiftedKernel:
    """One program on one block of members, to be run on stacked inputs as often as wanted: what both the runs of whole
    programs and the single steps of an episode are made of. Use it under ``torch.no_grad()``, in one thread.

    Args:
        program: what one run does.
        block: the members; an empty block is one member with the program's own θ and has no members' axis.
        runner: an event loop of its own in the calling thread, which must not be running one.
        watch: a mode of torch's that is on while the program runs.
    """

    def __init__(
        self,
        program: Program,
        block: MemberBlock,
        runner: asyncio.Runner,
        *,
        watch: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._program = program
        self._block = block
        self._runner = runner
        self._watch = watch or nullcontext()
        self._leaves = member_leaves(block)
        self._theta = dict(program.theta)
        self._refusals: list[str] = []

    def run(
        self,
        inputs_of: Callable[[tuple[Tensor, ...]], Mapping[str, Any]],
        tensors: tuple[Tensor, ...],
        *,
        members: bool = False,
        examples: bool,
    ) -> LiftedOutput:
        """Run every member on every example, as one kernel.

        Args:
            inputs_of: one run's inputs, from its part of ``tensors``.
            tensors: ``[(P,) (E,) …]``, with the axes that are said to be there.
            members: whether each member has inputs of its own; else all share them.
            examples: whether there is an axis of examples.

        Raises:
            LiftRefusedError: the program cannot be lifted; nothing was paid for.
            InputMutatedError: it wrote into its inputs.
        """
        versions = [t._version for t in tensors]
        shape: dict[str, Any] = {}

        def one_run(leaves_of_member: Leaves, tensors_of_run: tuple[Tensor, ...]) -> Any:
            binding = self._binding_of(leaves_of_member)
            with recording(None):
                running = self._program(binding, inputs_of(tensors_of_run))
                output = self._runner.run(running, context=contextvars.copy_context())
            leaves, structure = pytree.tree_flatten(output)
            lifted = tuple(isinstance(leaf, Tensor) for leaf in leaves)
            for leaf, is_tensor in zip(leaves, lifted, strict=True):
                if not is_tensor and not (leaf is None or isinstance(leaf, (str, bool, int, float, bytes))):
                    raise LiftRefusedError(f"the output contains a {type(leaf).__name__}, which vmap cannot return")
            shape.update(structure=structure, lifted=lifted, leaves=leaves)
            return tuple(leaf for leaf, is_tensor in zip(leaves, lifted, strict=True) if is_tensor)

        mapped: Any = one_run
        if examples:
            mapped = torch.vmap(mapped, in_dims=(None, 0))
        if self._block or members:
            mapped = torch.vmap(mapped, in_dims=(0, 0 if members else None))
        results = iter(self._guarded(mapped, tensors))
        if [t._version for t in tensors] != versions:
            raise InputMutatedError(
                "the program wrote into the tensors that it was given; copy an input before changing it"
            )
        leaves = [
            next(results) if lifted else leaf for leaf, lifted in zip(shape["leaves"], shape["lifted"], strict=True)
        ]
        return LiftedOutput(leaves, shape["lifted"], shape["structure"], examples)

    def refuse_state(self) -> None:
        """Call this after the last run: a batched tensor left on a system would be dead by now.

        Raises:
            LiftRefusedError: there is one.
        """
        _refuse_state(self._program)

    def _binding_of(self, leaves_of_member: Leaves) -> Binding:
        values = {**self._theta, **member_parameters(self._block, leaves_of_member)}
        return Binding(values, route=self._route, defaults=self._program.defaults)

    def _route(
        self, function: Any, component: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any] | None:
        if function.performs_io or function.batched:
            kind = "performs I/O, has limits or texts" if function.performs_io else "takes whole batches"
            self._refusals.append(f"{component} {kind}")
            raise LiftRefusedError(self._refusals[-1])
        return None

    def _guarded(self, mapped: Any, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        guard = ReadGuard()
        try:
            with guard, self._watch:
                results: tuple[Tensor, ...] = mapped(self._leaves, tensors)
        except LiftRefusedError:
            raise
        except Exception as error:
            reason = (
                guard.reads[0]
                if guard.reads
                else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            refusals = self._refusals
            raise LiftRefusedError(refusals[0] if refusals else _explain(reason, bool(guard.reads))) from error
        if self._refusals:
            raise LiftRefusedError(self._refusals[0])
        if guard.reads:
            raise LiftRefusedError(_explain(guard.reads[0], True))
        return results


def _explain(reason: str, was_read: bool) -> str:
    return f"the program reads a tensor's value: {reason}" if was_read else reason


def _group_outcome(group: InputGroup, output: LiftedOutput, *, per_member: bool) -> LiftedGroup:
    leaves: list[Any] = []
    for leaf, lifted in zip(output.leaves, output.lifted, strict=True):
        if lifted:
            tensor = leaf if per_member else leaf.unsqueeze(0)
            if not output.examples:  # inputs without tensors: every example of the group is the same run
                tensor = tensor.unsqueeze(1).expand(tensor.shape[0], len(group.examples), *tensor.shape[1:])
            leaves.append(tensor)
        else:
            leaves.append(leaf)
    return LiftedGroup(group.examples, leaves, output.lifted, output.structure)


def _joined(parts: list[LiftedGroup]) -> LiftedGroup:
    """One group of examples that were run in several kernels."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    for part in parts:
        if part.structure != first.structure or part.lifted != first.lifted:
            raise LiftRefusedError("the output's structure differs from kernel to kernel")
    leaves: list[Any] = []
    for at, lifted in enumerate(first.lifted):
        column = [part.leaves[at] for part in parts]
        if not lifted and any(leaf != column[0] for leaf in column):
            raise LiftRefusedError("the output contains a constant that differs from kernel to kernel")
        leaves.append(torch.cat(column, dim=1) if lifted else column[0])
    return LiftedGroup(tuple(e for part in parts for e in part.examples), leaves, first.lifted, first.structure)


def _refuse_state(program: Program) -> None:
    for holder in program.holders:
        for name, value in vars(holder).items():
            for leaf in pytree.tree_leaves(value):
                if is_stacked(leaf):
                    raise LiftRefusedError(
                        f"run() keeps a tensor on the system ({type(holder).__name__}.{name}), "
                        "which would be dead after this kernel; return it instead"
                    )
