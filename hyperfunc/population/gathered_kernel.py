"""One hyperfunction on many calls at once: arguments stacked, members gathered by index, one vmapped kernel.

A kernel always has the same number of rows, chosen from a ladder by the size of the function alone, and a call always
has the same row in it, chosen by its member and example alone. The rows that nobody needs hold copies. So a call's bits
depend on the call, never on which other calls happened to come along. (Tried: even at one number of rows, another *row*
changes bits in matrix products of odd sizes.) Members' factors are copied, never their dense weights.

Knows nothing of tasks and queues: it takes rows and gives results, or says why it cannot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.binding import Binding, ComponentScope, Frame, bound
from hyperfunc.errors import ExecutionError
from hyperfunc.population.factored import FactoredTensor
from hyperfunc.population.factored_members import gather_members, member_leaves, member_parameters
from hyperfunc.population.gathered_arguments import Layout
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock, MemberValues
from hyperfunc.population.read_guard import ReadGuard

__all__ = ["LADDER", "ComponentParameters", "GatheredKernel", "KernelRefusedError", "kernel_rows"]

LADDER = (512, 256, 128, 64, 32, 16, 8)
"""Numbers of rows that kernels may have."""

_COPIED_ELEMENTS = 2**21  # elements of stacked inputs and gathered parameters in one kernel
_PRODUCT_ELEMENTS = 2**24  # rows × elements of parameters: about the multiplications of one kernel


class KernelRefusedError(ExecutionError):
    """These calls cannot be one kernel; the message says why. They are then made one by one."""


@dataclass(frozen=True)
class ComponentParameters:
    """What one component is given by the members of a block.

    Attributes:
        component: its dotted name.
        members: dotted name -> the block's values, of the parameters that differ by member.
        shared: parameter name -> the value that all members have.
    """

    component: str
    members: MemberBlock
    shared: Mapping[str, Any]

    @property
    def copied_elements(self) -> int:
        """Numbers that one row's gathered parameters take."""
        return sum(leaf.shape[1:].numel() for leaf in member_leaves(self.members))

    @property
    def elements(self) -> int:
        """Numbers in one member's dense parameters."""
        factored = sum(v.base.numel() for v in self.members.values() if isinstance(v, FactoredMembers))
        dense = sum(v.values.shape[1:].numel() for v in self.members.values() if not isinstance(v, FactoredMembers))
        return factored + dense + sum(v.numel() for v in self.shared.values() if isinstance(v, Tensor))

    def to(self, device: torch.device, dtype: torch.dtype | None) -> ComponentParameters:
        """The same on a device; floating tensors in ``dtype`` where given."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.dtype.is_floating_point else None)

        members: dict[str, MemberValues] = {
            name: FactoredMembers(move(of.base), move(of.left), move(of.right), of.scale)
            if isinstance(of, FactoredMembers)
            else DenseMembers(move(of.values))
            for name, of in self.members.items()
        }
        shared = {name: move(value) if isinstance(value, Tensor) else value for name, value in self.shared.items()}
        return ComponentParameters(self.component, members, shared)


def kernel_rows(parameters: ComponentParameters, input_elements: int, memory_bytes: int | None = None) -> int:
    """The ladder's largest number of rows whose copies and products stay small; a pure function of sizes."""
    copied = max(1, parameters.copied_elements + input_elements)
    products = max(1, parameters.elements)
    most = min(_COPIED_ELEMENTS // copied, _PRODUCT_ELEMENTS // products)
    if memory_bytes is not None:
        most = min(most, memory_bytes // (8 * copied))
    return next((rows for rows in LADDER if rows <= most), LADDER[-1])


class GatheredKernel:
    """The kernel of one hyperfunction and one group of calls.

    Args:
        function: the hyperfunction.
        parameters: what the block gives to its component.
        layout: how a call's tensors make its arguments.
        rows: number of rows of every kernel.
        scope: for the frame in which the function runs; calls of other hyperfunctions are refused there.
        device, dtype: where it runs and in which floating dtype; ``None``: as the arguments are.
    """

    def __init__(
        self,
        function: Any,
        parameters: ComponentParameters,
        layout: Layout,
        rows: int,
        scope: ComponentScope,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.function = function
        self.rows = rows
        self._layout = layout
        self._device = device
        self._dtype = dtype
        self._parameters = parameters if device is None else parameters.to(device, dtype)
        self._refusals: list[str] = []
        self.frame = Frame(Binding({}, route=self._refuse_nested), scope)
        self._mapped = torch.vmap(self._one_call, randomness="error")
        self._gathered_for: list[int] | None = None
        self._gathered: tuple[Tensor, ...] = ()
        self._gathered_versions: list[int] = []
        self._leaves: list[Any] = []
        self._is_tensor: list[bool] = []
        self._structure: pytree.TreeSpec | None = None

    def __call__(
        self, slots: Sequence[int], members: Sequence[int], arguments: Sequence[Sequence[Tensor]]
    ) -> list[Any]:
        """One result per call.

        Args:
            slots: each call's own row, all different, below ``rows``.
            members: each call's member.
            arguments: each call's stacked leaves.

        Raises:
            KernelRefusedError: the function does something that a kernel cannot.
            Exception: what the function itself raised; some call is to blame.
        """
        with torch.no_grad():
            return self._call(slots, members, arguments)

    def _call(self, slots: Sequence[int], members: Sequence[int], arguments: Sequence[Sequence[Tensor]]) -> list[Any]:
        at: list[int] = [0] * self.rows
        for call, slot in enumerate(slots):
            at[slot] = call
        stacked = [torch.stack([arguments[call][leaf] for call in at]) for leaf in range(len(arguments[0]))]
        home = stacked[0].device
        if self._device is not None:
            stacked = [self._moved(tensor) for tensor in stacked]
        gathered = self._gather([members[call] for call in at])
        versions = [tensor._version for tensor in stacked]
        outputs = self._run((*gathered, *stacked))
        if [t._version for t in stacked] != versions or [t._version for t in gathered] != self._gathered_versions:
            self._gathered_for = None
            raise KernelRefusedError("it writes into its arguments or parameters")
        columns = [self._split(tensor if self._device is None else tensor.to(home), slots) for tensor in outputs]
        return self._results(columns, len(slots))

    # --- members -------------------------------------------------------------------------------------------------

    def _gather(self, members: list[int]) -> tuple[Tensor, ...]:
        """The members' leaves, one row per call. Concurrent episodes meet in the same order again and again, so the
        last ones are kept (unless a program wrote into a result that is a view of them)."""
        if not self._parameters.members:
            return ()
        if members != self._gathered_for or [t._version for t in self._gathered] != self._gathered_versions:
            index = torch.tensor(members, device=self._device)
            self._gathered = member_leaves(gather_members(self._parameters.members, index))
            self._gathered_versions = [t._version for t in self._gathered]
            self._gathered_for = members
        return self._gathered

    def _injected(self, leaves: tuple[Tensor, ...]) -> dict[str, Any]:
        function = self.function
        values = dict(self._parameters.shared)
        prefix = len(self._parameters.component) + 1
        for name, value in member_parameters(self._parameters.members, leaves).items():
            values[name[prefix:]] = value
        if function.hp_type is not None:
            values["hp"] = function.hp_type.from_tensor(values["hp"])
        if function.is_module:
            return values
        return {name: value for name, value in values.items() if name in function.accepted_injections}

    # --- running -------------------------------------------------------------------------------------------------

    def _one_call(self, *flat: Tensor) -> tuple[Tensor, ...]:
        """The function on one call; under vmap."""
        count = len(self._gathered)
        args, kwargs = self._layout.arguments(flat[count:])
        result = self.function.drive(self.function.body(args, kwargs, self._injected(flat[:count])))
        self._leaves, self._structure = pytree.tree_flatten(result)
        self._is_tensor = [isinstance(leaf, Tensor) for leaf in self._leaves]
        for leaf in self._leaves:
            if isinstance(leaf, FactoredTensor):
                self._refuse("it returns a perturbed weight itself")
            if not isinstance(leaf, (Tensor, str, bytes, bool, int, float, complex, type(None), torch.dtype)):
                self._refuse(f"it returns a {type(leaf).__name__}, which cannot be split into the calls' results")
        return tuple(leaf for leaf in self._leaves if isinstance(leaf, Tensor))

    def _run(self, flat: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._refusals.clear()
        guard = ReadGuard()
        try:
            with bound(self.frame), guard:
                outputs: tuple[Tensor, ...] = self._mapped(*flat)
        except Exception as error:
            if guard.reads:
                self._refusals.append(f"it reads a tensor's value: {guard.reads[0]}")
            if self._refusals:
                raise KernelRefusedError(self._refusals[0]) from error
            raise
        if guard.reads:
            self._refusals.append(f"it reads a tensor's value: {guard.reads[0]}")
        if self._refusals:
            raise KernelRefusedError(self._refusals[0])
        return outputs

    def _refuse(self, reason: str) -> None:
        self._refusals.append(reason)
        raise KernelRefusedError(reason)

    def _refuse_nested(
        self, function: Any, component: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any] | None:
        self._refuse(f"it calls the hyperfunction {component}")
        return None

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype if tensor.dtype.is_floating_point else None)

    # --- results -------------------------------------------------------------------------------------------------

    def _split(self, tensor: Tensor, slots: Sequence[int]) -> Sequence[Tensor]:
        """One result per call."""
        if tensor.stride(0) == 0 and self.rows > 1:
            tensor = tensor.contiguous()  # a result that is the same for every call; each gets its own memory
        if len(slots) * 3 < self.rows:
            return [tensor[slot] for slot in slots]
        rows = tensor.unbind(0)
        return [rows[slot] for slot in slots]

    def _results(self, columns: list[Sequence[Tensor]], count: int) -> list[Any]:
        structure = self._structure
        assert structure is not None
        if structure.is_leaf() and columns:
            return list(columns[0])
        rebuild: Callable[[list[Any]], Any] = lambda leaves: pytree.tree_unflatten(leaves, structure)
        filled: list[Sequence[Any]] = []
        remaining = iter(columns)
        for leaf, is_tensor in zip(self._leaves, self._is_tensor, strict=True):
            filled.append(next(remaining) if is_tensor else [leaf] * count)
        self._leaves = []
        return [rebuild(list(row)) for row in zip(*filled, strict=True)] if filled else [rebuild([])] * count
