"""What a transport is given and gives back. Knows nothing of limits, retries or money."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hyperfunc_llm.secrets import SecretKey
from hyperfunc_llm.types import Message, TokenUsage

__all__ = ["OutgoingRequest", "Reply", "ReplyChunk", "Transport"]


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """One request on its way.

    Attributes:
        endpoint: alias, for messages.
        model: provider and model.
        base_url: ``None`` for the provider's usual address.
        key: the API key, if any.
        messages, params: as in :class:`~hyperfunc_llm.types.LLMRequest`.
        headers: extra headers.
        timeout_s: for clients that insist on a timeout of their own; the runtime keeps the time.
        raw: the whole reply is wanted as payload, not only what an ``LLMResponse`` needs.
    """

    endpoint: str
    model: str
    base_url: str | None
    key: SecretKey | None
    messages: Sequence[Message]
    params: Mapping[str, Any]
    headers: Mapping[str, str]
    timeout_s: float
    raw: bool = False

    @property
    def provider_model(self) -> str:
        """The model without its provider."""
        return self.model.partition("/")[2] or self.model


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, not yet judged.

    Attributes:
        payload: the reply in OpenAI's ``chat.completion`` form, as JSON values.
        headers: response headers, lower-case names.
        usage: taken before anything else was looked at.
        safety_ratings: category -> probability, for providers that rate.
    """

    payload: Mapping[str, Any]
    headers: Mapping[str, str]
    usage: TokenUsage
    safety_ratings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplyChunk:
    """A piece of a streamed reply in OpenAI's ``chat.completion.chunk`` form; ``headers`` on the first one."""

    payload: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class Transport(Protocol):
    """Sends requests to one kind of provider. Belongs to one event loop. Never repeats a request by itself."""

    async def load(self) -> None:
        """Import what is needed; called once, before anybody's clock runs."""
        ...

    async def send(self, request: OutgoingRequest) -> Reply:
        """Send and wait for the reply.

        Raises:
            LLMError: with ``sent`` and ``outcome_known`` set, and without secrets.
        """
        ...

    def stream(self, request: OutgoingRequest) -> AsyncGenerator[ReplyChunk, None]:
        """Send and hand on the pieces. Raises as :meth:`send`."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...
