"""The command line. ``hyperfunc --help`` imports neither torch nor any plugin's heavy parts."""

from __future__ import annotations

from typing import Any

import typer

from hyperfunc import __version__
from hyperfunc.errors import HyperfuncError
from hyperfunc.plugins import current_plugins

__all__ = ["build_app", "main"]


class _LazyGroup(typer.core.TyperGroup):
    """Commands by name from the registry; a command's module is imported when it is called or asked for help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return current_plugins().registry("cli_commands").names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        registry = current_plugins().registry("cli_commands")
        return _as_command(registry.get(cmd_name), cmd_name) if cmd_name in registry else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        registry = current_plugins().registry("cli_commands")
        rows = [(name, registry.describe(name)) for name in registry.names()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)


def _as_command(thing: Any, name: str) -> Any:
    if isinstance(thing, typer.Typer):
        command = typer.main.get_command(thing)
    else:
        app = typer.Typer(add_completion=False)
        app.command(name)(thing)
        command = typer.main.get_command(app)
    command.name = name
    return command


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

    def version(value: bool) -> None:
        if value:
            typer.echo(__version__)
            raise typer.Exit

    @app.callback()
    def options(
        version: bool = typer.Option(False, "--version", callback=version, is_eager=True, help="Show the version."),
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
