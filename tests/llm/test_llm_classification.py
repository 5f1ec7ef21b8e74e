"""What an exception means: type before status before text (acceptance check 12)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import BaseModel, ValidationError

from hyperfunc.errors import BudgetExceededError, ConfigurationError
from hyperfunc_llm import LLMError, classify
from hyperfunc_llm.classification import ErrorInfo, error_for_status
from hyperfunc_llm.errors import (
    AuthenticationError,
    BalanceError,
    EmptyResponseError,
    InvalidRequestError,
    OutputValidationError,
    RateLimitedError,
    TransportError,
)


class WithStatus(Exception):
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        super().__init__("see my status")


class Quota(BaseModel):
    quota: int


def a_validation_error() -> ValidationError:
    try:
        Quota(quota="rate limit 429 quota")  # type: ignore[arg-type]
    except ValidationError as error:
        return error
    raise AssertionError("unreachable")


def a_decode_error() -> json.JSONDecodeError:
    return json.JSONDecodeError("quota exceeded", "doc", 0)


TABLE: list[tuple[BaseException, str, bool]] = [
    (a_decode_error(), "content", True),
    (a_validation_error(), "content", True),
    (OutputValidationError("429 quota"), "content", True),
    (EmptyResponseError("blocked"), "content", False),
    (Exception("the limit is 4290 tokens"), "unknown", True),
    (Exception("error 429: slow down"), "rate_limit", True),
    (Exception("invalid api key"), "access", False),
    (Exception("connection reset by peer"), "transport", True),
    (ConnectionResetError("quota 429"), "transport", True),
    (TimeoutError("429"), "transport", True),
    (WithStatus(429), "rate_limit", True),
    (WithStatus(401), "access", False),
    (WithStatus(402), "access", False),
    (WithStatus(403), "access", False),
    (WithStatus(400), "request", False),
    (WithStatus(404), "request", False),
    (WithStatus(422), "request", False),
    (WithStatus(408), "transport", True),
    (WithStatus(425), "transport", True),
    (WithStatus(500), "transport", True),
    (WithStatus(503), "transport", True),
    (WithStatus(529), "transport", True),
    (RateLimitedError("x"), "rate_limit", True),
    (TransportError("429 in the text"), "transport", True),
    (BudgetExceededError("no room", limit="usd"), "request", False),
    (ConfigurationError("429"), "request", False),
    (KeyError("whatever"), "unknown", True),
]


@pytest.mark.parametrize(("error", "category", "retryable"), TABLE, ids=lambda v: repr(v)[:40])
def test_table(error: BaseException, category: str, retryable: bool) -> None:
    info = classify(error)
    assert (info.category, info.retryable) == (category, retryable)
    assert info.rate_limited == (category == "rate_limit")
    assert info.fatal == (category == "access")


def test_503_is_no_cooldown_of_everybody() -> None:
    assert not classify(WithStatus(503)).rate_limited


def test_custom_hook_wins_and_post_hook_edits() -> None:
    mine = ErrorInfo("content", True, hint="mine")
    assert classify(WithStatus(401), custom=[lambda e: mine]) is mine
    assert classify(WithStatus(401), custom=[lambda e: None]).category == "access"
    edited = classify(WithStatus(500), post=[lambda e, info: replace(info, wait_s=7.0)])
    assert (edited.category, edited.wait_s) == ("transport", 7.0)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (401, "bad key", AuthenticationError),
        (402, "pay", BalanceError),
        (429, "slow down", RateLimitedError),
        (429, "You exceeded your current quota", BalanceError),
        (404, "no such model", InvalidRequestError),
        (500, "quota", TransportError),
    ],
)
def test_errors_for_statuses(status: int, message: str, kind: type[LLMError]) -> None:
    error = error_for_status(status, message, endpoint="fast", retry_after_s=2.0)
    assert type(error) is kind
    assert (error.status, error.endpoint, error.retry_after_s) == (status, "fast", 2.0)
    assert not error.retryable  # nothing outside repeats what the runtime has given up
