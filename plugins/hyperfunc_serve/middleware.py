"""Around every request: the API key, the size of the body, failures, counting. Plain ASGI, so that streams pass
untouched."""

from __future__ import annotations

import json
import logging
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyperfunc_serve.errors import envelope
from hyperfunc_serve.metrics import ServerMetrics

__all__ = ["BodyLimit", "Counting", "Failures", "KeyCheck"]

_log = logging.getLogger(__name__)

_OPEN_PATHS = frozenset({"/", "/health"})


async def _refuse(send: Send, status: int, message: str, code: str | None = None) -> None:
    body = json.dumps(envelope(status, message, code=code)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class KeyCheck:
    """Lets requests through that carry the key; the chat page and the health check are open."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                await _refuse(send, 401, "a valid API key is needed: Authorization: Bearer …", "invalid_api_key")
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies over the limit, by their declared length or as they arrive."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._most:
            await _refuse(send, 413, f"a request may have at most {self._most} bytes")
            return
        chunks: list[bytes] = []
        size = 0
        more = scope["method"] in ("POST", "PUT", "PATCH")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._most:
                await _refuse(send, 413, f"a request may have at most {self._most} bytes")
                return
            more = message.get("more_body", False)
        body: Message | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def replay() -> Message:
            nonlocal body
            if body is not None:
                message, body = body, None
                return message
            return await receive()

        await self._app(scope, replay, send)


class Failures:
    """Answers what nobody foresaw with 500, in the envelope of all other errors, and logs it; the connection stays
    usable. A response that has begun can only be broken off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            if scope["type"] != "http" or begun:
                raise
            _log.exception("%s %s failed", scope["method"], scope["path"])
            await _refuse(send, 500, f"the server failed ({type(error).__name__}); its log says more")


class Counting:
    """Reports every request to the metrics, when its response has ended."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        status, first = 500, None

        async def watch(message: Message) -> None:
            nonlocal status, first
            if message["type"] == "http.response.start":
                status = message["status"]
            elif first is None and message.get("body"):
                first = time.perf_counter() - begin
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            route: Any = scope.get("route")
            pattern = getattr(route, "path", None) or "unmatched"
            self._metrics.observe(pattern, status, time.perf_counter() - begin, first)
