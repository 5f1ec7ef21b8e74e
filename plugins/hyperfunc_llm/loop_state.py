"""What belongs to one event loop: connections, gates, calls in flight. Ends with the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from importlib import import_module
from typing import Any

from hyperfunc.calls import StoredCall
from hyperfunc.plugins import current_plugins
from hyperfunc_llm.endpoints import Endpoint
from hyperfunc_llm.limits import EndpointRate, Gate
from hyperfunc_llm.plugin import TRANSPORTS
from hyperfunc_llm.singleflight import SingleFlight
from hyperfunc_llm.timeouts import TimeoutWatch
from hyperfunc_llm.transports import Transport
from hyperfunc_llm.transports.direct import HTTPClient
from hyperfunc_llm.transports.gemini import GeminiTransport
from hyperfunc_llm.types import LLMResponse

__all__ = ["LoopState"]


class LoopState:
    """One event loop's share of a runtime."""

    def __init__(self) -> None:
        self.flights: SingleFlight[tuple[LLMResponse, StoredCall]] = SingleFlight()
        self.timeouts = TimeoutWatch()
        self.hits = 0
        self._gates: dict[tuple[str, str | None, str | None], Gate] = {}
        self._transports: dict[str, Transport] = {}
        self._loading = asyncio.Lock()
        self._keeper: AsyncGenerator[None, None] | None = None

    def gate(self, alias: str, endpoint: Endpoint) -> Gate:
        """The admission of ``alias``, with the limits that the latest call was configured with."""
        identity = (alias, endpoint.model, endpoint.base_url)
        gate = self._gates.get(identity)
        if gate is None:
            rate = EndpointRate(endpoint.rpm, endpoint.tpm)
            gate = Gate(rate, concurrency=endpoint.concurrency, start_window=endpoint.start_window or 16)
            self._gates[identity] = gate
        gate.configure(endpoint.concurrency, endpoint.rpm, endpoint.tpm)
        return gate

    async def transport(self, name: str) -> Transport:
        """The transport called ``name``; closed when the event loop shuts its generators down, if not before."""
        transport = self._transports.get(name)
        if transport is None:
            async with self._loading:
                if name not in self._transports:
                    transport = _make_transport(name)
                    await transport.load()
                    self._transports[name] = transport
                    await self._keep_until_the_end()
            transport = self._transports[name]
        return transport

    async def _keep_until_the_end(self) -> None:
        """asyncio.run() and test runners close asynchronous generators before they close the loop: the only place
        where connections can still be closed when nobody called aclose()."""
        if self._keeper is None:
            self._keeper = self._close_at_the_end()
            await anext(self._keeper)

    async def gemini_client(self) -> HTTPClient:
        """The HTTP client of the Gemini transport, for requests that are no model calls."""
        transport = await self.transport("gemini")
        assert isinstance(transport, GeminiTransport)
        return transport.client

    async def _close_at_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._close_transports()

    async def _close_transports(self) -> None:
        transports, self._transports = list(self._transports.values()), {}
        for transport in transports:
            await transport.aclose()

    async def aclose(self) -> None:
        if self._keeper is not None:
            await self._keeper.aclose()

    def stats(self) -> dict[str, Any]:
        gates = {
            alias: {
                **gate.rate.stats(),
                "in_flight": gate.in_flight,
                "waiting": gate.waiting,
                "cooldowns": len(gate.cooldowns),
            }
            for (alias, _, _), gate in self._gates.items()
        }
        return {"endpoints": gates, "hits": self.hits}


def _make_transport(name: str) -> Transport:
    """A built-in transport, or one that another plugin registered."""
    if name in TRANSPORTS:
        module, _, attribute = TRANSPORTS[name].partition(":")
        kind = getattr(import_module(module), attribute)
    else:
        kind = current_plugins().get("llm_transports", name)
    transport: Transport = kind()
    return transport


def loop_time() -> float:
    """The event loop's clock."""
    return asyncio.get_running_loop().time()
