"""Decoding parameters: what a request may set, a bounded tensor form so that ES can tune them, and who set what.

Knows nothing of logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hyperfunc_local.errors import SamplingError

__all__ = ["DecodingParameters", "ResolvedDecoding", "Source", "resolve"]

Source = Literal["request", "model", "default"]


@dataclass(frozen=True, slots=True)
class DecodingParameters:
    """How tokens are chosen and when to stop. An ``hp_type``: :meth:`to_tensor` has shape ``[5]``.

    Attributes:
        temperature: 0 to 2; 0 takes the most likely token.
        top_k: keep this many of the most likely tokens; 0 keeps all.
        top_p: 0 to 1; keep the smallest set of most likely tokens that together have this probability.
        min_p: 0 to 1; keep tokens at least this likely in relation to the most likely one.
        repetition_penalty: 0.1 to 10; logits of tokens that occur in prompt or answer are divided by it (multiplied,
            where negative). 1 changes nothing.
        max_tokens: most tokens of an answer.
        stop: strings that end an answer; they are not part of it.
        ignore_end: go on past the model's end token.

    Raises:
        SamplingError: a value is out of range.

    The filters apply in this order: repetition penalty, temperature, top-k, top-p, min-p.
    """

    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 0.9
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    ignore_end: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0.0, 2.0),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("repetition_penalty", 0.1, 10.0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise SamplingError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
        for name, least in (("top_k", 0), ("max_tokens", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 2**31 - 1:
                raise SamplingError(f"{name}: expected a whole number of at least {least}, got {value!r}")
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise SamplingError(f"stop: expected a tuple of strings that are not empty, got {self.stop!r}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    # The tensor form. top_k enters as a logarithm: 1 to 2 matters, 201 to 202 does not.

    @classmethod
    def shape(cls) -> tuple[int, ...]:
        return (5,)

    @classmethod
    def dim(cls) -> int:
        return 5

    @classmethod
    def noise_rank(cls) -> int | None:
        return None

    @classmethod
    def bounds(cls) -> tuple[list[float], list[float]]:
        """Temperature, log top_k, top_p, min_p, log repetition_penalty."""
        return [0.0, 0.0, 0.01, 0.0, math.log(0.5)], [2.0, math.log(1024), 1.0, 0.5, math.log(2.0)]

    @classmethod
    def default_init(cls) -> Tensor:
        return cls().to_tensor()

    def to_tensor(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """``[5]``, clamped to :meth:`bounds`; a top_k of 0 (all) is written as the largest one."""
        values = [
            self.temperature,
            math.log(self.top_k or 1024),
            self.top_p,
            self.min_p,
            math.log(self.repetition_penalty),
        ]
        low, high = self.bounds()
        clamped = [min(max(v, lo), hi) for v, lo, hi in zip(values, low, high, strict=True)]
        return torch.tensor(clamped, device=device, dtype=dtype)

    @classmethod
    def from_tensor(cls, t: Tensor) -> DecodingParameters:
        """From ``[5]`` (clamped to the bounds); lengths and stops are the defaults.

        Raises:
            SamplingError: another shape, or not finite.
        """
        values = t.detach().flatten().tolist()
        if len(values) != 5 or not all(math.isfinite(v) for v in values):
            raise SamplingError(f"expected 5 finite numbers, got {values}")
        low, high = cls.bounds()
        warm, log_k, top_p, min_p, log_penalty = (
            min(max(v, lo), hi) for v, lo, hi in zip(values, low, high, strict=True)
        )
        top_k = round(math.exp(log_k))
        return cls(
            temperature=round(warm, 4),
            top_k=0 if top_k >= 1024 else top_k,
            top_p=round(top_p, 4),
            min_p=round(min_p, 4),
            repetition_penalty=round(math.exp(log_penalty), 4),
        )


@dataclass(frozen=True, slots=True)
class ResolvedDecoding:
    """Decoding parameters, and for each field who set it."""

    values: DecodingParameters
    source: Mapping[str, Source]


def resolve(
    request: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    defaults: DecodingParameters | None = None,
) -> ResolvedDecoding:
    """Field by field: the request's value, else the model's own, else the default.

    ``None`` counts as not set; 0, 0.0, ``False`` and an empty ``stop`` count as set.

    Raises:
        SamplingError: an unknown field, or a value out of range (the message says whose).
    """
    values = defaults if defaults is not None else DecodingParameters()
    names = {f.name for f in fields(DecodingParameters)}
    source: dict[str, Source] = dict.fromkeys(sorted(names), "default")
    layers: tuple[tuple[Source, Mapping[str, Any] | None], ...] = (("model", model), ("request", request))
    for owner, given in layers:
        for name, value in (given or {}).items():
            if name not in names:
                raise SamplingError(f"{owner}: no decoding parameter {name!r}; known are {', '.join(sorted(names))}")
            if value is None:
                continue
            if name == "stop":
                value = (value,) if isinstance(value, str) else tuple(value)
            try:
                values = replace(values, **{name: value})
            except SamplingError as error:
                raise SamplingError(f"{owner}: {error}") from None
            source[name] = owner
    return ResolvedDecoding(values, source)
