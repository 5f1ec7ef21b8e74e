"""What this plugin registers: ``hyperfunc serve`` and ``hyperfunc info``. Imports nothing heavy."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_cli_commands(register: Register) -> None:
    register("serve", "hyperfunc_serve.cli:serve", summary="Serve local models over HTTP, OpenAI-compatible.")
    register("info", "hyperfunc_serve.cli:info", summary="Describe a local model.")
