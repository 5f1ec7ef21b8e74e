"""A model provider on loopback: three small programs behind an OpenAI-compatible endpoint, each a pure function of what
it is sent. They show that texts, scores and calls hang together; they prove nothing about real models.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["KINDS", "Provider", "running"]

KINDS = {"broken": "replace", "lost": "trace", "unpaid": "remind", "rude": "escalate"}
"""What a ticket is about, by the word that says so, and what the house wants done. The model knows the words alone."""

_HABIT = "answer"  # what it does where its prompt says nothing


def _extract(system: str, user: str) -> str:
    kind = next((kind for kind in KINDS if kind in user), "other")
    return f"[[ ## kind ## ]]\n{kind}"


def _decide(system: str, user: str) -> str:
    """Does what a line of its prompt says about the kind, if that line names one thing that can be done."""
    kind = user.split("[[ ## kind ## ]]")[1].split()[0]
    said = [action for line in system.splitlines() if kind in line for action in KINDS.values() if action in line]
    return f"[[ ## action ## ]]\n{said[0] if len(said) == 1 else _HABIT}"


def _reflect(system: str, user: str) -> str:
    """Adds one line to the text: what was expected most often in the failing runs that it is shown."""
    current = user.split("<current_text>\n")[1].split("\n</current_text>")[0]
    wanted: Counter[tuple[str, str]] = Counter()
    for run in user.split("<run>")[1:]:
        kind = re.search(r"&#x27;kind&#x27;: &#x27;(\w+)|'kind': '(\w+)|\"kind\": \"(\w+)", run)
        action = re.search(r"<expected>\n(\w+)", run)
        if kind and action:
            wanted[next(filter(None, kind.groups())), action[1]] += 1
    if not wanted:
        return f"<new_text>\n{current} Be precise.\n</new_text>"
    (kind_name, action_name), _ = max(wanted.items(), key=lambda item: (item[1], item[0]))
    return f"<new_text>\n{current}\nIf the kind is {kind_name}: {action_name}.\n</new_text>"


_MODELS = {"extract": _extract, "decide": _decide, "reflect": _reflect}


class Provider:
    """What is known about the running provider.

    Attributes:
        base_url: for OpenAI-compatible clients.
        requests: how many came, by model.
    """

    def __init__(self) -> None:
        self.base_url = ""
        self.requests: Counter[str] = Counter()


@contextmanager
def running() -> Iterator[Provider]:
    """A provider in a thread of this process, for the block."""
    provider, lock = Provider(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            messages = request["messages"]
            with lock:
                provider.requests[request["model"]] += 1
            reply = _MODELS[request["model"]](messages[0]["content"], messages[-1]["content"])
            sent, made = sum(len(m["content"]) for m in messages) // 4, len(reply) // 4
            answer: dict[str, Any] = {
                "id": "demo",
                "object": "chat.completion",
                "model": request["model"],
                "choices": [{"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made},
            }
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    provider.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
