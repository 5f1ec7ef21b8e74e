"""The loopback server in a process of its own, so that client and server share neither event loop nor interpreter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from types import TracebackType
from typing import Any
from urllib.request import Request, urlopen

from hyperfunc.errors import ConfigurationError
from hyperfunc.testing.llm_server.script import Script
from hyperfunc.testing.llm_server.server import LLMServer

__all__ = ["ServerProcess", "main"]

_CODE = "from hyperfunc.testing.llm_server.process import main; main()"


class ServerProcess:
    """Start the server with ``with ServerProcess(script) as server:``; read its counters over HTTP.

    The child ends when its standard input closes, hence also when the parent dies.
    """

    def __init__(self, script: Script | None = None) -> None:
        self._script = script or Script()
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> ServerProcess:
        command = [sys.executable, "-c", _CODE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._script.to_dict()) + "\n")
        self._process.stdin.flush()
        self.url = self._process.stdout.readline().strip()
        if not self.url.startswith("http://"):
            self.__exit__(None, None, None)
            raise ConfigurationError("the loopback server did not start; its standard error says why")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._process = None

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def _call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.url}{path}", data=data), timeout=30) as reply:
            return json.load(reply)

    def play(self, script: Script) -> None:
        """Forget all counts and play ``script`` from now on."""
        self._call("/_/script", script.to_dict())

    def counters(self) -> dict[str, Any]:
        return dict(self._call("/_/counters"))

    def arrivals(self) -> dict[str, Any]:
        return dict(self._call("/_/arrivals"))

    def prompts(self) -> dict[str, int]:
        return dict(self._call("/_/prompts"))

    def bodies(self) -> list[str]:
        return list(self._call("/_/bodies"))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    script = Script.from_dict(json.loads(await loop.run_in_executor(None, sys.stdin.readline)))
    async with LLMServer(script) as server:
        print(server.url, flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Read a script as one line of JSON, print the URL, serve until standard input closes."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
