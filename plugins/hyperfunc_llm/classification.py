"""What an exception means for the next attempt: by type, then by status, then (untyped exceptions only) by text.

Order of decision: every ``classify_custom`` hook, first answer wins; else the table below; then every ``post_classify``
hook may edit the result. Knows nothing of budgets or of waiting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hyperfunc.errors import HyperfuncError
from hyperfunc_llm import errors

__all__ = ["Category", "ClassifyCustom", "ErrorInfo", "PostClassify", "classify", "error_for_status"]

Category = Literal["content", "transport", "rate_limit", "access", "request", "deadline", "unknown"]


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What an exception means.

    Attributes:
        category: which budget a repeat is paid from (``unknown`` uses ``transport``'s).
        retryable: whether a repeat can help.
        rate_limited: start (or respect) a cooldown of the whole endpoint.
        timeout: something took too long.
        fatal: no other request can succeed either.
        wait_s: wait at least so long.
        hint: what a person could do.
    """

    category: Category
    retryable: bool
    rate_limited: bool = False
    timeout: bool = False
    fatal: bool = False
    wait_s: float | None = None
    hint: str = ""


ClassifyCustom = Callable[[BaseException], ErrorInfo | None]
PostClassify = Callable[[BaseException, ErrorInfo], ErrorInfo]

_VALIDATION = ErrorInfo("content", True, hint="the model's output did not fit; repeat or repair it")
_NETWORK = ErrorInfo("transport", True)
_TIMEOUT = ErrorInfo("transport", True, timeout=True)
_UNKNOWN = ErrorInfo("unknown", True)
_LIMIT = ErrorInfo("rate_limit", True, rate_limited=True)
_REFUSED = ErrorInfo("request", False, hint="change the request; the same one will be refused again")
_ACCESS = ErrorInfo(
    "access", False, fatal=True, hint="check the key's environment variable, its rights and the balance"
)

_TEXTS: tuple[tuple[re.Pattern[str], ErrorInfo], ...] = (
    (re.compile(r"\b429\b|rate.?limit|too many requests", re.I), _LIMIT),
    (re.compile(r"insufficient.?(quota|balance)|billing|payment required", re.I), _ACCESS),
    (re.compile(r"\b401\b|invalid.?api.?key|unauthori[sz]ed", re.I), _ACCESS),
    (re.compile(r"timed? ?out", re.I), _TIMEOUT),
    (re.compile(r"connection (reset|refused|aborted|error)|server disconnected", re.I), _NETWORK),
)


def classify(
    error: BaseException, custom: Sequence[ClassifyCustom] = (), post: Sequence[PostClassify] = ()
) -> ErrorInfo:
    """What ``error`` means, hooks included."""
    info = next((answer for hook in custom if (answer := hook(error)) is not None), None)
    if info is None:
        info = _by_type(error) or _by_status(error) or _by_text(error) or _UNKNOWN
    for edit in post:
        info = edit(error, info)
    return info


def _by_type(error: BaseException) -> ErrorInfo | None:
    match error:
        case errors.EmptyResponseError():
            return ErrorInfo("content", False, hint="the reply was blocked or empty; see its finish_reason")
        case errors.ContentError() | json.JSONDecodeError():
            return _VALIDATION
        case errors.RateLimitedError():
            return ErrorInfo("rate_limit", True, rate_limited=True, wait_s=error.retry_after_s)
        case errors.AccessError():
            return _ACCESS
        case errors.DeadlineError() | errors.PromptLimitError() | errors.ToolLoopError():
            return ErrorInfo("deadline", False)
        case errors.InvalidRequestError():
            return _REFUSED
        case errors.AttemptTimeoutError():
            return _TIMEOUT
        case errors.TransportError():
            return ErrorInfo("transport", True, wait_s=error.retry_after_s)
        case HyperfuncError():  # a budget without room, a missing package, an unknown parameter, …
            return ErrorInfo("transport" if error.retryable else "request", error.retryable)
        case TimeoutError():
            return _TIMEOUT
        case ConnectionError():
            return _NETWORK
    if _named(error, "ValidationError"):  # pydantic's and jsonschema's, without importing either
        return _VALIDATION
    if any(_named(cause, "ConnectError", "ClientConnectorError") for cause in _causes(error)):
        return _NETWORK  # litellm reports a refused connection as InternalServerError
    return None


def _by_status(error: BaseException) -> ErrorInfo | None:
    status = getattr(error, "status_code", None)  # foreign exceptions: no interface of ours to ask
    return _status_info(status) if isinstance(status, int) else None


def _status_info(status: int) -> ErrorInfo:
    if status == 429:
        return _LIMIT
    if status in (401, 402, 403):
        return _ACCESS
    if status in (408, 425) or status >= 500:
        return ErrorInfo("transport", True, timeout=status == 408)
    return _REFUSED if 400 <= status < 500 else _UNKNOWN


def _by_text(error: BaseException) -> ErrorInfo | None:
    """Only for exceptions whose type says nothing: a typed error that mentions "quota" is not a rate limit."""
    if type(error) not in (Exception, RuntimeError, OSError):
        return None
    text = str(error)
    return next((info for pattern, info in _TEXTS if pattern.search(text)), None)


def _named(error: BaseException, *names: str) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


_QUOTA = re.compile(r"insufficient_quota|insufficient balance|exceeded your current quota", re.I)


def error_for_status(
    status: int, message: str, *, endpoint: str, retry_after_s: float | None = None
) -> errors.LLMError:
    """The error for an HTTP status and the provider's (redacted) message."""
    kind: type[errors.LLMError]
    if status == 403 and "CachedContent" in message:  # Google's way to say that a cache has expired: the key is fine
        kind = errors.InvalidRequestError
    elif status == 402 or (status == 429 and _QUOTA.search(message)):
        kind = errors.BalanceError
    elif status == 429:
        kind = errors.RateLimitedError
    elif status in (401, 403):
        kind = errors.AuthenticationError
    elif status in (408, 425) or status >= 500:
        kind = errors.TransportError
    else:
        kind = errors.InvalidRequestError
    text = f"{endpoint} answered {status}: {message}"
    return kind(text, endpoint=endpoint, status=status, retry_after_s=retry_after_s)
