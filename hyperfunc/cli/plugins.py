"""``hyperfunc plugins``: what is installed, what it provides, why something is missing, and how to begin one."""

from __future__ import annotations

import json
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hyperfunc import hookspecs
from hyperfunc.catalogue import BUILTIN
from hyperfunc.cli.new_plugin import write_plugin
from hyperfunc.errors import DuplicateNameError, HyperfuncError, MissingDependencyError, PluginError
from hyperfunc.hookspecs import PROJECT
from hyperfunc.plugins import PluginInfo, Plugins, current_plugins

__all__ = ["app"]

app = typer.Typer(
    help="List, check and start plugins.", invoke_without_command=True, add_completion=False, rich_markup_mode=None
)


@app.callback(invoke_without_command=True)
def list_plugins(
    ctx: typer.Context,
    show_all: Annotated[bool, typer.Option("--all", help="Also the built-in ones.")] = False,
    hook: Annotated[
        str, typer.Option("--hook", help="Only plugins that implement this hook (its prefix may be left out).")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List the plugins: name, package, version, what each provides, state and reason."""
    if ctx.invoked_subcommand is not None:
        return
    plugins = current_plugins()
    rows = _rows(plugins, show_all, _full_hook_name(hook) if hook else "")
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo("no plugins" + ("" if show_all else "; --all shows the built-in ones"))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("plugin", "package", "version", "state", "provides"):
        table.add_column(column, overflow="fold")
    for row in rows:
        provides = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in row["provides"].items())
        state = row["state"] if not row["reason"] else f"{row['state']}: {row['reason']}"
        table.add_row(row["name"], row["package"], row["version"], state, provides or ", ".join(row["hooks"]))
    Console(markup=False, emoji=False, highlight=False).print(table)


def _rows(plugins: Plugins, show_all: bool, hook: str) -> list[dict[str, Any]]:
    _fill_registries(plugins)
    rows = []
    for key, info in sorted(plugins.infos.items()):
        if (key == BUILTIN and not show_all) or (hook and hook not in info.hooks):
            continue
        rows.append({**asdict(info), "name": key, "hooks": list(info.hooks), "provides": plugins.provides(key)})
    return rows


def _fill_registries(plugins: Plugins) -> None:
    """Have every register hook called: a plugin that fails there is known as failed only then."""
    for kind in plugins.kinds():
        plugins.registry(kind)


def _full_hook_name(hook: str) -> str:
    """The hook that ``strategies``, ``register_strategies`` or ``hyperfunc_register_strategies`` means."""
    known = {name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")}
    for name in (hook, f"{PROJECT}_{hook}", f"{PROJECT}_register_{hook}"):
        if name in known:
            return name
    short = sorted(name.removeprefix(f"{PROJECT}_").removeprefix("register_") for name in known)
    close = get_close_matches(hook, short, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise PluginError(f"no hook named {hook!r}; {hint}known: {', '.join(short)}")


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Import everything that every plugin registers; exit 1 and say what to do where something fails."""
    plugins = current_plugins()
    _fill_registries(plugins)
    imports_torch = [info for info in plugins.infos.values() if info.imports_torch]  # before we import everything
    problems, notes = _check_things(plugins)
    for key, info in plugins.infos.items():
        if info.state == "failed":
            problems.append(f"plugin {info.label}: {info.reason} ({_remedy(key, info)})")
    for info in imports_torch:
        notes.append(f"plugin {info.label} imports torch when it is loaded; register import strings instead")
    for variable, names in (
        ("HYPERFUNC_LOAD_PLUGINS", plugins.only),
        ("HYPERFUNC_DISABLE_PLUGINS", plugins.disabled),
    ):
        for name in sorted((names or frozenset()) - {info.name for info in plugins.infos.values()}):
            notes.append(f"{variable} names {name!r}, which is not installed")
    if as_json:
        typer.echo(json.dumps({"plugins": len(plugins.infos), "problems": problems, "notes": notes}, indent=2))
    else:
        for problem in problems:
            typer.echo(f"problem: {problem}")
        for note in notes:
            typer.echo(f"note: {note}")
        typer.echo(f"{len(plugins.infos)} plugins, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _check_things(plugins: Plugins) -> tuple[list[str], list[str]]:
    """Problems and notes of everything that is registered."""
    problems, notes = [], []
    for kind in plugins.kinds():
        registry = plugins.registry(kind)
        for name in (*registry.names(), *registry.disputed()):
            try:
                registry.get(name)
            except MissingDependencyError as error:
                notes.append(f"{registry.kind} {name!r} of {registry.owner(name)}: {error}")
            except DuplicateNameError as error:
                problems.append(str(error))  # says itself what to do, and is no one plugin's fault
            except HyperfuncError as error:
                owner = registry.owner(name)
                problems.append(f"{error} ({_remedy(owner, plugins.infos[owner])})")
    return problems, notes


def _remedy(key: str, info: PluginInfo) -> str:
    way = f"delete {info.package}" if info.package.endswith(".py") else f"pip uninstall {info.package}"
    disable = f"set HYPERFUNC_DISABLE_PLUGINS={info.name}"
    return f"update it, {way}, or {disable}" if info.package and key != BUILTIN else f"repair it, or {disable}"


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="The plugin's name, for example 'wordplay'; its package is hyperfunc-NAME.")
    ],
    directory: Annotated[Path, typer.Option("--directory", help="Where its folder is made.")] = Path("."),
) -> None:
    """Write a working plugin with tests, from a template that comes with hyperfunc; no network is used."""
    folder = write_plugin(name, directory)
    typer.echo(f"wrote {folder}\nnext: cd {folder}; pip install --editable '.[test]'; pytest; hyperfunc plugins")
