"""The loopback server: routes, faults, limits and the counts that tests compare a client's own books with.

Paths: ``/v1/chat/completions`` (and without ``/v1``), ``/v1beta/models/<model>:generateContent``,
``/v1beta/cachedContents[/id]``; control paths ``/_/counters``, ``/_/arrivals``, ``/_/prompts``, ``/_/bodies``,
``/_/script`` (POST) and ``/_/reset`` (POST).
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from email.utils import formatdate
from statistics import NormalDist
from typing import Any

from hyperfunc.testing.llm_server.gemini import CachedContents, content_text, generate_reply
from hyperfunc.testing.llm_server.http import Connection, Exchange
from hyperfunc.testing.llm_server.replies import chat_chunks, chat_reply, last_message
from hyperfunc.testing.llm_server.script import Chooser, Request, Rule, Script

__all__ = ["LLMServer"]

_MOST_PROMPTS = 200_000
_MOST_BODIES = 200
_PLAUSIBLE = {
    400: "invalid request",
    401: "Incorrect API key provided",
    402: "Insufficient balance",
    403: "permission denied",
    404: "model not found",
    408: "request timeout",
    422: "unprocessable",
    429: "Rate limit reached",
    500: "The server had an error",
    503: "The engine is overloaded",
}


class LLMServer:
    """A deterministic model provider on loopback.

    Use as ``async with LLMServer(script) as server: … server.base_url``. Counters are read directly, or over HTTP
    when it runs in a process of its own (:class:`~hyperfunc.testing.llm_server.ServerProcess`).

    Args:
        script: rules, faults, limits.
        answer: ``(model, messages)`` to the text of the reply, where no rule of the script fires; ``None`` leaves it to
            the script. A simulated model is such a function.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        answer: Callable[[str, list[dict[str, Any]]], str | None] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._host, self._port = host, port
        self._answer_by = answer
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self.script = script or Script()
        self.reset()

    def reset(self, script: Script | None = None) -> None:
        """Forget everything counted; with ``script`` play that from now on."""
        self.script = script if script is not None else self.script
        self._chooser = Chooser(self.script)
        self._seen: Counter[str] = Counter()
        self._window: deque[float] = deque()
        self._statuses: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._paths: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._arrivals: list[float] = []
        self._rejections: list[tuple[float, float]] = []
        self._bodies: deque[str] = deque(maxlen=_MOST_BODIES)
        self._keys: set[str] = set()
        self._requests = self._in_flight = self._peak_in_flight = self._answered = self._gone = 0
        self.cached_contents = CachedContents(self.script.cache_ttl_s)

    async def __aenter__(self) -> LLMServer:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Listen; ``port=0`` takes a free port."""
        loop = asyncio.get_running_loop()
        factory = lambda: Connection(self._handle, self._connections)
        self._server = await loop.create_server(factory, self._host, self._port, backlog=2048)
        self._port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.close()
            await self._server.wait_closed()
            await asyncio.sleep(0)  # lets connection_lost run, so that no handler outlives the server
            self._server = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def base_url(self) -> str:
        """What OpenAI-compatible clients call the base URL."""
        return f"{self.url}/v1"

    def counters(self) -> dict[str, Any]:
        """What was served so far.

        ``requests`` are those received whole; ``answered`` those answered whole with 200; ``tokens`` what the usage of
        those replies said; ``gone`` those whose client left before the answer; ``distinct`` different texts asked.
        """
        return {
            "requests": self._requests,
            "answered": self._answered,
            "gone": self._gone,
            "in_flight": self._in_flight,
            "peak_in_flight": self._peak_in_flight,
            "connections": len(self._connections),
            "distinct": len(self._seen),
            "keys": len(self._keys),
            "statuses": dict(self._statuses),
            "faults": dict(self._faults),
            "paths": dict(self._paths),
            "tokens": {k: self._tokens[k] for k in ("prompt", "completion", "cached", "reasoning")},
            "cached_contents": dict(self.cached_contents.counts),
        }

    def arrivals(self) -> dict[str, Any]:
        """Arrival times of all requests and (time, Retry-After seconds) of all 429s, on the monotonic clock."""
        return {"arrivals": list(self._arrivals), "rejections": [list(r) for r in self._rejections]}

    def prompts(self) -> dict[str, int]:
        """How often each last message was asked (the first 200 000 different ones)."""
        return dict(self._seen)

    def bodies(self) -> list[str]:
        """The last 200 request bodies, as received."""
        return list(self._bodies)

    async def _handle(self, exchange: Exchange) -> None:
        if exchange.path.startswith("/_/"):
            self._control(exchange)
            return
        self._requests += 1
        self._in_flight += 1
        self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
        self._arrivals.append(time.monotonic())
        self._paths[exchange.path] += 1
        try:
            await self._serve(exchange)
        except asyncio.CancelledError:
            self._gone += 1
            raise
        finally:
            self._in_flight -= 1

    def _control(self, exchange: Exchange) -> None:
        match exchange.method, exchange.path:
            case "GET", "/_/counters":
                answer: Any = self.counters()
            case "GET", "/_/arrivals":
                answer = self.arrivals()
            case "GET", "/_/prompts":
                answer = self.prompts()
            case "GET", "/_/bodies":
                answer = self.bodies()
            case "POST", "/_/script":
                self.reset(Script.from_dict(json.loads(exchange.body)))
                answer = {}
            case "POST", "/_/reset":
                self.reset()
                answer = {}
            case _:
                exchange.reply(404, b'{"error": {"message": "no such control path"}}')
                return
        exchange.reply(200, json.dumps(answer).encode())

    async def _serve(self, exchange: Exchange) -> None:
        try:
            body = json.loads(exchange.body) if exchange.body else {}
        except ValueError:
            self._error(exchange, 400, "the body is no JSON")
            return
        self._bodies.append(exchange.body.decode("utf-8", "replace"))
        gemini = exchange.path.startswith("/v1beta/")
        key = exchange.headers.get("x-goog-api-key") or exchange.query.get("key") or ""
        key = key or exchange.headers.get("authorization", "").removeprefix("Bearer ")
        self._keys.add(key)
        if self.script.api_key is not None and key != self.script.api_key:
            self._error(exchange, 401, f"Incorrect API key provided: {key}")
            return
        if gemini and "/cachedContents" in exchange.path:
            name = exchange.path.removeprefix("/v1beta/").removeprefix("cachedContents").removeprefix("/")
            full = f"cachedContents/{name}" if name else ""
            status, answer = self.cached_contents.handle(exchange.method, full, exchange.query, body)
            self._statuses[str(status)] += 1
            await self._wait(self.script.latency_s)
            exchange.reply(status, json.dumps(answer).encode())
            return
        request = self._describe(exchange.path, body, gemini)
        rejected = self._over_limit()
        if rejected is not None:
            self._error(exchange, 429, "Rate limit reached", self._retry_headers(rejected))
            return
        rule = self._chooser.choose(request)
        if rule is not None and rule.fault is not None:
            self._faults[rule.fault if rule.fault != "status" else f"status {rule.status}"] += 1
        if rule is None and self._answer_by is not None:
            said = self._answer_by(request.model, list(body.get("messages", ())))
            rule = None if said is None else Rule(content=said)
        await self._wait(self._latency(request, rule))
        if rule is not None and await self._break(exchange, rule):
            return
        await self._answer(exchange, body, request, rule, gemini)

    def _describe(self, path: str, body: Mapping[str, Any], gemini: bool) -> Request:
        if gemini:
            last = (body.get("contents") or [{}])[-1]
            role, text = last.get("role", ""), content_text(last)
            model = path.rsplit("/", 1)[-1].partition(":")[0]
        else:
            role, text = last_message(body)
            model = str(body.get("model", ""))
        seen = self._seen[text]
        if seen or len(self._seen) < _MOST_PROMPTS:
            self._seen[text] += 1
        return Request(path, model, text, role, seen)

    def _over_limit(self) -> float | None:
        """Seconds until there is room again, or ``None`` when this request is within the limit."""
        limit = self.script.limit
        if limit is None:
            return None
        now = time.monotonic()
        while self._window and self._window[0] <= now - self.script.limit_window_s:
            self._window.popleft()
        if len(self._window) < limit:
            self._window.append(now)
            return None
        return self._window[0] + self.script.limit_window_s - now

    def _retry_headers(self, room_in_s: float) -> dict[str, str]:
        if self.script.limit_retry_after is None:
            return {}
        exact = self.script.limit_retry_after == "exact"
        return {"Retry-After": f"{room_in_s:.3f}" if exact else self.script.limit_retry_after}

    def _latency(self, request: Request, rule: Rule | None) -> float:
        latency = rule.latency_s if rule is not None and rule.latency_s is not None else self.script.latency_s
        if self.script.latency_sigma and latency:
            uniform = min(max(self._chooser.uniform(request, "latency"), 1e-9), 1 - 1e-9)
            latency *= math.exp(self.script.latency_sigma * NormalDist().inv_cdf(uniform))
        return latency

    @staticmethod
    async def _wait(seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _break(self, exchange: Exchange, rule: Rule) -> bool:
        """Play the rule's fault; true when that was the whole answer."""
        match rule.fault:
            case "status":
                headers = dict(rule.headers)
                if rule.retry_after is not None:
                    value = rule.retry_after
                    if value.startswith("date:"):
                        value = formatdate(time.time() + float(value.removeprefix("date:")), usegmt=True)
                    headers["Retry-After"] = value
                self._error(exchange, rule.status, rule.body or _PLAUSIBLE.get(rule.status, "error"), headers)
            case "hang":
                await self._wait(rule.hang_s)
                return False
            case "disconnect":
                exchange.drop()
            case "bad_json":
                self._statuses["200"] += 1
                exchange.reply(200, b'{"id": "chatcmpl-1", "choices": [{"index": 0, ')
            case "content_type":
                self._statuses["200"] += 1
                page = b"<html><body>Bad gateway, please come back later</body></html>"
                exchange.reply(200, page, content_type="text/html")
            case _:
                return False
        return True

    async def _answer(
        self, exchange: Exchange, body: Mapping[str, Any], request: Request, rule: Rule | None, gemini: bool
    ) -> None:
        headers = dict(rule.headers) if rule is not None else {}
        if self.script.limit_headers and self.script.limit is not None:
            headers |= {
                "x-ratelimit-limit-requests": str(self.script.limit),
                "x-ratelimit-remaining-requests": str(self.script.limit - len(self._window)),
                "x-ratelimit-reset-requests": f"{self.script.limit_window_s}s",
            }
        if gemini:
            cached = self.cached_contents.tokens(body["cachedContent"]) if "cachedContent" in body else 0
            if cached is None:
                self._error(exchange, 403, "CachedContent not found (or permission denied)")
                return
            reply, usage = generate_reply(body, request.model, cached, rule)
        else:
            reply, usage = chat_reply(body, self._requests, rule)
        cut = rule is not None and rule.fault == "truncate"
        self._statuses["200"] += 1
        if body.get("stream") and not gemini:
            include = bool((body.get("stream_options") or {}).get("include_usage"))
            await self._stream(exchange, list(chat_chunks(reply, include_usage=include)), headers, cut)
        else:
            data = json.dumps(reply).encode()
            exchange.reply(200, data, headers, send_bytes=len(data) // 2 if cut else None)
        if not cut:
            self._answered += 1
            self._tokens.update(usage)

    async def _stream(
        self, exchange: Exchange, chunks: list[dict[str, Any]], headers: Mapping[str, str], cut: bool
    ) -> None:
        exchange.start_chunks("text/event-stream", headers)
        for i, chunk in enumerate(chunks):
            if cut and i >= len(chunks) // 2:
                exchange.drop()
                return
            await self._wait(self.script.stream_delay_s if i else 0)
            exchange.chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        exchange.chunk(b"data: [DONE]\n\n")
        exchange.chunk(b"")

    def _error(self, exchange: Exchange, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._statuses[str(status)] += 1
        if status == 429:
            value = (headers or {}).get("Retry-After", "0")
            seconds = float(value) if value.replace(".", "", 1).isdigit() else 0.0
            self._rejections.append((time.monotonic(), seconds))
        error = {
            "message": message,
            "type": "server_error" if status >= 500 else "invalid_request_error",
            "code": status,
        }
        exchange.reply(status, json.dumps({"error": error}).encode(), headers)
