"""What a call used: tokens, money, seconds. Knows nothing of who counts it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources used by one call or by many; ``a + b`` adds them.

    Attributes:
        calls: requests sent (each attempt of a retried call counts).
        input_tokens: tokens read by the model, cached ones included.
        output_tokens: tokens written by the model, reasoning ones included.
        cached_tokens: the part of ``input_tokens`` that was served from a provider's cache.
        reasoning_tokens: the part of ``output_tokens`` that the caller never sees.
        usd: cost in US dollars.
        seconds: time spent in the calls, summed (not wall clock).
        evaluations: program runs, one per (member, example).
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    evaluations: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        # Spelled out: it runs for every attempt of every call, and reflection over the fields costs ten times as much.
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.usd + other.usd,
            self.seconds + other.seconds,
            self.evaluations + other.evaluations,
        )

    def __radd__(self, other: object) -> Usage:
        if other == 0:  # sum() starts at 0
            return self
        return NotImplemented

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Usage:
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in data.items() if k in known})
