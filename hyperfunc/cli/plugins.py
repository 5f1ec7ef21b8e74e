"""``hyperfunc plugins``: what is installed, what it provides, and why something is missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from hyperfunc.plugins import PluginInfo, current_plugins

__all__ = ["app"]

app = typer.Typer(help="List and check plugins.", invoke_without_command=True, add_completion=False)


@app.callback(invoke_without_command=True)
def list_plugins(
    ctx: typer.Context,
    show_all: bool = typer.Option(False, "--all", help="Also the built-in ones."),
    hook: str = typer.Option("", "--hook", help="Only plugins that implement this hook."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """List the plugins: name, package, version, what each provides, state and reason."""
    if ctx.invoked_subcommand is not None:
        return
    rows = _rows(show_all, hook)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("plugin", "package", "version", "state", "provides"):
        table.add_column(column, overflow="fold")
    for row in rows:
        provides = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in row["provides"].items())
        state = row["state"] if not row["reason"] else f"{row['state']}: {row['reason']}"
        table.add_row(row["name"], row["package"], row["version"], state, provides or ", ".join(row["hooks"]))
    Console().print(table if rows else "no plugins")


def _rows(show_all: bool, hook: str) -> list[dict[str, Any]]:
    plugins = current_plugins()
    for kind in plugins.kinds():
        plugins.registry(kind)  # a plugin that fails while registering is known as failed only then
    rows = []
    for info in sorted(plugins.infos.values(), key=lambda i: i.name):
        if (info.name == "builtin" and not show_all) or (hook and not _implements(info, hook)):
            continue
        provides = plugins.provides(info.name) if info.state == "loaded" else {}
        rows.append({**asdict(info), "hooks": list(info.hooks), "provides": provides})
    return rows


def _implements(info: PluginInfo, hook: str) -> bool:
    return any(name in (hook, f"hyperfunc_{hook}", f"hyperfunc_register_{hook}") for name in info.hooks)


@app.command()
def doctor() -> None:
    """Import everything that every plugin registers; exit 1 and say what to do where something fails."""
    plugins = current_plugins()
    problems = []
    for kind in plugins.kinds():
        registry = plugins.registry(kind)
        for name in registry.names():
            try:
                registry.get(name)
            except Exception as error:
                problems.append(f"{kind} {name!r} of {registry.owner(name)}: {error}")
    for info in plugins.infos.values():
        if info.state == "failed":
            remedy = f"pip uninstall {info.package}" if info.package else "remove it"
            problems.append(f"plugin {info.name!r}: {info.reason} ({remedy}, or HYPERFUNC_DISABLE_PLUGINS={info.name})")
    for problem in problems:
        typer.echo(problem, err=True)
    typer.echo(f"{len(plugins.infos)} plugins, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)
