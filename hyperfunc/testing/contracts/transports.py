"""What every LLM transport must do, as tests: override the fixture ``transport_case``.

A transport is asked through values of the plugin ``hyperfunc_llm``; they come from the author's fixture, so that core
needs no plugin.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from hyperfunc.testing.contracts._values import finish

__all__ = ["TransportCase", "TransportContract"]


@dataclass(frozen=True)
class TransportCase:
    """A transport and requests to a provider that answers (a loopback server; nothing paid).

    Attributes:
        transport: the class that is registered.
        request: an ``OutgoingRequest`` that is answered with text.
        refused: one that the provider refuses (a wrong key, an unknown model).
        secret: the API key in both, which no error may show.
    """

    transport: Callable[[], Any]
    request: Any
    refused: Any
    secret: str


def _text(payload: Mapping[str, Any]) -> str:
    """The text of a ``chat.completion`` or of one of its chunks."""
    choices = payload.get("choices") or [{}]
    part = choices[0].get("message") or choices[0].get("delta") or {}
    return part.get("content") or ""


class TransportContract:
    """Tests of one transport."""

    streams: bool = True
    """Set to false for a transport whose ``stream`` refuses."""

    @pytest.fixture
    def transport_case(self) -> TransportCase:
        """The transport with two requests. Override this."""
        raise NotImplementedError("override the fixture transport_case with a TransportCase")

    def _with(self, case: TransportCase, use: Callable[[Any], Any]) -> Any:
        async def work() -> Any:
            transport = case.transport()
            await transport.load()
            try:
                return await use(transport)
            finally:
                await transport.aclose()

        return finish(work())

    def test_it_has_the_four_methods(self, transport_case: TransportCase) -> None:
        transport = transport_case.transport()
        for name in ("load", "send", "aclose"):
            assert inspect.iscoroutinefunction(getattr(transport, name)), f"{name} must be a coroutine function"
        assert callable(transport.stream)

    def test_a_reply_has_the_openai_form(self, transport_case: TransportCase) -> None:
        reply = self._with(transport_case, lambda t: t.send(transport_case.request))
        assert _text(reply.payload), "expected text in choices[0].message.content"
        assert all(name == name.lower() for name in reply.headers), "header names must be lower-case"
        usage = reply.usage
        assert usage.prompt_tokens > 0
        assert usage.completion_tokens > 0
        assert 0 <= usage.cached_tokens <= usage.prompt_tokens

    def test_a_stream_says_what_a_reply_says(self, transport_case: TransportCase) -> None:
        if not self.streams:
            pytest.skip("the transport is declared as not streaming")

        async def collect(transport: Any) -> str:
            return "".join([_text(chunk.payload) async for chunk in transport.stream(transport_case.request)])

        async def both(transport: Any) -> tuple[str, str]:
            return await collect(transport), _text((await transport.send(transport_case.request)).payload)

        streamed, sent = self._with(transport_case, both)
        assert streamed
        assert streamed == sent

    def test_requests_run_at_once(self, transport_case: TransportCase) -> None:
        async def many(transport: Any) -> list[Any]:
            return await asyncio.gather(*(transport.send(transport_case.request) for _ in range(8)))

        assert all(_text(reply.payload) for reply in self._with(transport_case, many))

    def test_a_refusal_is_an_error_without_secrets(self, transport_case: TransportCase) -> None:
        with pytest.raises(Exception) as caught:
            self._with(transport_case, lambda t: t.send(transport_case.refused))
        shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
        assert transport_case.secret not in shown

    def test_closing_and_loading_twice_is_no_error(self, transport_case: TransportCase) -> None:
        async def again(transport: Any) -> None:
            await transport.load()
            await transport.aclose()

        self._with(transport_case, again)

    def test_cancellation_passes(self, transport_case: TransportCase) -> None:
        async def cancelled(transport: Any) -> None:
            sending = asyncio.ensure_future(transport.send(transport_case.request))
            await asyncio.sleep(0)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

        self._with(transport_case, cancelled)
