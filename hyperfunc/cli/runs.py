"""``hyperfunc runs``: what a journal holds, run by run. Reads the journal; only ``prune`` changes it."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from hyperfunc.cli.runs_loading import JOURNAL, open_existing, print_json
from hyperfunc.errors import ConfigurationError
from hyperfunc.journal import Journal, RunRecord
from hyperfunc.journal.comparing import compare_runs, total_spend
from hyperfunc.journal.timefmt import duration, moment
from hyperfunc.usage import Usage

__all__ = ["app"]

app = typer.Typer(help="List, show, compare, export and prune runs.", no_args_is_help=True, add_completion=False)

_HASH = re.compile(r"[0-9a-f]{64}")
_RUN = typer.Argument(help="The run's name.")
_RUNS = typer.Argument(None, help="Only these runs.")
_FOLDER = typer.Option(..., "--output", "-o", help="A folder that does not exist yet.")
_JSON = typer.Option(False, "--json", help="Machine-readable.")


@app.command("list")
def list_runs(journal: Path = JOURNAL, as_json: bool = _JSON) -> None:
    """All runs, oldest first."""
    with open_existing(journal) as opened:
        runs = [(run, total_spend(opened, run.name)) for run in opened.runs()]
    if as_json:
        print_json([_run_json(run, spend) for run, spend in runs])
        return
    table = _table("run", "status", "began", "generations", "best", "calls", "USD", "ended by")
    for run, spend in runs:
        table.add_row(
            run.name,
            run.status,
            moment(run.created_at),
            str(run.generations),
            _number(run.best_score),
            str(spend.calls),
            f"{spend.usd:.4f}",
            run.finish_reason or "",
        )
    Console().print(table if runs else "no runs")


@app.command()
def show(run: str = _RUN, journal: Path = JOURNAL, as_json: bool = _JSON) -> None:
    """One run: what it is, every generation, what it used, its parameters."""
    with open_existing(journal) as opened:
        record = opened.run(run)
        spend = total_spend(opened, run)
        generations = opened.generations(run)
        has_theta = record.best_theta is not None or any(g.theta is not None for g in generations)
        parameters = _parameters(opened, run) if has_theta else {}
    if as_json:
        rows = [{"number": g.number, "fitness": dict(g.fitness)} for g in generations]
        print_json({**_run_json(record, spend), "generations_list": rows, "parameters": parameters})
        return
    console = Console()
    facts = _table("", "")
    facts.show_header = False
    for name, value in _facts(record, spend).items():
        facts.add_row(name, _plain(value))
    for name, shape in parameters.items():
        facts.add_row(name, _plain(shape))
    console.print(facts)
    numbers = _table("generation", "best", "mean", "centre", "sigma", "evaluations")
    for generation in generations[1:]:
        fitness = generation.fitness
        values = [_number(fitness.get(name)) for name in ("best", "mean", "center", "sigma")]
        numbers.add_row(str(generation.number), *values, f"{fitness.get('evaluations', 0):.0f}")
    console.print(numbers)


@app.command()
def compare(first: str, second: str, journal: Path = JOURNAL, as_json: bool = _JSON) -> None:
    """What differs between two runs: configuration, fitness, spend, texts, tensors."""
    with open_existing(journal) as opened:
        found = compare_runs(opened, first, second)
    rows: dict[str, tuple[Any, Any]] = {
        "same program": (found.same_program, found.same_program),
        "same data": (found.same_data, found.same_data),
        **{f"configuration {name}": pair for name, pair in found.config.items()},
        **{f"last {name}": pair for name, pair in found.fitness.items()},
        "calls": (found.spend[0].calls, found.spend[1].calls),
        "USD": (found.spend[0].usd, found.spend[1].usd),
        **{f"text {name}": pair for name, pair in found.texts.items()},
        **{f"distance of {name}": (0.0, distance) for name, distance in found.tensor_distances.items()},
    }
    if as_json:
        print_json({name: list(pair) for name, pair in rows.items()})
        return
    table = _table("", first, second)
    for name, pair in rows.items():
        table.add_row(name, *map(_plain, pair))
    Console().print(table)


@app.command()
def export(
    run: str = _RUN,
    output: Path = _FOLDER,
    results: bool = typer.Option(True, "--results/--no-results", help="With the replies of paid calls."),
    journal: Path = JOURNAL,
) -> None:
    """A run as plain files: JSON, JSON lines, safetensors."""
    with open_existing(journal) as opened:
        typer.echo(str(opened.export(run, output, results=results)))


@app.command()
def prune(
    runs: list[str] | None = _RUNS,
    older_than_days: float | None = typer.Option(None, "--older-than-days", min=0.0, help="Not touched for this long."),
    keep_latest: int | None = typer.Option(None, "--keep-latest", min=0, help="All but this many of the latest."),
    calls: bool = typer.Option(False, "--calls", help="Forget the paid calls of the deleted runs as well."),
    keep_snapshots: int | None = typer.Option(
        None, "--keep-snapshots", min=1, help="Generations of each remaining run that keep their parameters."
    ),
    journal: Path = JOURNAL,
) -> None:
    """Delete runs that fit all the conditions given. Runs in progress stay."""
    if not runs and older_than_days is None and keep_latest is None and keep_snapshots is None:
        raise ConfigurationError("say what may go: names of runs, --older-than-days, --keep-latest or --keep-snapshots")
    with open_existing(journal) as opened:
        gone = opened.prune(
            runs or None,
            older_than_days=older_than_days,
            keep_latest=keep_latest,
            calls=calls,
            keep_snapshots=keep_snapshots,
        )
    typer.echo(f"deleted {len(gone.runs)} runs: {', '.join(gone.runs)}" if gone.runs else "deleted no run")
    typer.echo(f"{gone.snapshots} snapshots and {gone.calls} paid calls dropped, {gone.bytes_freed} bytes freed")


def _parameters(journal: Journal, run: str) -> dict[str, Any]:
    theta = journal.best_theta(run)
    return {**{name: list(tensor.shape) for name, tensor in theta.tensors.items()}, **theta.texts}


def _run_json(run: RunRecord, spend: Usage) -> dict[str, Any]:
    values = asdict(run)
    values["began"], values["updated"] = moment(run.created_at), moment(run.updated_at)
    return {**values, "spend": spend.to_dict()}


def _facts(run: RunRecord, spend: Usage) -> dict[str, Any]:
    """A run for a reader; the whole of it is in ``--json``."""
    shown: dict[str, Any] = {
        "name": run.name,
        "status": run.status,
        "ended by": run.finish_reason,
        "best score": run.best_score,
        "generations": run.generations,
        "began": moment(run.created_at),
        "took": duration(run.updated_at - run.created_at),
        "spent": f"{spend.calls} calls, {spend.total_tokens} tokens, ${spend.usd:.4f}",
        **run.config,
        "git revision": run.git_revision,
        "program": run.program_hash,
        "data": run.data_hash,
        **run.environment,
    }
    return {name: value for name, value in shown.items() if value not in (None, "", [], {})}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) if all(isinstance(item, str) for item in value) else str(list(value))
    if isinstance(value, str) and _HASH.fullmatch(value):
        return value[:12]  # enough to tell two apart; --json has them whole
    return f"{value:.5g}" if isinstance(value, float) else str(value)
