"""The command line. ``hyperfunc --help`` imports neither torch nor any plugin's heavy parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hyperfunc import __version__
from hyperfunc.errors import HyperfuncError, PluginError
from hyperfunc.plugins import current_plugins, load_plugins, use_plugins

__all__ = ["as_command", "build_app", "main"]


class _LazyGroup(typer.core.TyperGroup):
    """Commands by name from the registry; a command's module is imported when it is called or asked for help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return current_plugins().registry("cli_commands").names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        registry = current_plugins().registry("cli_commands")
        return as_command(registry.get(cmd_name), cmd_name) if cmd_name in registry else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        registry = current_plugins().registry("cli_commands")
        rows = [(name, registry.describe(name)) for name in registry.names()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def as_command(thing: Any, name: str) -> Any:
    """What a plugin registered, a typer application or a function, as a command of this name.

    Raises:
        PluginError: it is neither.
    """
    if isinstance(thing, typer.Typer):
        command = typer.main.get_command(thing)
    else:
        if not callable(thing):
            raise PluginError(f"command {name!r}: expected a typer application or a function, got {thing!r}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(thing)
        command = typer.main.get_command(app)
    command.name = name
    return command


def _show_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


def _use_directory(ctx: typer.Context, value: Path | None) -> Path | None:
    # Eager, because commands are looked up before an ordinary option's value is known.
    if value is not None and not ctx.resilient_parsing:
        ctx.with_resource(use_plugins(load_plugins(directory=value)))
    return value


def build_app() -> typer.Typer:
    """The application with every registered command."""
    app = typer.Typer(
        name="hyperfunc",
        cls=_LazyGroup,
        help="Train compound AI systems: evolve their tensors, learn their prompts.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
        ] = False,
        plugins_dir: Annotated[
            Path | None,
            typer.Option(
                "--plugins-dir",
                callback=_use_directory,
                is_eager=True,
                envvar="HYPERFUNC_PLUGINS_DIR",
                help="Also load every *.py file of this folder as a plugin. Give it before --help and the command.",
            ),
        ] = None,
    ) -> None:
        pass

    return app


def main() -> None:
    """Entry point of the ``hyperfunc`` script; our own errors are one line on stderr and exit code 1."""
    try:
        build_app()()
    except HyperfuncError as error:
        typer.echo(f"hyperfunc: {error}", err=True)
        raise SystemExit(1) from error
