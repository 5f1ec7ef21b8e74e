"""What can go wrong with a model call.

    HyperfuncError
    ├── ConfigurationError
    │   └── UnknownAliasError         no endpoint of that name; raised before the first call
    └── ExecutionError
        └── LLMError                  carries endpoint, status, attempts and the usage that was paid for nothing
            ├── InvalidRequestError       the provider refuses the request as it is (400, 404, 422, …)
            ├── AccessError               no later request can succeed; also a FatalError, which stops a batch
            │   ├── AuthenticationError       401, 403
            │   └── BalanceError              402, exhausted quota
            ├── RateLimitedError          429
            ├── TransportError            connection, 408, 425, 5xx, broken bodies
            │   └── AttemptTimeoutError       one attempt took too long (also a TimeoutError)
            ├── ContentError              a reply came and cannot be used
            │   ├── EmptyResponseError        no text: blocked, filtered or empty; not repeated
            │   └── OutputValidationError     structured output did not validate
            ├── PromptLimitError          the call may send no more prompts
            ├── ToolLoopError             an agent used up its rounds or tool calls
            └── DeadlineError             the item's deadline passed (also a TimeoutError)

The runtime has made all repeats that its budgets allow when it raises one: ``retryable`` is false on all of them, so no
outer retry multiplies them. Texts of providers are included with secrets removed.
"""

from __future__ import annotations

from hyperfunc.batch import FatalError
from hyperfunc.errors import ConfigurationError, ExecutionError
from hyperfunc.usage import Usage

__all__ = [
    "AccessError",
    "AttemptTimeoutError",
    "AuthenticationError",
    "BalanceError",
    "ContentError",
    "DeadlineError",
    "EmptyResponseError",
    "InvalidRequestError",
    "LLMError",
    "OutputValidationError",
    "PromptLimitError",
    "RateLimitedError",
    "ToolLoopError",
    "TransportError",
    "UnknownAliasError",
]


class UnknownAliasError(ConfigurationError):
    """An endpoint alias that no configuration defines."""


class LLMError(ExecutionError):
    """A model call failed.

    Attributes:
        endpoint: alias or model name.
        status: HTTP status, where there was one.
        usage: what was paid on the way to this failure; one attempt's when raised by a transport, the whole call's
            when raised to the user.
        attempts: how many requests were sent.
        category: what :func:`~hyperfunc_llm.classification.classify` said, when the call was given up.
        retry_after_s: the server's wish, in seconds from the reply.
        sent: whether the request reached the network (a refused connection did not).
        outcome_known: whether the provider said what became of the request; if not, it may have been billed.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        endpoint: str = "",
        status: int | None = None,
        usage: Usage | None = None,
        retry_after_s: float | None = None,
        sent: bool = True,
        outcome_known: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self.status = status
        self.usage = usage if usage is not None else Usage()
        self.attempts = 1
        self.retry_after_s = retry_after_s
        self.category = ""
        self.sent = sent
        self.outcome_known = outcome_known
        super().__init__(message)


class InvalidRequestError(LLMError):
    """The provider refuses the request as it is."""


class AccessError(LLMError, FatalError):
    """No later request with this key can succeed."""


class AuthenticationError(AccessError):
    """The key is wrong, revoked, or may not use the model."""


class BalanceError(AccessError):
    """The account has no money or quota left."""


class RateLimitedError(LLMError):
    """The provider asked to slow down, more often than the budget allows."""


class TransportError(LLMError):
    """The request or its reply was lost or damaged on the way, or the provider failed."""


class AttemptTimeoutError(TransportError, TimeoutError):
    """One attempt took longer than its timeout, counted from admission."""


class ContentError(LLMError):
    """A reply came and cannot be used."""


class EmptyResponseError(ContentError):
    """A billed reply without text: blocked, filtered or empty. Asking again would be billed again."""


class OutputValidationError(ContentError):
    """Structured output did not validate.

    Attributes:
        content: the model's text.
        partial: the fields that did validate, for partial recovery.
    """

    def __init__(self, message: str, *, content: str = "", partial: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.content = content
        self.partial = partial or {}


class PromptLimitError(LLMError):
    """The call's limit on prompts sent is reached."""


class ToolLoopError(LLMError):
    """An agent used up its rounds or tool calls without a final answer."""


class DeadlineError(LLMError, TimeoutError):
    """The item's deadline passed, or would pass before the next attempt."""
