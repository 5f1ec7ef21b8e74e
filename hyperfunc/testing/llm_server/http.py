"""A minimal HTTP/1.1 server side: keep-alive, Content-Length bodies, chunked replies. Knows nothing of models.

It exists because the loopback server must be cheap enough not to be what a client benchmark measures, and because
faults (half a body, no reply at all) need the raw connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["Connection", "Exchange", "Handler"]


class Exchange:
    """One request and the means to answer it."""

    __slots__ = ("_connection", "body", "headers", "method", "path", "query")

    def __init__(self, connection: Connection, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self._connection = connection
        self.method = method
        self.path = unquote(parts.path)
        self.query = dict(parse_qsl(parts.query))
        self.headers = headers
        self.body = body

    def reply(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        content_type: str = "application/json",
        send_bytes: int | None = None,
    ) -> None:
        """Send a whole reply; with ``send_bytes`` announce all of ``body``, send that many and close."""
        head = self._head(status, content_type, headers) + f"Content-Length: {len(body)}\r\n\r\n"
        sent = body if send_bytes is None else body[:send_bytes]
        self._connection.write(head.encode("latin-1") + sent)
        if send_bytes is not None:
            self._connection.close()

    def start_chunks(self, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        """Begin a chunked reply."""
        head = self._head(200, content_type, headers) + "Transfer-Encoding: chunked\r\n\r\n"
        self._connection.write(head.encode("latin-1"))

    def chunk(self, data: bytes) -> None:
        """Send one chunk; an empty one ends the reply."""
        self._connection.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def drop(self) -> None:
        """Close the connection as it is."""
        self._connection.close()

    @staticmethod
    def _head(status: int, content_type: str, headers: Mapping[str, str] | None) -> str:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}", f"Content-Type: {content_type}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return "\r\n".join(lines) + "\r\n"


Handler = Callable[[Exchange], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client connection; answers one request at a time. When the client goes, the running handler is cancelled."""

    def __init__(self, handler: Handler, connections: set[Connection]) -> None:
        self._handler = handler
        self._connections = connections
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        """Start on the next complete request in the buffer, unless one is being answered."""
        if self._task is not None or self._transport is None:
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, _ = first.split(" ", 2)
        exchange = Exchange(self, method, target, headers, b"")
        if "transfer-encoding" in headers:
            exchange.reply(411, b'{"error": {"message": "send a Content-Length"}}')
            self.close()
            return
        length = int(headers.get("content-length", "0"))
        if len(self._buffer) < end + 4 + length:
            return
        exchange.body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        self._task = asyncio.get_running_loop().create_task(self._run(exchange))

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
        finally:
            self._task = None
        self._next()
