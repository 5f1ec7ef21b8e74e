"""From a block of members to what ``torch.vmap`` takes, and back to parameters inside it.

An executor runs a program on a block in three steps::

    leaves = member_leaves(block)                   # outside: what differs by member, axis 0

    def member(leaves, inputs):                     # inside vmap: one member's parameters
        return program(member_parameters(block, leaves), inputs)

    torch.vmap(member, in_dims=(0, None))(leaves, inputs)

Leaves are one flat tuple because vmap walks its arguments in Python: nested by name they cost as much as a small layer.
The shared base of a factored parameter is no leaf: it reaches the inside by closure and is never batched. The gathered
executor first picks the members of its K calls, ``picked = gather_members(block, index)``, and does the same with
``picked``: rows of ``left`` and ``right`` are copied, a dense weight is never built.

It does not know programs, executors or strategies.
"""

from __future__ import annotations

from itertools import islice

from torch import Tensor

from hyperfunc.errors import ShapeError
from hyperfunc.population.factored import FactoredTensor
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock, MemberValues

__all__ = ["Leaves", "as_member", "gather_members", "member_leaves", "member_parameters", "one_member"]

Leaves = tuple[Tensor, ...]
"""What differs by member, parameter after parameter: ``left, right`` of a factored one, ``values`` of a dense one."""


def member_leaves(block: MemberBlock) -> Leaves:
    """What differs by member, with the members' axis first: ``torch.vmap``'s argument, with ``in_dims`` 0.

    Returns:
        For each parameter of the block, in its order, ``left [P, rows, r], right [P, columns, r]`` or
        ``values [P, *shape]``.

    Raises:
        ShapeError: the parameters do not all have the same number of members.
    """
    sizes = {name: values.size for name, values in block.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sorted(sizes.items()))
        raise ShapeError(f"expected one number of members in every parameter of a block, got {listed}")
    return tuple(leaf for values in block.values() for leaf in _leaves(values))


def _leaves(values: MemberValues) -> Leaves:
    return (values.left, values.right) if isinstance(values, FactoredMembers) else (values.values,)


def as_member(values: MemberValues, leaves: Leaves, label: str = "") -> Tensor:
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


def member_parameters(block: MemberBlock, leaves: Leaves) -> dict[str, Tensor]:
    """One member's parameters by name, from its leaves: `as_member` for a whole block.

    Raises:
        ShapeError: the leaves are not this block's.
    """
    counts = {name: 2 if isinstance(values, FactoredMembers) else 1 for name, values in block.items()}
    if sum(counts.values()) != len(leaves):
        raise ShapeError(f"expected the {sum(counts.values())} leaves of this block, got {len(leaves)}")
    parts = iter(leaves)
    return {name: as_member(block[name], tuple(islice(parts, count)), name) for name, count in counts.items()}


def one_member(block: MemberBlock, index: int) -> dict[str, Tensor]:
    """Member ``index``'s parameters outside ``torch.vmap``, factored ones still factored: for one-by-one runs."""
    return member_parameters(block, tuple(leaf[index] for leaf in member_leaves(block)))


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
