"""From a block of members to what ``torch.vmap`` takes, and back to parameters inside it.

An executor runs a program on a block in three steps::

    leaves, in_dims = member_leaves(block)          # outside: what is batched, over which axis

    def member(leaves, inputs):                     # inside vmap: one member's parameters
        return program(member_parameters(block, leaves), inputs)

    torch.vmap(member, in_dims=(in_dims, None))(leaves, inputs)

The shared base of a factored parameter is no leaf: it reaches the inside by closure and is never batched. The gathered
executor first picks the members of its K calls, ``picked = gather_members(block, index)``, and does the same with
``picked``: rows of ``left`` and ``right`` are copied, a dense weight is never built.

It does not know programs, executors or strategies.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hyperfunc.errors import ShapeError
from hyperfunc.population.factored import FactoredTensor
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock, MemberValues

__all__ = ["Leaves", "as_member", "gather_members", "member_leaves", "member_parameters", "one_member"]

Leaves = dict[str, tuple[Tensor, ...]]
"""Parameter name -> what differs by member: ``(left, right)`` of a factored one, ``(values,)`` of a dense one."""


def member_leaves(block: MemberBlock) -> tuple[Leaves, dict[str, tuple[int, ...]]]:
    """What differs by member, and the axis it lies on, as two pytrees of one structure for ``torch.vmap``.

    Returns:
        ``leaves``: parameter name -> ``(left [P, rows, r], right [P, columns, r])`` or ``(values [P, *shape],)``.
        ``in_dims``: the same structure, 0 everywhere.

    Raises:
        ShapeError: the parameters do not all have the same number of members.
    """
    sizes = {name: values.size for name, values in block.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sorted(sizes.items()))
        raise ShapeError(f"expected one number of members in every parameter of a block, got {listed}")
    leaves: Leaves = {
        name: (values.left, values.right) if isinstance(values, FactoredMembers) else (values.values,)
        for name, values in block.items()
    }
    return leaves, {name: (0,) * len(parts) for name, parts in leaves.items()}


def as_member(values: MemberValues, leaves: tuple[Tensor, ...], label: str = "") -> Tensor:
    """One member's value of one parameter, from its leaves; inside ``torch.vmap`` or outside.

    Args:
        values: the block's values, for the base and the scale; its own batched parts are not touched.
        leaves: ``(left [rows, r], right [columns, r])`` or ``(value [*shape],)``: one member's, as vmap hands them.
        label: the parameter's name, for messages and reports.

    Returns:
        A `FactoredTensor`, or the dense value itself.
    """
    if isinstance(values, FactoredMembers):
        left, right = leaves
        return FactoredTensor(values.base, left, right, values.scale, label)
    (value,) = leaves
    return value


def member_parameters(block: MemberBlock, leaves: Mapping[str, tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """One member's parameters, by name: `as_member` for a whole block."""
    return {name: as_member(block[name], parts, name) for name, parts in leaves.items()}


def one_member(block: MemberBlock, index: int) -> dict[str, Tensor]:
    """Member ``index``'s parameters outside ``torch.vmap``, factored ones still factored: for one-by-one runs."""
    leaves, _ = member_leaves(block)
    return member_parameters(block, {name: tuple(part[index] for part in parts) for name, parts in leaves.items()})


def gather_members(block: MemberBlock, index: Tensor) -> dict[str, MemberValues]:
    """The members ``index`` (int64, ``[K]``, repeats allowed) of a block, as a block of K members.

    Costs ``K · (rows + columns) · r`` numbers per factored parameter; the base is shared, never copied.
    """
    return {name: _gather(values, index) for name, values in block.items()}


def _gather(values: MemberValues, index: Tensor) -> MemberValues:
    if isinstance(values, FactoredMembers):
        left, right = values.left.index_select(0, index), values.right.index_select(0, index)
        return FactoredMembers(values.base, left, right, values.scale)
    return DenseMembers(values.values.index_select(0, index))
