"""What running a block of members on examples gave: outputs, failures, and how it was run.

Executors make these, scoring reads them; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["BlockOutcome", "LiftedGroup"]


@dataclass(frozen=True)
class LiftedGroup:
    """Stacked outputs of examples that were run in one kernel.

    Attributes:
        examples: their positions.
        leaves: the output's leaves: tensors ``[P, E_group, …]`` where lifted, else the constant itself.
        lifted: which leaves are stacked.
        structure: how the leaves make one output.
    """

    examples: tuple[int, ...]
    leaves: list[Any]
    lifted: tuple[bool, ...]
    structure: pytree.TreeSpec

    def output(self, member: int, position: int) -> Any:
        """The output of one member on the group's ``position``-th example."""
        leaves = [
            leaf[member, position] if lifted else leaf for leaf, lifted in zip(self.leaves, self.lifted, strict=True)
        ]
        return pytree.tree_unflatten(leaves, self.structure)

    def outputs(self, member: int) -> list[Any]:
        """One member's outputs, in the group's order (one bulk ``unbind`` per leaf)."""
        count = len(self.examples)
        columns = [
            leaf[member].unbind() if lifted else [leaf] * count
            for leaf, lifted in zip(self.leaves, self.lifted, strict=True)
        ]
        if len(columns) == 1 and self.structure.is_leaf():
            return list(columns[0])
        return [pytree.tree_unflatten(list(row), self.structure) for row in zip(*columns, strict=True)]

    @property
    def tensor(self) -> Tensor | None:
        """The stacked output ``[P, E_group, …]`` where the output is a single tensor."""
        if len(self.leaves) == 1 and self.lifted[0] and isinstance(self.leaves[0], Tensor) and self.structure.is_leaf():
            return self.leaves[0]
        return None


@dataclass
class BlockOutcome:
    """Outputs of ``members`` × ``examples`` runs.

    Attributes:
        members, examples: how many.
        groups: stacked outputs (lifted execution); empty otherwise.
        rows: ``rows[member][example]`` (other executions); ``None`` where the run raised.
        errors: what a run raised, by ``(member, example)``.
    """

    members: int
    examples: int
    groups: list[LiftedGroup] = field(default_factory=list)
    rows: list[list[Any]] | None = None
    errors: dict[tuple[int, int], Exception] = field(default_factory=dict)

    def outputs_of(self, member: int) -> list[Any]:
        """One member's outputs, in example order."""
        if self.rows is not None:
            return self.rows[member]
        outputs: list[Any] = [None] * self.examples
        for group in self.groups:
            for example, output in zip(group.examples, group.outputs(member), strict=True):
                outputs[example] = output
        return outputs

    def outputs_of_example(self, member: int, example: int) -> Any:
        """One output."""
        if self.rows is not None:
            return self.rows[member][example]
        for group in self.groups:
            if example in group.examples:
                return group.output(member, group.examples.index(example))
        raise IndexError(f"example {example} of {self.examples}")

    def failed_members(self) -> set[int]:
        return {member for member, _ in self.errors}

    def __iter__(self) -> Iterator[list[Any]]:
        return (self.outputs_of(member) for member in range(self.members))

    @property
    def stacked(self) -> Tensor | None:
        """``[P, E, …]`` where one kernel ran all examples and the output is a single tensor."""
        if len(self.groups) == 1 and self.rows is None:
            return self.groups[0].tensor
        return None
