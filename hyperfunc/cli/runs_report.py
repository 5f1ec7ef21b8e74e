"""``hyperfunc report`` and ``hyperfunc graph``: a run as one page, and its call graph."""

from __future__ import annotations

from pathlib import Path

import typer

from hyperfunc.cli.runs_loading import JOURNAL, open_history
from hyperfunc.errors import JournalError
from hyperfunc.journal.graph import graph_of_components, to_dot, to_svg
from hyperfunc.journal.report import write_report

__all__ = ["graph", "report"]

_RUN = typer.Argument(help="The run's name.")
_PAGE = typer.Option(Path("report.html"), "--output", "-o", help="Where the page goes.")
_FILE = typer.Option(None, "--output", "-o", help="A file instead of standard output.")


def report(
    run: str = _RUN,
    output: Path = _PAGE,
    journal: Path = JOURNAL,
) -> None:
    """Write a run as one self-contained page: curves, parameters, lineage, spend, slowest calls, failures."""
    with open_history(journal) as opened:
        typer.echo(str(write_report(opened, run, output)))


def graph(
    run: str = _RUN,
    svg: bool = typer.Option(False, "--svg", help="A drawing instead of Graphviz DOT."),
    output: Path | None = _FILE,
    journal: Path = JOURNAL,
) -> None:
    """Draw which component of a run's program calls which, and whose output goes where."""
    with open_history(journal) as opened:
        opened.run(run)
        traces = opened.traces(run)
    if not traces:
        raise JournalError(
            f"run {run!r} has no recorded execution: no example of it could be run when it began, or it is older than "
            "this hyperfunc"
        )
    found = graph_of_components(traces)
    text = to_svg(found, run) if svg else to_dot(found, run)
    if output is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JournalError(f"cannot write the graph {output}: {error}") from error
    typer.echo(str(output))
