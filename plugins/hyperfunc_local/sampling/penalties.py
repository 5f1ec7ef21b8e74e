"""Two logits processors that OpenAI's API knows: presence and frequency penalties, and a bias per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyperfunc_local.errors import SamplingError

__all__ = ["LogitBias", "OccurrencePenalty"]


class OccurrencePenalty:
    """Lower the logits of tokens that the answer already holds.

    Args:
        presence: subtracted once, -2 to 2.
        frequency: subtracted for each occurrence, -2 to 2.
    """

    def __init__(self, presence: float = 0.0, frequency: float = 0.0) -> None:
        for name, value in (("presence_penalty", presence), ("frequency_penalty", frequency)):
            if not -2 <= value <= 2:
                raise SamplingError(f"{name}: expected a number from -2 to 2, got {value!r}")
        self._presence = presence
        self._frequency = frequency

    def __call__(self, answer: Sequence[int], logits: Tensor) -> Tensor:
        if not answer:
            return logits
        tokens, counts = torch.unique(torch.tensor(answer, device=logits.device), return_counts=True)
        logits[tokens] -= self._presence + self._frequency * counts.to(logits)
        return logits


class LogitBias:
    """Add a number from -100 to 100 to the logits of some tokens."""

    def __init__(self, bias: Mapping[int, float], size: int) -> None:
        for token, value in bias.items():
            if not 0 <= token < size:
                raise SamplingError(f"logit_bias: token {token} is not in this vocabulary of {size}")
            if not -100 <= value <= 100:
                raise SamplingError(f"logit_bias: expected numbers from -100 to 100, got {value!r}")
        self._tokens = torch.tensor(list(bias), dtype=torch.int64)
        self._values = torch.tensor(list(bias.values()))

    def __call__(self, answer: Sequence[int], logits: Tensor) -> Tensor:
        return logits.index_add_(0, self._tokens.to(logits.device), self._values.to(logits))
