"""A provider on loopback that answers as :mod:`benchmarks.prompts.worlds` says, in a process of its own, and counts.

The model's name carries the world: ``task/additive/7``, ``reflect/plateau/0``. Run as
``python -m benchmarks.prompts.simulated``; it prints its port. ``GET /counts`` gives requests per model name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.prompts.worlds import World

__all__ = ["SimulatedProvider", "running"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counts: ClassVar[Counter[str]] = Counter()
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_GET(self) -> None:
        with self.lock:
            self._send(dict(self.counts))

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = request["model"]
        role, family, seed = model.split("/")
        with self.lock:
            self.counts[model] += 1
        world, messages = World(family, int(seed)), request["messages"]
        if role == "task":
            system = "\n".join(m["content"] for m in messages if m["role"] == "system")
            content = world.answer(system, messages[-1]["content"])
        else:
            content = world.reflect("\n".join(m["content"] for m in messages))
        prompt, reply = sum(len(m["content"]) for m in messages) // 4, len(content) // 4
        usage = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        self._send({"id": "s", "object": "chat.completion", "model": model, "choices": [choice], "usage": usage})

    def _send(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class SimulatedProvider:
    """A running provider, seen from outside."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def counts(self, world: World) -> tuple[int, int]:
        """Task calls and reflection calls that the world has had."""
        with urllib.request.urlopen(f"{self.url}/counts", timeout=30) as response:
            counts = json.load(response)
        task, reflect = (counts.get(f"{role}/{world.family}/{world.seed}", 0) for role in ("task", "reflect"))
        return task, reflect


@contextmanager
def running() -> Iterator[SimulatedProvider]:
    """A provider in a process of its own, for the block."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "benchmarks.prompts.simulated"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield SimulatedProvider(int(process.stdout.readline()))
        finally:
            process.terminate()


def main() -> None:
    """Serve until terminated."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
