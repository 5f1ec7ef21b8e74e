"""One example of a run, run again: under the run's parameters, with every paid call answered from the journal.

Knows a journal and a system; nothing of the command line.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from hyperfunc.binding import Binding
from hyperfunc.budget import Budget
from hyperfunc.errors import JournalError
from hyperfunc.evaluation.example import Example
from hyperfunc.journal import Journal, fingerprint_data, fingerprint_system
from hyperfunc.observability.preview import preview
from hyperfunc.parameters.theta import Theta
from hyperfunc.scope import RunScope, enter_scope
from hyperfunc.system import HyperSystem
from hyperfunc.tape import Tape, recording

__all__ = ["Replay", "initial_theta", "replay_example", "shown", "what_changed"]

_MOST_NUMBERS = 32


@dataclass(frozen=True)
class Replay:
    """One example, run again.

    Attributes:
        output: what the program returned.
        tape: what it called.
        seconds: how long it took.
        unused: parameters of the run that the program did not turn out to have.
    """

    output: Any
    tape: Tape
    seconds: float
    unused: tuple[str, ...] = ()


async def replay_example(
    journal: Journal, run: str, system: HyperSystem, example: Example, *, theta: Theta | None = None
) -> Replay:
    """Run ``example`` under a run's best θ (or ``theta``), with every paid call answered from the journal.

    Components that pay outside the call store (a user's own HTTP request) are called as ever: nobody kept their
    results.

    Raises:
        JournalError: there is no such run, or a paid call is not in the journal.
    """
    record = journal.run(run)
    program = replace(system.program(), theta=theta if theta is not None else journal.best_theta(run))
    scope = RunScope(Budget(calls=0, usd=0, name="replay"), journal.call_store(offline=True), seed=record.seed)
    tape = Tape()
    began = time.perf_counter()
    with enter_scope(scope, evaluating=True), recording(tape):
        output = await program(Binding(program.theta, defaults=program.defaults), example.inputs)
    seconds = time.perf_counter() - began
    known = set(system.theta)  # components are known once they have been called
    return Replay(output, tape, seconds, tuple(name for name in program.theta if name not in known))


def what_changed(
    journal: Journal, run: str, system: HyperSystem, examples: Sequence[Example], position: int
) -> list[str]:
    """How this program and this example differ from the run's own, in words; empty where they do not."""
    program, data = journal.fingerprints(run)
    lines = [f"the program is not the run's: {line}" for line in program.diff(fingerprint_system(system))]
    now = fingerprint_data(replayed=[examples[position]]).parts["replayed[0]"].hash
    # Splits of more than a thousand examples were kept in chunks, which say nothing of one example.
    one_by_one = not any(":" in name for name in data.parts)
    if one_by_one and now not in {part.hash for part in data.parts.values()}:
        lines.append(f"example {position} is not among the run's examples, so its paid calls may not be in the journal")
    return lines


def initial_theta(journal: Journal, run: str) -> Theta:
    """The θ that a run began with.

    Raises:
        JournalError: there is no such run, or it has recorded none yet.
    """
    key = next((g.theta for g in journal.generations(run) if g.theta is not None), None)
    if key is None:
        raise JournalError(f"run {run!r} has recorded no parameters yet")
    return journal.load_theta(key)


def shown(value: Any) -> str:
    """A value for a reader: a small tensor by its numbers, everything else as a preview."""
    if isinstance(value, Tensor) and value.numel() <= _MOST_NUMBERS:
        numbers = value.detach().cpu().tolist()
        return f"{_short(numbers)} ({preview(value)})"
    return preview(value)


def _short(numbers: Any) -> str:
    if isinstance(numbers, list):
        return "[" + ", ".join(map(_short, numbers)) + "]"
    return f"{numbers:.5g}" if isinstance(numbers, float) else str(numbers)
