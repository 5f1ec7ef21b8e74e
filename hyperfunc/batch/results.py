"""What a batch gives: one result per accepted input, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from hyperfunc.errors import ExecutionError, HyperfuncError
from hyperfunc.usage import Usage

__all__ = ["BatchResult", "BatchStoppedError", "FatalError", "Termination"]

T = TypeVar("T")
R = TypeVar("R")


class FatalError(HyperfuncError):
    """No other input can succeed either (a dead key, an empty account): a batch stops at the first one."""


class BatchStoppedError(ExecutionError):
    """An accepted input that was not run, or was cancelled, because its batch stopped."""


@dataclass(frozen=True, slots=True)
class Termination:
    """Why a batch ended.

    Attributes:
        kind: ``completed``: all inputs ran; ``fatal``: an error stopped it; ``deadline``; ``shutdown``; ``abandoned``:
            the reader left early.
        error: what stopped it, if an error did.
    """

    kind: Literal["completed", "fatal", "deadline", "shutdown", "abandoned"]
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[T, R]):
    """One input's result.

    Attributes:
        index: position of the input, from 0.
        input: the input.
        output: what the function returned; ``None`` when it failed.
        error: what it raised.
        usage: what it used, failed attempts included; of a replayed one, what it used when it ran.
        seconds: how long it ran; 0 for a replayed one.
        replayed: taken from the artifacts of an earlier run: nothing was paid now.
    """

    index: int
    input: T
    output: R | None = None
    error: Exception | None = None
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    replayed: bool = False

    @property
    def ok(self) -> bool:
        return self.error is None

    def unwrap(self) -> Any:
        """The output; raises the error of a failed one."""
        if self.error is not None:
            raise self.error
        return self.output
