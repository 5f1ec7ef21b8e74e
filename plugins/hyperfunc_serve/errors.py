"""Errors that a client sees, in the envelope of the OpenAI API.

HyperfuncError
└── ServeError              the server cannot do what was asked
    └── RequestError            a request is answered with a 4xx status
"""

from __future__ import annotations

from typing import Any

from hyperfunc.errors import HyperfuncError

__all__ = ["RequestError", "ServeError", "envelope"]


class ServeError(HyperfuncError):
    """The server cannot do what was asked."""


class RequestError(ServeError):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status, 400 to 499 (503 while shutting down).
        code, parameter: for programs: what kind of error, and which field it is about.
    """

    def __init__(self, status: int, message: str, *, code: str | None = None, parameter: str | None = None) -> None:
        self.status = status
        self.code = code
        self.parameter = parameter
        super().__init__(message)


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def envelope(status: int, message: str, *, code: str | None = None, parameter: str | None = None) -> dict[str, Any]:
    """The body of an error response."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    clean = message.encode("utf-8", "replace").decode()  # what a client sent may not be encodable
    return {"error": {"message": clean, "type": kind, "param": parameter, "code": code}}
