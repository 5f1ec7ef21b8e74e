"""What the commands about runs share: opening a journal that exists, and finding what ``package.module:name`` means."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import typer

from hyperfunc.errors import ConfigurationError
from hyperfunc.journal import Journal

__all__ = ["JOURNAL", "load_object", "open_existing", "print_json"]

JOURNAL = typer.Option(Path(".hyperfunc/journal.db"), "--journal", "-j", help="The journal's file.")


def open_existing(path: Path) -> Journal:
    """The journal at ``path``.

    Raises:
        JournalError: there is none.
    """
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
