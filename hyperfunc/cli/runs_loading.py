"""What the commands about runs share: opening a journal, printing, and finding what ``package.module:name`` means.

Imports no torch: what needs it is imported by the command that does.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from hyperfunc.errors import ConfigurationError
from hyperfunc.journal.history import JournalHistory

if TYPE_CHECKING:
    from hyperfunc.journal import Journal

__all__ = ["JOURNAL", "load_object", "make_table", "open_history", "open_journal", "print_json", "show"]

JOURNAL = typer.Option(Path(".hyperfunc/journal.db"), "--journal", "-j", help="The journal's file.")

_UNLIMITED = 100_000  # columns


def open_history(path: Path) -> JournalHistory:
    """The journal at ``path``, to be read.

    Raises:
        JournalError: there is none, or it cannot be read.
    """
    return JournalHistory.open(path)


def open_journal(path: Path) -> Journal:
    """The journal at ``path``, to be changed or replayed from.

    Raises:
        JournalError: there is none, or it cannot be read.
    """
    from hyperfunc.journal import Journal  # needs torch

    return Journal(path, create=False)


def load_object(reference: str, option: str) -> Any:
    """The object behind ``package.module:name``, looked for in the working folder too, as ``python -m`` does.

    Raises:
        ConfigurationError: the reference is malformed, the module is not there, or it has no such name. What the module
            itself raises while it is imported passes through.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"{option}: expected package.module:name, got {reference!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise ConfigurationError(
            f"{option}: there is no module {module_name!r}; run this where it can be imported from"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"{option}: {module_name} has no {attribute!r}")
        found = getattr(found, name)
    return found


def print_json(value: Any) -> None:
    """``value`` as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True))


def make_table(*columns: str) -> Table:
    """An empty table; long cells are folded, never cut."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def show(*things: Any) -> None:
    """Tables and lines on standard output: as they are, without markup; one line a row where nobody reads along."""
    console = Console(markup=False, emoji=False, highlight=False)
    if console.is_terminal:
        for thing in things:
            console.print(thing)
        return
    width = None if "COLUMNS" in os.environ else _UNLIMITED
    page = Console(file=io.StringIO(), markup=False, emoji=False, highlight=False, width=width)
    with page.capture() as captured:
        for thing in things:
            page.print(thing)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
