"""One attempt: admission, reservation, send, books. What comes before and after it, others decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from hyperfunc import tape
from hyperfunc.scope import current_scope
from hyperfunc.usage import Usage
from hyperfunc_llm.accounting import as_usage, estimate_tokens, worst_case
from hyperfunc_llm.classification import ErrorInfo
from hyperfunc_llm.endpoints import Endpoint
from hyperfunc_llm.errors import AttemptTimeoutError, LLMError, TransportError
from hyperfunc_llm.limits import Gate, Ticket, read_rate_headers
from hyperfunc_llm.loop_state import LoopState, loop_time
from hyperfunc_llm.replies import StreamedReply, read_reply
from hyperfunc_llm.retries import Deadline
from hyperfunc_llm.secrets import SecretKey, find_key
from hyperfunc_llm.transports import OutgoingRequest
from hyperfunc_llm.types import LLMRequest, LLMResponse, StreamChunk, Timings, TokenUsage

__all__ = ["AttemptMaker", "CallBooks"]


T = TypeVar("T")


class CallBooks:
    """What one call has used so far. Written as soon as usage is known, before anything else is looked at."""

    __slots__ = ("prompts", "replayed", "spent")

    def __init__(self) -> None:
        self.prompts = 0
        self.replayed = 0
        self.spent = Usage()


class _Sending:
    """One attempt's own account, while it lasts."""

    __slots__ = ("first_chunk_at", "outcome_known", "sent", "tokens")

    def __init__(self) -> None:
        self.tokens = TokenUsage()
        self.sent = True
        self.outcome_known = False
        self.first_chunk_at: float | None = None


class _AttemptClock:
    """An attempt's timeout around a block, counted from admission."""

    __slots__ = ("_alias", "_clock", "_seconds")

    def __init__(self, alias: str, seconds: float | None, ticket: Ticket) -> None:
        self._alias, self._seconds = alias, seconds
        self._clock = asyncio.timeout_at(None if seconds is None else ticket.sent_at + seconds)

    async def __aenter__(self) -> None:
        await self._clock.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._clock.__aexit__(kind, error, traceback)
        except TimeoutError:
            text = f"{self._alias} did not answer within attempt_timeout_s={self._seconds}"
            raise AttemptTimeoutError(text, endpoint=self._alias, outcome_known=False) from None


class AttemptMaker:
    """Makes the attempts of one call."""

    __slots__ = (
        "_ask",
        "_classified",
        "_deadline",
        "_gate",
        "_key",
        "_price",
        "_state",
        "alias",
        "books",
        "endpoint",
    )

    def __init__(
        self,
        alias: str,
        endpoint: Endpoint,
        state: LoopState,
        books: CallBooks,
        deadline: Deadline,
        classify: Callable[[BaseException], ErrorInfo],
    ) -> None:
        self.alias = alias
        self.endpoint = endpoint
        self.books = books
        self._state = state
        self._gate: Gate = state.gate(alias, endpoint)
        self._deadline = deadline
        self._price = endpoint.price
        self._key = self.key_of(endpoint)
        self._ask = classify
        self._classified: tuple[BaseException, ErrorInfo] | None = None

    @staticmethod
    def key_of(endpoint: Endpoint) -> SecretKey | None:
        """The endpoint's key. A provider's usual variable is not sent to an address of the user's own."""
        if endpoint.api_key is not None:
            return endpoint.api_key
        if endpoint.api_key_env is None and endpoint.base_url is not None:
            return None
        return find_key(endpoint.api_key_env, endpoint.provider)

    async def make(self, request: LLMRequest, raw: bool) -> LLMResponse:
        """Send ``request`` once.

        Raises:
            LLMError: it failed; what it cost is in the books.
        """
        tokens = estimate_tokens(request.messages, request.params)
        transport = await self._state.transport(self.endpoint.transport or "litellm")
        outgoing = self._outgoing(request, raw)
        async with self._admitted(tokens, request.params) as (ticket, sending):
            async with self._clock(ticket):
                reply = await transport.send(outgoing)
            sending.tokens, sending.outcome_known = reply.usage, True
            self._gate.rate.update(read_rate_headers(reply.headers), self._gate.in_flight - 1)
            self._gate.succeeded(ticket, reply.usage.total_tokens)
            response = read_reply(reply.payload, reply.usage, reply.safety_ratings, endpoint=self.alias)
            seconds = loop_time() - ticket.sent_at
        return self._finished(response, Timings(ticket.waited_s, None, seconds), reply.payload if raw else None)

    async def stream(self, request: LLMRequest) -> AsyncGenerator[StreamChunk, None]:
        """Send ``request`` once and hand on its pieces; the last one carries the whole response."""
        tokens = estimate_tokens(request.messages, request.params)
        assembled = StreamedReply()
        transport = await self._state.transport(self.endpoint.transport or "litellm")
        async with self._admitted(tokens, request.params) as (ticket, sending):
            pieces = self._timely(transport.stream(self._outgoing(request)), ticket)
            async with aclosing(pieces):
                async for piece in pieces:
                    if sending.first_chunk_at is None:
                        sending.first_chunk_at = loop_time()
                    content, reasoning = assembled.add(piece.payload)
                    if assembled.has_usage:
                        sending.tokens, sending.outcome_known = assembled.usage, True
                    if content or reasoning:
                        yield StreamChunk(content, reasoning)
            if not assembled.complete:
                raise TransportError(f"{self.alias}: the stream was cut", endpoint=self.alias, outcome_known=False)
            self._gate.succeeded(ticket, assembled.usage.total_tokens)
            response = read_reply(assembled.payload(), assembled.usage, {}, endpoint=self.alias)
            seconds = loop_time() - ticket.sent_at
            first = None if sending.first_chunk_at is None else sending.first_chunk_at - ticket.sent_at
        yield StreamChunk(response=self._finished(response, Timings(ticket.waited_s, first, seconds), None))

    def _finished(self, response: LLMResponse, timings: Timings, raw: Any) -> LLMResponse:
        tape.add_usage(Usage(), model=response.model, finish_reason=response.finish_reason)
        return replace(
            response,
            cost=None if self._price is None else self._price.cost(response.usage),
            timings=timings,
            attempts=self.books.prompts,
            spent=self.books.spent,
            raw=raw,
        )

    def _outgoing(self, request: LLMRequest, raw: bool = False) -> OutgoingRequest:
        endpoint = self.endpoint
        assert endpoint.model is not None
        return OutgoingRequest(
            endpoint=self.alias,
            model=endpoint.model,
            base_url=endpoint.base_url,
            key=self._key,
            messages=request.messages,
            params=request.params,
            headers=endpoint.headers or {},
            timeout_s=endpoint.attempt_timeout_s or 600.0,
            raw=raw,
        )

    @asynccontextmanager
    async def _admitted(self, tokens: int, params: Mapping[str, Any]) -> AsyncIterator[tuple[Ticket, _Sending]]:
        """Admission, reservation and the attempt's clock around the block; the books are written however it ends."""
        ticket = await self._gate.admit(tokens, self._key, limited=self.endpoint.limited is not False)
        self._deadline.start()
        sending = _Sending()
        reservation = None
        try:
            budget = current_scope().budget
            worst = worst_case(tokens, params, self.endpoint, self._price)
            if budget is not None:
                reservation = budget.reserve(worst)
            self.books.prompts += 1
            try:
                yield ticket, sending
            except LLMError as error:
                sending.sent, sending.outcome_known = error.sent, sending.outcome_known or error.outcome_known
                self._react(error, self.classify(error), ticket)
                raise
            finally:
                used = self._book(ticket, sending)
                if reservation is not None:
                    settled, reservation = reservation, None
                    # A request whose fate is unknown may have been billed: the budget assumes that its input was.
                    lost = sending.sent and not sending.outcome_known
                    settled.settle(used + self._input_only(worst) if lost else used)
        finally:
            if reservation is not None:
                reservation.release()
            self._gate.release(ticket)

    def _clock(self, ticket: Ticket) -> _AttemptClock:
        return _AttemptClock(self.alias, self.endpoint.attempt_timeout_s, ticket)

    async def _timely(self, pieces: AsyncGenerator[T, None], ticket: Ticket) -> AsyncGenerator[T, None]:
        """``pieces``, each of them within the attempt's timeout; the clock never runs out in the reader's own code."""
        async with aclosing(pieces):
            while True:
                async with self._clock(ticket):
                    try:
                        piece = await anext(pieces)
                    except StopAsyncIteration:
                        return
                yield piece

    def _book(self, ticket: Ticket, sending: _Sending) -> Usage:
        """Write the attempt into the call's books, the run's ledger and the tape."""
        seconds = loop_time() - ticket.sent_at
        used = as_usage(sending.tokens, self._price, calls=int(sending.sent), seconds=seconds)
        self.books.spent = used if self.books.prompts == 1 else self.books.spent + used
        ledger = current_scope().ledger
        if ledger is not None:
            ledger.record(self.alias, used)
        tape.add_usage(used)
        return used

    def _input_only(self, worst: Usage) -> Usage:
        usd = 0.0 if self._price is None else worst.input_tokens * self._price.input
        return Usage(input_tokens=worst.input_tokens, usd=usd)

    def classify(self, error: BaseException) -> ErrorInfo:
        """What ``error`` means; hooks are asked once per error, though attempt and repeat loop both want to know."""
        if self._classified is None or self._classified[0] is not error:
            self._classified = (error, self._ask(error))
        return self._classified[1]

    def forget(self) -> None:
        """Let go of the last error."""
        self._classified = None

    def _react(self, error: LLMError, info: ErrorInfo, ticket: Ticket) -> None:
        """What ``error`` means for the whole endpoint: a cooldown, or no more calls with this key."""
        if info.rate_limited:
            self._gate.rate_limited(ticket, info.wait_s if error.retry_after_s is None else error.retry_after_s)
        if info.fatal and self.endpoint.fail_fast_s:
            self._gate.close(_again(error), self.endpoint.fail_fast_s, self._key)


def _again(error: LLMError) -> Callable[[], LLMError]:
    """Makes the error for those who are refused without asking: of the same type, with nothing spent."""
    kind, status, endpoint = type(error), error.status, error.endpoint
    text = f"not sent, since an earlier request failed: {error}"

    def make() -> LLMError:
        refused = kind(text, endpoint=endpoint, status=status, sent=False)
        refused.attempts = 0
        return refused

    return make
