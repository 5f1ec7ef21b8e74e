"""What every command of the command line must do, as tests: override the fixture ``command``."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from hyperfunc.cli import build_app
from hyperfunc.hookspecs import Register, hookimpl
from hyperfunc.plugins import load_plugins, use_plugins

__all__ = ["CLICommandContract"]

_NAME = "command-under-test"


class _Plugin:
    def __init__(self, command: Any) -> None:
        self._command = command

    @hookimpl
    def hyperfunc_register_cli_commands(self, register: Register) -> None:
        register(_NAME, self._command)


class CLICommandContract:
    """Tests of one command."""

    needs_torch: ClassVar[bool] = False
    """Set to true for a command that cannot say what it does without torch; its help then takes seconds."""

    @pytest.fixture
    def command(self) -> Any:
        """What is registered: an import string (better), a typer application or a function. Override this."""
        raise NotImplementedError("override the fixture command with what your plugin registers")

    def _invoke(self, command: Any, *arguments: str) -> Any:
        with use_plugins(load_plugins([("under test", _Plugin(command))], entry_points=False, strict=True)):
            return CliRunner().invoke(build_app(), [*arguments])

    def test_it_is_listed(self, command: Any) -> None:
        result = self._invoke(command, "--help")
        assert result.exit_code == 0, result.output
        assert _NAME in result.output

    def test_it_explains_itself(self, command: Any) -> None:
        result = self._invoke(command, _NAME, "--help")
        assert result.exit_code == 0, result.output
        lines = [line.strip() for line in result.output.splitlines() if line.strip()]
        usage, rest = lines[0], lines[1:]
        assert usage.startswith("Usage:")
        assert rest, "expected a sentence about what the command does"
        assert not rest[0].startswith(("Options", "Arguments", "Commands", "╭")), "the command has no help text"

    def test_an_unknown_option_is_a_usage_error(self, command: Any) -> None:
        result = self._invoke(command, _NAME, "--no-such-option")
        assert result.exit_code == 2, result.output

    def test_importing_it_imports_no_torch(self, command: Any) -> None:
        if not isinstance(command, str):
            pytest.skip("not an import string; hyperfunc imports it when the plugin is loaded")
        if self.needs_torch:
            pytest.skip("the command is declared as needing torch")
        module = command.partition(":")[0]
        code = f"import sys; sys.path[:] = {sys.path!r}; import {module}; sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr or f"importing {module} imports torch"
