"""``hyperfunc replay`` and ``hyperfunc resume``: run one example again without paying, and go on with a run.

Both need the user's own program, which no journal holds: a reference ``package.module:name`` says where it is.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hyperfunc.cli.runs_loading import JOURNAL, load_object, open_history, open_journal
from hyperfunc.errors import ConfigurationError, ResumeError

if TYPE_CHECKING:
    from hyperfunc.evaluation.example import Example
    from hyperfunc.system import HyperSystem

__all__ = ["replay", "resume"]

_RUN = typer.Argument(help="The run's name.")


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
    from hyperfunc.cli.replaying import initial_theta, replay_example, shown, what_changed  # need torch

    with open_journal(journal) as opened:
        opened.run(run)
        examples = _examples(data, example)
        program = _system(system)
        for line in what_changed(opened, run, program, examples, example):
            typer.echo(f"note: {line}", err=True)
        theta = initial_theta(opened, run) if initial else None
        replayed = asyncio.run(replay_example(opened, run, program, examples[example], theta=theta))
    if replayed.unused:
        names = ", ".join(replayed.unused)
        typer.echo(f"note: {system} has not used these parameters of the run: {names}", err=True)
    depths: dict[int, int] = {}
    for call in replayed.tape:
        depths[call.id] = 0 if call.parent is None else depths.get(call.parent, 0) + 1
        typer.echo(f"{'  ' * depths[call.id]}{call.function}: {1000 * call.seconds:.1f} ms -> {shown(call.output)}")
    typer.echo(f"output: {shown(replayed.output)}")
    typer.echo(f"expected: {shown(examples[example].expected)}")
    count = len(replayed.tape)
    typer.echo(f"{count} call{'' if count == 1 else 's'} in {1000 * replayed.seconds:.1f} ms, 0 paid")


def resume(
    run: str = _RUN,
    program: str = typer.Option(..., "--program", help="package.module:name of an async function that optimizes."),
    journal: Path = JOURNAL,
) -> None:
    """Go on with a run by calling the function that began it.

    It has to call ``optimize(..., run=…, resume=True)``. Where it has parameters called ``run`` and ``journal``, it
    gets the run's name and the journal's path.
    """
    with open_history(journal) as opened:
        before = opened.run(run)
    function = load_object(program, "--program")
    if not inspect.iscoroutinefunction(function):
        name = getattr(function, "__qualname__", type(function).__name__)
        raise ConfigurationError(f"--program: expected an `async def` function that optimizes, got {name}")
    offered = {"run": run, "journal": journal}
    accepted = inspect.signature(function).parameters
    result = asyncio.run(function(**{name: value for name, value in offered.items() if name in accepted}))
    with open_history(journal) as opened:
        after = opened.run(run)
    if after.updated_at == before.updated_at:
        raise ResumeError(
            f"{program} returned without going on with run {run!r}; it has to call "
            f"optimize(..., run={run!r}, resume=True, journal={str(journal)!r})"
        )
    typer.echo(str(result) if result is not None else f"{after.finish_reason}: {after.generations} generations")


def _system(reference: str) -> HyperSystem:
    from hyperfunc.system import HyperSystem  # needs torch

    found = load_object(reference, "--system")
    system = found if isinstance(found, HyperSystem) else _called(found, "--system")
    if not isinstance(system, HyperSystem):
        raise ConfigurationError(f"--system: expected a HyperSystem, got {type(system).__name__}")
    return system


def _examples(reference: str, position: int) -> Sequence[Example]:
    from hyperfunc.selection import as_examples  # needs torch

    found = load_object(reference, "--data")
    examples = as_examples(found if isinstance(found, Sequence) else _called(found, "--data"))
    if position >= len(examples):
        raise ConfigurationError(f"--example: expected 0 to {len(examples) - 1}, got {position}")
    return examples


def _called(function: Any, option: str) -> Any:
    if not callable(function):
        raise ConfigurationError(f"{option}: expected a function, got {type(function).__name__}")
    needed = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise ConfigurationError(f"{option}: expected a function without arguments, got one that needs {needed[0]!r}")
    made = function()
    if inspect.iscoroutine(made):
        made.close()
        raise ConfigurationError(f"{option}: expected an ordinary function, got a coroutine function")
    return made
