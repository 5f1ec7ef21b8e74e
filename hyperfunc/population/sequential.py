"""The plain loop: every member on every example, one after the other. The oracle of the other executions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperfunc.binding import Binding
from hyperfunc.observability.spans import span
from hyperfunc.population.factored_members import one_member
from hyperfunc.population.members import MemberBlock, member_count
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.program import Program
from hyperfunc.tape import current_tape, recording

__all__ = ["run_sequential"]


async def run_sequential(program: Program, block: MemberBlock, inputs: Sequence[Mapping[str, Any]]) -> BlockOutcome:
    """Run ``block`` × ``inputs`` one by one; an exception is that run's failure."""
    members = member_count(block)
    outcome = BlockOutcome(members, len(inputs), rows=[[None] * len(inputs) for _ in range(members)])
    assert outcome.rows is not None
    tape = current_tape()
    for member in range(members):
        values: dict[str, Any] = dict(program.theta)
        values.update(one_member(block, member))
        prepared: dict[str, Any] = {}
        for example, example_inputs in enumerate(inputs):
            try:
                with (
                    recording(tape.for_population() if tape is not None else None),
                    span("evaluation", "evaluation", member=member, example=example),
                ):
                    binding = Binding(values, prepared=prepared, defaults=program.defaults)
                    outcome.rows[member][example] = await program(binding, example_inputs)
            except Exception as error:
                outcome.errors[member, example] = error
    return outcome
