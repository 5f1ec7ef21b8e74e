"""``hyperfunc runs``: what a journal holds, run by run. Reads the journal; only ``prune`` changes it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from hyperfunc.cli.runs_loading import JOURNAL, make_table, open_history, open_journal, print_json, show
from hyperfunc.cli.runs_text import comparison_parts, run_parts
from hyperfunc.errors import ConfigurationError
from hyperfunc.journal.records import RunRecord
from hyperfunc.journal.settings_text import plain
from hyperfunc.journal.timefmt import minute, moment, size
from hyperfunc.usage import Usage

__all__ = ["app"]

app = typer.Typer(
    help="List, show, compare, export and prune runs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_RUN = typer.Argument(help="The run's name.")
_FIRST = typer.Argument(help="A run's name.")
_SECOND = typer.Argument(help="Another run's name.")
_RUNS = typer.Argument(None, help="Only these runs.")
_FOLDER = typer.Option(..., "--output", "-o", help="A folder that does not exist yet.")
_JSON = typer.Option(False, "--json", help="Machine-readable.")


@app.command("list")
def list_runs(journal: Path = JOURNAL, as_json: bool = _JSON) -> None:
    """All runs, oldest first."""
    with open_history(journal) as opened:
        runs = [(run, opened.total_spend(run.name)) for run in opened.runs()]
    if as_json:
        print_json([_run_json(run, spend) for run, spend in runs])
        return
    if not runs:
        show("no runs")
        return
    table = make_table("run", "state", "began (UTC)", "generations", "best", "calls", "USD")
    for run, spend in runs:
        table.add_row(
            run.name,
            (run.finish_reason if run.status == "finished" else None) or run.status,
            minute(run.created_at),
            str(run.generations),
            plain(run.best_score),
            str(spend.calls),
            f"{spend.usd:.4f}",
        )
    show(table)


@app.command("show")
def show_run(
    run: str = _RUN,
    generations: int = typer.Option(20, "--generations", "-g", min=0, help="How many of the last generations to list."),
    journal: Path = JOURNAL,
    as_json: bool = _JSON,
) -> None:
    """One run: what it is, its generations, what it used, its parameters."""
    with open_history(journal) as opened:
        record = opened.run(run)
        spend = opened.total_spend(run)
        recorded = opened.generations(run)
        parameters = opened.describe_best(run)
    if as_json:
        rows = [{"number": g.number, "fitness": dict(g.fitness)} for g in recorded]
        print_json({**_run_json(record, spend), "generations_list": rows, "parameters": parameters})
    else:
        show(*run_parts(record, spend, recorded, parameters, most=generations))


@app.command()
def compare(first: str = _FIRST, second: str = _SECOND, journal: Path = JOURNAL, as_json: bool = _JSON) -> None:
    """What differs between two runs: program, data, configuration, results, texts, tensors."""
    from hyperfunc.journal.comparing import compare_runs  # needs torch

    with open_history(journal) as opened:
        found = compare_runs(opened, first, second)
    if as_json:
        print_json(found.to_dict())
    else:
        show(*comparison_parts(found))


@app.command()
def export(
    run: str = _RUN,
    output: Path = _FOLDER,
    results: bool = typer.Option(True, "--results/--no-results", help="With the replies of paid calls."),
    journal: Path = JOURNAL,
) -> None:
    """A run as plain files: JSON, JSON lines, safetensors."""
    from hyperfunc.journal.exporting import export_run  # needs torch

    with open_history(journal) as opened:
        typer.echo(str(export_run(opened, run, output, results=results)))


@app.command()
def prune(
    runs: list[str] | None = _RUNS,
    older_than_days: float | None = typer.Option(None, "--older-than-days", min=0.0, help="Not touched for this long."),
    keep_latest: int | None = typer.Option(None, "--keep-latest", min=0, help="All but this many of the latest."),
    calls: bool = typer.Option(
        False, "--calls", help="Forget the paid calls of the deleted runs too; runs that share them pay again."
    ),
    keep_snapshots: int | None = typer.Option(
        None, "--keep-snapshots", min=1, help="Generations of each remaining run that keep their parameters."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would go; delete nothing."),
    journal: Path = JOURNAL,
) -> None:
    """Delete runs that fit all the conditions given. Runs in progress stay."""
    if not runs and older_than_days is None and keep_latest is None and keep_snapshots is None:
        raise ConfigurationError("say what may go: names of runs, --older-than-days, --keep-latest or --keep-snapshots")
    with open_journal(journal) as opened:
        gone = opened.prune(
            runs or None,
            older_than_days=older_than_days,
            keep_latest=keep_latest,
            calls=calls,
            keep_snapshots=keep_snapshots,
            dry_run=dry_run,
        )
        unfinished = [run.name for run in opened.runs() if run.status != "finished" and run.name not in gone.runs]
    would = "would be " if dry_run else ""
    typer.echo(f"{would}deleted: {', '.join(gone.runs) if gone.runs else 'no run'}")
    freed = "" if dry_run else f", {size(gone.bytes_freed)} freed"
    typer.echo(f"{would}dropped: {_counted(gone.snapshots, 'snapshot')}, {_counted(gone.calls, 'paid call')}{freed}")
    if gone.calls and unfinished:
        names = ", ".join(unfinished)
        typer.echo(f"note: what unfinished runs shared of these calls, they pay for again: {names}", err=True)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _run_json(run: RunRecord, spend: Usage) -> dict[str, Any]:
    values = asdict(run)
    values["began"], values["updated"] = moment(run.created_at), moment(run.updated_at)
    return {**values, "spend": spend.to_dict()}
