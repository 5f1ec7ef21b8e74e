"""Writes a new plugin package from the template that is part of hyperfunc. Knows nothing of the command line."""

from __future__ import annotations

import keyword
import re
import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from string import Template

from hyperfunc import __version__
from hyperfunc.errors import ConfigurationError
from hyperfunc.hookspecs import PROJECT

__all__ = ["write_plugin"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIX = ".template"
_PACKAGE = "package"  # the template's folder that becomes the import package


def write_plugin(name: str, directory: Path) -> Path:
    """Write a plugin called ``name`` into a new folder ``hyperfunc-<name>`` of ``directory``; returns that folder.

    Raises:
        ConfigurationError: the name is not lower-case words joined by ``-``, the folder exists, or ``directory`` cannot
            be written to. Nothing is left half-written.
    """
    short = name.lower().replace("_", "-").removeprefix(f"{PROJECT}-")
    if not _NAME.fullmatch(short) or keyword.iskeyword(short):
        raise ConfigurationError(f"plugin name: expected lower-case words joined by '-', got {name!r}")
    values = {
        "name": short,
        "distribution": f"{PROJECT}-{short}",
        "package": f"{PROJECT}_{short.replace('-', '_')}",
        "class_name": "".join(word.capitalize() for word in short.split("-")),
        "hyperfunc_version": __version__.partition(".dev")[0],
    }
    target = directory / values["distribution"]
    if target.exists():
        raise ConfigurationError(f"{target} exists already; choose another name or --directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=directory, prefix=f".{target.name}-"))
    except OSError as error:
        raise ConfigurationError(f"cannot write to {directory}: {error}") from error
    try:
        scratch.chmod(0o755)  # mkdtemp keeps others out
        with as_file(files("hyperfunc.testing") / "template") as template:
            _render(template, scratch, values)
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return target


def _render(template: Path, target: Path, values: dict[str, str]) -> None:
    for source in sorted(template.rglob(f"*{_SUFFIX}")):
        parts = [values["package"] if part == _PACKAGE else part for part in source.relative_to(template).parts]
        file = target.joinpath(*parts).with_suffix("")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(source.read_text("utf-8")).substitute(values), "utf-8")
