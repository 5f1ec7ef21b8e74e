"""``hyperfunc replay`` and ``hyperfunc resume``: run one example again without paying, and go on with a run.

Both need the user's own program, which no journal holds: a reference ``package.module:name`` says where it is.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from hyperfunc.binding import Binding
from hyperfunc.budget import Budget
from hyperfunc.cli.runs_loading import JOURNAL, load_object, open_existing
from hyperfunc.errors import ConfigurationError, JournalError, ResumeError
from hyperfunc.evaluation.example import Example
from hyperfunc.journal import Journal
from hyperfunc.observability.preview import preview
from hyperfunc.parameters.theta import Theta
from hyperfunc.scope import RunScope, enter_scope
from hyperfunc.selection import as_examples
from hyperfunc.system import HyperSystem
from hyperfunc.tape import Tape, recording

__all__ = ["Replay", "replay", "replay_example", "resume"]

_RUN = typer.Argument(help="The run's name.")


@dataclass(frozen=True)
class Replay:
    """One example, run again.

    Attributes:
        output: what the program returned.
        tape: what it called.
        seconds: how long it took.
    """

    output: Any
    tape: Tape
    seconds: float


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
    return Replay(output, tape, time.perf_counter() - began)


def replay(
    run: str = _RUN,
    example: int = typer.Option(..., "--example", "-n", min=0, help="Its position in the data, from 0."),
    system: str = typer.Option(..., "--system", help="package.module:name of the system, or of a function making it."),
    data: str = typer.Option(..., "--data", help="package.module:name of the examples, or of a function making them."),
    initial: bool = typer.Option(False, "--initial", help="Under the parameters that the run began with."),
    journal: Path = JOURNAL,
) -> None:
    """Run one example again under a run's best parameters; paid calls are answered from the journal or not at all.

    The journal has the calls of every candidate on the examples that judged it: the best one's on the validation data
    (without any, on the training data).
    """
    chosen = _example(data, example)
    with open_existing(journal) as opened:
        theta = _initial_theta(opened, run) if initial else None
        opened.run(run)
        replayed = asyncio.run(replay_example(opened, run, _system(system), chosen, theta=theta))
    for call in replayed.tape:
        indent = "  " if call.parent is not None else ""
        typer.echo(f"{indent}{call.function}: {1000 * call.seconds:.1f} ms -> {preview(call.output)}")
    typer.echo(f"output: {preview(replayed.output)}")
    typer.echo(f"expected: {preview(chosen.expected)}")
    typer.echo(f"{len(replayed.tape)} calls in {1000 * replayed.seconds:.1f} ms, 0 paid")


def resume(
    run: str = _RUN,
    program: str = typer.Option(..., "--program", help="package.module:name of an async function that optimizes."),
    journal: Path = JOURNAL,
) -> None:
    """Go on with a run by calling the function that began it.

    It has to call ``optimize(..., run=…, resume=True)``. Where it has parameters called ``run`` and ``journal``, it
    gets the run's name and the journal's path.
    """
    function = load_object(program, "--program")
    if not inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"--program: expected an `async def` function, got {function!r}")
    with open_existing(journal) as opened:
        before = opened.run(run)
    offered = {"run": run, "journal": journal}
    accepted = inspect.signature(function).parameters
    result = asyncio.run(function(**{name: value for name, value in offered.items() if name in accepted}))
    with open_existing(journal) as opened:
        after = opened.run(run)
    if after.updated_at == before.updated_at:
        raise ResumeError(
            f"{program} returned without going on with run {run!r}; it has to call "
            f"optimize(..., run={run!r}, resume=True, journal={str(journal)!r})"
        )
    typer.echo(str(result) if result is not None else f"{after.finish_reason}: {after.generations} generations")


def _system(reference: str) -> HyperSystem:
    found = load_object(reference, "--system")
    system = found if isinstance(found, HyperSystem) else _called(found, "--system")
    if not isinstance(system, HyperSystem):
        raise ConfigurationError(f"--system: expected a HyperSystem, got {type(system).__name__}")
    return system


def _example(reference: str, position: int) -> Example:
    found = load_object(reference, "--data")
    examples = as_examples(found if isinstance(found, Sequence) else _called(found, "--data"))
    if position >= len(examples):
        raise ConfigurationError(f"--example: expected 0 to {len(examples) - 1}, got {position}")
    return examples[position]


def _called(function: Any, option: str) -> Any:
    if not callable(function):
        raise ConfigurationError(f"{option}: expected a function, got {type(function).__name__}")
    made = function()
    if inspect.iscoroutine(made):
        made.close()
        raise ConfigurationError(f"{option}: expected an ordinary function, got a coroutine function")
    return made


def _initial_theta(journal: Journal, run: str) -> Theta:
    key = next((g.theta for g in journal.generations(run) if g.theta is not None), None)
    if key is None:
        raise JournalError(f"run {run!r} has recorded no parameters yet")
    return journal.load_theta(key)
