"""The plain loop: every member on every example, one after the other. The oracle of the other executions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hyperfunc.binding import Binding
from hyperfunc.population.factored_members import one_member
from hyperfunc.population.members import MemberBlock
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.program import Program
from hyperfunc.tape import recording

__all__ = ["run_sequential"]


async def run_sequential(program: Program, block: MemberBlock, inputs: Sequence[Mapping[str, Any]]) -> BlockOutcome:
    """Run ``block`` × ``inputs`` one by one; an exception is that run's failure."""
    members = next(iter(block.values())).size if block else 1
    outcome = BlockOutcome(members, len(inputs), rows=[[None] * len(inputs) for _ in range(members)])
    assert outcome.rows is not None
    for member in range(members):
        values: dict[str, Any] = dict(program.theta)
        values.update(one_member(block, member))
        prepared: dict[str, Any] = {}
        for example, example_inputs in enumerate(inputs):
            try:
                with torch.no_grad(), recording(None):
                    binding = Binding(values, prepared=prepared, defaults=program.defaults)
                    outcome.rows[member][example] = await program(binding, example_inputs)
            except Exception as error:
                outcome.errors[member, example] = error
    return outcome
