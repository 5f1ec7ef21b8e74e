"""One attempt: reservation, admission, send, books. What comes before and after it, others decide."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, TypeVar

from hyperfunc import tape
from hyperfunc.errors import ConfigurationError
from hyperfunc.scope import Reservation, current_scope
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
from hyperfunc_llm.timeouts import Timeout, TimeoutWatch
from hyperfunc_llm.transports import OutgoingRequest
from hyperfunc_llm.types import LLMRequest, LLMResponse, StreamChunk, Timings, TokenUsage

__all__ = ["AttemptMaker", "Surroundings"]


T = TypeVar("T")


class Surroundings(Protocol):
    """What an attempt needs of the runtime."""

    @property
    def state(self) -> LoopState: ...

    def classify(self, error: BaseException) -> ErrorInfo: ...


_NOTHING, _NO_TOKENS = Usage(), TokenUsage()


class _Attempt:
    """One attempt's own account, while it lasts."""

    __slots__ = ("first_chunk_at", "outcome_known", "reservation", "sent", "ticket", "tokens")

    def __init__(self, ticket: Ticket, reservation: Reservation | None) -> None:
        self.ticket = ticket
        self.reservation = reservation
        self.tokens = _NO_TOKENS
        self.sent = True
        self.outcome_known = False
        self.first_chunk_at: float | None = None


class _AttemptClock(Timeout):
    """An attempt's timeout around a block, counted from admission."""

    __slots__ = ("_alias", "_seconds")

    def __init__(self, watch: TimeoutWatch, alias: str, seconds: float | None, ticket: Ticket) -> None:
        super().__init__(watch, float("inf") if seconds is None else ticket.sent_at + seconds)
        self._alias, self._seconds = alias, seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, traceback)
        except TimeoutError:
            text = f"{self._alias} did not answer within attempt_timeout_s={self._seconds}"
            raise AttemptTimeoutError(text, endpoint=self._alias, outcome_known=False) from None


class AttemptMaker:
    """Makes the attempts of one call and keeps its books.

    A thousand calls may be in flight, and the garbage collector walks over all that each of them holds: so it holds
    little, and nothing in a cycle.

    Attributes:
        alias: the endpoint's name.
        endpoint: what is known about it.
        deadline: of the whole call; ``None`` is none.
        prompts: requests sent so far.
        replayed: replies that came from the call store instead.
        spent: what the requests used; written as soon as it is known, before anything else is looked at.
    """

    __slots__ = (
        "_classified",
        "_gate",
        "_key",
        "_price",
        "_runtime",
        "alias",
        "deadline",
        "endpoint",
        "prompts",
        "replayed",
        "spent",
    )

    def __init__(self, runtime: Surroundings, alias: str, endpoint: Endpoint) -> None:
        self.alias = alias
        self.endpoint = endpoint
        self.deadline = None if endpoint.timeout_s is None else Deadline(endpoint.timeout_s)
        self.prompts = 0
        self.replayed = 0
        self.spent = _NOTHING
        self._runtime = runtime
        self._gate: Gate = runtime.state.gate(alias, endpoint)
        self._price = endpoint.price
        self._key = self.key_of(endpoint)
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
            BudgetExceededError: nothing was sent.
        """
        transport = await self._runtime.state.transport(self.endpoint.transport or "litellm")
        attempt = await self._begin(request)
        try:
            with self._clock(attempt):
                reply = await transport.send(self._outgoing(request, raw))
            attempt.tokens, attempt.outcome_known = reply.usage, True
            self._gate.rate.update(read_rate_headers(reply.headers), self._gate.in_flight - 1)
            self._gate.succeeded(attempt.ticket, reply.usage.total_tokens)
            response = read_reply(reply.payload, reply.usage, reply.safety_ratings, endpoint=self.alias)
            seconds = loop_time() - attempt.ticket.sent_at
        except LLMError as error:
            self._failed(attempt, error)
            raise
        finally:
            self._end(attempt)
        timings = Timings(attempt.ticket.waited_s, None, seconds)
        return self._finished(response, timings, reply.payload if raw else None)

    async def stream(self, request: LLMRequest) -> AsyncGenerator[StreamChunk, None]:
        """Send ``request`` once and hand on its pieces; the last one carries the whole response."""
        transport = await self._runtime.state.transport(self.endpoint.transport or "litellm")
        assembled = StreamedReply()
        attempt = await self._begin(request, streamed=True)
        try:
            pieces = self._timely(transport.stream(self._outgoing(request)), attempt)
            async with aclosing(pieces):
                async for piece in pieces:
                    if attempt.first_chunk_at is None:
                        attempt.first_chunk_at = loop_time()
                        self._gate.rate.update(read_rate_headers(piece.headers), self._gate.in_flight - 1)
                    content, reasoning = assembled.add(piece.payload)
                    if assembled.has_usage:
                        attempt.tokens, attempt.outcome_known = assembled.usage, True
                    if content or reasoning:
                        yield StreamChunk(content, reasoning)
            if not assembled.complete:
                raise TransportError(f"{self.alias}: the stream was cut", endpoint=self.alias, outcome_known=False)
            self._gate.succeeded(attempt.ticket, assembled.usage.total_tokens)
            response = read_reply(assembled.payload(), assembled.usage, {}, endpoint=self.alias)
            seconds = loop_time() - attempt.ticket.sent_at
        except LLMError as error:
            self._failed(attempt, error)
            raise
        finally:
            self._end(attempt)
        first = None if attempt.first_chunk_at is None else attempt.first_chunk_at - attempt.ticket.sent_at
        timings = Timings(attempt.ticket.waited_s, first, seconds)
        yield StreamChunk(response=self._finished(response, timings, None))

    def _finished(self, response: LLMResponse, timings: Timings, raw: Any) -> LLMResponse:
        tape.add_usage(Usage(), model=response.model, finish_reason=response.finish_reason)
        return replace(
            response,
            cost=None if self._price is None else self._price.cost(response.usage),
            timings=timings,
            attempts=self.prompts,
            spent=self.spent,
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

    async def _begin(self, request: LLMRequest, *, streamed: bool = False) -> _Attempt:
        """Reservation, then admission; the attempt's clock, and the call's deadline, start after them.

        In this order, since who has been admitted must send at once: a ticket grows stale while it waits for money.
        Who reads a stream may make other calls meanwhile, so nobody may wait for the stream's reservation to end.
        """
        budget, reservation = current_scope().budget, None
        if budget is not None:
            if self._price is None and "usd" in budget.unspent:
                raise ConfigurationError(
                    f"the price of {self.endpoint.model} ({self.alias}) is not known, so a budget in USD cannot hold; "
                    "give the endpoint input_usd and output_usd per million tokens (0 for a model that is free), or "
                    "limit tokens or calls instead"
                )
            worst = worst_case(request, self.endpoint, self._price)
            reservation = await budget.reserve_when_free(worst, brief=not streamed)
        tokens = estimate_tokens(request.messages, request.params)
        try:
            ticket = await self._gate.admit(tokens, self._key, limited=self.endpoint.limited is not False)
        except BaseException:
            if reservation is not None:
                reservation.release()
            raise
        if self.deadline is not None:
            self.deadline.start()
        self.prompts += 1
        return _Attempt(ticket, reservation)

    def _failed(self, attempt: _Attempt, error: LLMError) -> None:
        """Note what ``error`` says of the request's fate, and what it means for the whole endpoint."""
        attempt.sent, attempt.outcome_known = error.sent, attempt.outcome_known or error.outcome_known
        info = self.classify(error)
        if info.rate_limited:
            self._gate.rate_limited(attempt.ticket, info.wait_s if error.retry_after_s is None else error.retry_after_s)
        if info.fatal and self.endpoint.fail_fast_s:
            self._gate.close(_again(error), self.endpoint.fail_fast_s, self._key)

    def _end(self, attempt: _Attempt) -> None:
        """Write the attempt into the call's books, the run's ledger, the tape and the budget, however it ended."""
        try:
            seconds = loop_time() - attempt.ticket.sent_at
            used = as_usage(attempt.tokens, self._price, calls=int(attempt.sent), seconds=seconds)
            self.spent = used if self.prompts == 1 else self.spent + used
            ledger = current_scope().ledger
            if ledger is not None:
                ledger.record(self.alias, used)
            tape.add_usage(used)
            if attempt.reservation is not None:
                # A request whose fate is unknown may have been billed: the budget assumes that its input was.
                lost = attempt.sent and not attempt.outcome_known
                attempt.reservation.settle(used + self._input_only(attempt.ticket.tokens) if lost else used)
        finally:
            self._gate.release(attempt.ticket)

    def _clock(self, attempt: _Attempt) -> _AttemptClock:
        timeout_s = self.endpoint.attempt_timeout_s
        return _AttemptClock(self._runtime.state.timeouts, self.alias, timeout_s, attempt.ticket)

    async def _timely(self, pieces: AsyncGenerator[T, None], attempt: _Attempt) -> AsyncGenerator[T, None]:
        """``pieces``, each of them within the attempt's timeout; the clock never runs out in the reader's own code."""
        async with aclosing(pieces):
            while True:
                with self._clock(attempt):
                    try:
                        piece = await anext(pieces)
                    except StopAsyncIteration:
                        return
                yield piece

    def _input_only(self, tokens: int) -> Usage:
        return Usage(input_tokens=tokens, usd=0.0 if self._price is None else tokens * self._price.input)

    def classify(self, error: BaseException) -> ErrorInfo:
        """What ``error`` means; hooks are asked once per error, though attempt and repeat loop both want to know."""
        if self._classified is None or self._classified[0] is not error:
            self._classified = (error, self._runtime.classify(error))
        return self._classified[1]

    def forget(self) -> None:
        """Let go of the last error."""
        self._classified = None


def _again(error: LLMError) -> Callable[[], LLMError]:
    """Makes the error for those who are refused without asking: of the same type, with nothing spent."""
    kind, status, endpoint = type(error), error.status, error.endpoint
    text = f"not sent, since an earlier request failed: {error}"

    def make() -> LLMError:
        refused = kind(text, endpoint=endpoint, status=status, sent=False)
        refused.attempts = 0
        return refused

    return make
