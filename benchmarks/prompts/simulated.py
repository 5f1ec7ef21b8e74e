"""A provider on loopback that answers as the worlds say and counts what it is asked.

The model's name carries the role, the world and whose run it is: ``task/additive/7/gepa``, ``reflect/plateau/0/ours``.
It speaks the chat-completions form and lays its reply out as the request asks: between tags, in ``[[ ## field ## ]]``
sections, in a JSON object, or in a fence. Who asks is only a label for the counts, which
``GET /counts/additive/7/gepa`` shows.

In the family ``faults`` the n-th arrival of a request may fail: 429, 500, a connection closed without a reply, an empty
reply or, of a reflection, one cut off in the middle. Which one follows from the request and n alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from benchmarks.prompts.reflector import reflect
from benchmarks.prompts.worlds import World, uniform

__all__ = ["Counts", "SimulatedProvider", "running"]

_FAULTS = ((0.05, "429"), (0.08, "500"), (0.10, "closed"), (0.13, "empty"))
_CUT = 0.20  # of reflections, beyond the faults above


@dataclass
class Counts:
    """What one run has asked.

    Attributes:
        task, reflect: requests by role; failed ones count.
        repeated: requests that were byte for byte one that had been answered in this run before.
        failed: requests that the provider failed on purpose.
        tokens: characters of requests and replies, divided by four.
    """

    task: int = 0
    reflect: int = 0
    repeated: int = 0
    failed: int = 0
    tokens: int = 0

    @property
    def calls(self) -> int:
        return self.task + self.reflect


@dataclass
class _Run:
    counts: Counts = field(default_factory=Counts)
    arrivals: Counter[str] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.runs: dict[str, _Run] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet about clients that are gone; they may have been killed on purpose."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """``/counts/FAMILY/SEED/OWNER``"""
        _, _, run = self.path.lstrip("/").partition("/")
        with self.server.lock:
            counts = self.server.runs.get(run, _Run()).counts
            self._send(200, {**vars(counts), "calls": counts.calls})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = [(m["role"], _plain(m["content"])) for m in request["messages"]]
        role, family, seed, owner = request["model"].split("/")
        world = World(family, int(seed))
        body = "\n".join(text for _, text in messages)
        key = hashlib.blake2b(repr((role, messages)).encode(), digest_size=16).hexdigest()
        with self.server.lock:
            run = self.server.runs.setdefault(f"{family}/{seed}/{owner}", _Run())
            arrival = run.arrivals[key]
            run.arrivals[key] += 1
            setattr(run.counts, role, getattr(run.counts, role) + 1)
            run.counts.repeated += key in run.answered
        draw = uniform(world, key, arrival, "fault") if family == "faults" else 1.0
        fault = next((name for below, name in _FAULTS if draw < below), "")
        if fault == "429" or fault == "500":
            self._failed(run)
            self._send(int(fault), {"error": {"message": "injected", "type": "injected", "code": fault}})
            return
        if fault == "closed":
            self._failed(run)
            self.close_connection = True
            return
        content = _reply(role, world, messages, body)
        finish = "stop"
        if fault == "empty":
            self._failed(run)
            content = ""
        elif role == "reflect" and draw < _CUT:
            self._failed(run)
            content, finish = content[: len(content) // 2], "length"
        prompt, reply = len(body) // 4, len(content) // 4
        with self.server.lock:
            run.counts.tokens += prompt + reply
            if not fault:
                run.answered.add(key)
        usage = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
        answer = {"id": "s", "object": "chat.completion", "created": 0, "model": request["model"]}
        self._send(200, {**answer, "choices": [choice], "usage": usage})

    def _failed(self, run: _Run) -> None:
        with self.server.lock:
            run.counts.failed += 1

    def _send(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _reply(role: str, world: World, messages: list[tuple[str, str]], body: str) -> str:
    if role == "reflect":
        return _laid_out(reflect(world, body), body, "```\n{}\n```")
    system = "\n".join(text for role, text in messages if role == "system")
    demos = [text for role, text in messages if role == "assistant"]
    return _laid_out(world.complete(system, messages[-1][1], demos), body, "{}")


def _laid_out(content: str, body: str, otherwise: str) -> str:
    """The reply in the form that the request asks for."""
    if "<new_text>" in body:
        return f"<new_text>\n{content}\n</new_text>"
    asked = re.findall(r"`\[\[ ## (\w+) ## \]\]`", body)
    if asked and "[[ ## completed ## ]]" in body:
        names = [name for name in dict.fromkeys(asked) if name != "completed"]
        parts = [f"[[ ## {name} ## ]]\n{content if name == names[-1] else 'See below.'}" for name in names]
        return "\n\n".join([*parts, "[[ ## completed ## ]]"])
    named = re.search(r"JSON object[^`]*`(\w+)`", body)
    if named is not None:
        return json.dumps({named.group(1): content})
    return otherwise.format(content)


class SimulatedProvider:
    """A running provider."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"

    def counts(self, world: World, owner: str) -> Counts:
        """What ``owner``'s run in ``world`` has asked until now."""
        with self._server.lock:
            run = self._server.runs.get(f"{world.family}/{world.seed}/{owner}", _Run())
            return Counts(**vars(run.counts))


@contextmanager
def running() -> Iterator[SimulatedProvider]:
    """A provider in threads of this process, for the block."""
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield SimulatedProvider(server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
