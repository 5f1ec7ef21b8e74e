"""Limits and addresses of the server, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from hyperfunc.errors import ConfigurationError

__all__ = ["ServerSettings"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server allows.

    Attributes:
        host, port: where it listens; only this machine, by default.
        api_key: clients must send it as a bearer token; ``None`` asks for none.
        slots: answers computed at once for one model; others wait.
        max_waiting: answers that may wait before clients are turned away (429).
        max_body_bytes: of a request.
        max_tokens: most tokens of one answer.
        max_batch: most prompts in one request, and most choices (``n``) of it.
        model_capacity: most models held at once.
        model_bytes: most bytes of weights held at once; ``None`` for no limit.
        shutdown_seconds: how long running answers may go on after a stop signal.
        cors_origins: web origins whose pages may call the server.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    slots: int = 16
    max_waiting: int = 256
    max_body_bytes: int = 1 << 20
    max_tokens: int = 4096
    max_batch: int = 64
    model_capacity: int = 2
    model_bytes: int | None = None
    shutdown_seconds: int = 10
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("slots", "max_body_bytes", "max_tokens", "max_batch", "model_capacity"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("max_waiting", "shutdown_seconds", "port"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.model_bytes is not None and self.model_bytes < 1:
            raise ConfigurationError(f"model_bytes: expected at least 1, or None for no limit, got {self.model_bytes}")
        if self.api_key is not None and not self.api_key:
            raise ConfigurationError("api_key: an empty key protects nothing; leave it out or set one")
