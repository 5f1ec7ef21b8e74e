"""Decoding parameters of a language model as a bounded parameter type. Knows nothing of any provider's client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["LMParam"]


@dataclass
class LMParam:
    """Sampling settings of a language model.

    The tensor form has shape ``[5]``: temperature in [0, 2], top_p in [0.01, 1], presence_penalty and
    frequency_penalty in [-2, 2], max_tokens_frac in [0.01, 1] (a fraction of the model's output limit). ``max_tokens``,
    ``stop`` and ``seed`` are passed on as they are and are not searched.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens_frac: float = 0.25
    max_tokens: int | None = None
    stop: list[str] | None = None
    seed: int | None = None

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
        return [0.0, 0.01, -2.0, -2.0, 0.01], [2.0, 1.0, 2.0, 2.0, 1.0]

    @classmethod
    def default_init(cls) -> Tensor:
        return cls().to_tensor()

    def to_tensor(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        values = [self.temperature, self.top_p, self.presence_penalty, self.frequency_penalty, self.max_tokens_frac]
        return torch.tensor(values, dtype=dtype, device=device)

    @classmethod
    def from_tensor(cls, t: Tensor) -> LMParam:
        """Plain floats, clamped to the bounds, rounded to 4 digits (0.7000000179 would miss a provider's cache)."""
        low, high = cls.bounds()
        values = [round(min(max(v, lo), hi), 4) for v, lo, hi in zip(t.tolist(), low, high, strict=True)]
        return cls(*values)

    def to_litellm_kwargs(self, model_max_tokens: int = 4096) -> dict[str, Any]:
        """Keyword arguments in the OpenAI vocabulary that litellm takes; neutral values are left out."""
        kwargs: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens or max(1, round(self.max_tokens_frac * model_max_tokens)),
        }
        if self.presence_penalty:
            kwargs["presence_penalty"] = self.presence_penalty
        if self.frequency_penalty:
            kwargs["frequency_penalty"] = self.frequency_penalty
        if self.stop:
            kwargs["stop"] = list(self.stop)
        if self.seed is not None:
            kwargs["seed"] = self.seed
        return kwargs
