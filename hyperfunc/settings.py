"""Settings: one immutable object; precedence call > bound > context > default.

*call* is an argument of the call (``evaluate(..., settings=…)``, ``function.with_options(timeout_s=…)``); *bound* is
what the system or the decorator was given; *context* is the innermost ``with Settings(...)`` around; *default* is
below.
"""

from __future__ import annotations

import os
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import torch

from hyperfunc.errors import ConfigurationError

__all__ = ["Execution", "Settings", "context_settings", "context_stack", "resolve_settings"]

Execution = Literal["auto", "lifted", "gathered", "sequential"]

_stack: ContextVar[tuple[Settings, ...]] = ContextVar("hyperfunc_settings", default=())


@dataclass(frozen=True)
class Settings:
    """How programs are run. ``None`` means: not said here, ask the next level.

    Attributes:
        execution: how a population is run; ``"auto"`` lifts where that is proven right and gathers elsewhere.
        engine: the registered engine that runs blocks of members, in place of the ways above (default: none).
        workers: threads that run blocks of members, each with one intra-op thread (default: the machine's cores).
        max_batch_size: most (member, example) pairs in flight, kept by whole blocks; in gathered runs, most calls of
            one kernel (default: no limit).
        memory_bytes: most bytes of stacked inputs in flight, kept by whole blocks; in gathered runs, of one kernel's
            copies (default: no limit).
        window: most gathered tasks alive at once (default 4096).
        gather_wait_s: seconds a gathered kernel waits for more calls while tasks sleep or do I/O (default 0.002).
        concurrency: most runs in flight at once in ``system.batch`` (default 64).
        device: where ``local_gpu`` components run (default: CUDA if there, else CPU).
        dtype: dtype of ``local_gpu`` components' tensors (default: as in θ).
        timeout_s: seconds per call, for hyperfunctions that declare none (default: no limit).
        retries: repeats of a failed call, for hyperfunctions that declare none (default 0).
        progress: show a progress bar (default: only on a terminal).
    """

    execution: Execution | None = None
    engine: str | None = None
    workers: int | None = None
    max_batch_size: int | None = None
    memory_bytes: int | None = None
    window: int | None = None
    gather_wait_s: float | None = None
    concurrency: int | None = None
    device: str | torch.device | None = None
    dtype: torch.dtype | None = None
    timeout_s: float | None = None
    retries: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.execution not in (None, "auto", "lifted", "gathered", "sequential"):
            raise ConfigurationError(
                f"execution: expected 'auto', 'lifted', 'gathered' or 'sequential', got {self.execution!r}"
            )
        if self.engine is not None and (not isinstance(self.engine, str) or not self.engine):
            raise ConfigurationError(f"engine: expected the name of a registered engine, got {self.engine!r}")
        for name in ("workers", "max_batch_size", "memory_bytes", "window", "concurrency"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigurationError(f"{name}: expected a whole number >= 1, got {value!r}")
        for name, kinds, what in (
            ("gather_wait_s", (int, float), "seconds >= 0"),
            ("timeout_s", (int, float), "seconds >= 0"),
            ("retries", int, "a whole number >= 0"),
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) or not value >= 0):
                raise ConfigurationError(f"{name}: expected {what}, got {value!r}")

    def over(self, other: Settings) -> Settings:
        """This one's fields where said, else ``other``'s."""
        said = {name: value for name, value in vars(self).items() if value is not None}
        if not said:
            return other
        return Settings(**{**vars(other), **said})

    def __enter__(self) -> Settings:
        _tokens.set((*_tokens.get(), _stack.set((*_stack.get(), self))))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        *rest, token = _tokens.get()
        _stack.reset(token)
        _tokens.set(tuple(rest))

    async def __aenter__(self) -> Settings:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


_tokens: ContextVar[tuple[Token[tuple[Settings, ...]], ...]] = ContextVar("hyperfunc_settings_tokens", default=())


def context_stack() -> tuple[Settings, ...]:
    """The ``with Settings(...)`` blocks around the caller, outermost first; the same object until one is entered."""
    return _stack.get()


def context_settings() -> Settings:
    """What the ``with Settings(...)`` blocks around the caller say, the innermost winning."""
    merged = Settings()
    for level in _stack.get():
        merged = level.over(merged)
    return merged


def resolve_settings(call: Settings | None = None, bound: Settings | None = None) -> Settings:
    """Every field filled: call > bound > context > default. Fields without a default stay ``None``."""
    default = Settings(
        execution="auto", workers=os.cpu_count() or 1, window=4096, gather_wait_s=0.002, concurrency=64, retries=0
    )
    return (call or Settings()).over(bound or Settings()).over(context_settings()).over(default)
