"""One token for each of many rows, each under its own decoding parameters, generator and processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hyperfunc_local.sampling import filters
from hyperfunc_local.sampling.parameters import DecodingParameters

__all__ = ["LogitsProcessor", "SamplerRow", "sample"]

_DRAWN_AHEAD = 32


class LogitsProcessor(Protocol):
    """Changes the logits of one request before its token is chosen. One instance serves one request."""

    def __call__(
        self,
        answer: Sequence[int],  # tokens of the answer so far
        logits: Tensor,  # [V], float32; may be changed in place
    ) -> Tensor:
        """The new logits ``[V]``; minus infinity forbids a token. At least one must stay possible."""
        ...


class SamplerRow:
    """What the sampler needs to know of one row.

    Args:
        parameters: how to choose.
        prompt: tokens that the repetition penalty counts as seen.
        seed: of this row's own generator; equal seeds give equal draws, whatever else is in the batch.
        processors: applied in order, before the filters.
    """

    __slots__ = ("_ahead", "_generator", "answer", "parameters", "processors", "prompt")

    def __init__(
        self,
        parameters: DecodingParameters,
        prompt: Sequence[int] = (),
        seed: int = 0,
        processors: Sequence[LogitsProcessor] = (),
    ) -> None:
        self.parameters = parameters
        self.prompt = prompt
        self.answer: list[int] = []
        self.processors = tuple(processors)
        self._generator = None if parameters.greedy else torch.Generator().manual_seed(seed)
        self._ahead: list[float] = []

    def uniform(self) -> float:
        """The next draw from [0, 1); 0 for greedy rows, which need none."""
        if self._generator is None:
            return 0.0
        if not self._ahead:
            self._ahead = torch.rand(_DRAWN_AHEAD, generator=self._generator).tolist()[::-1]
        return self._ahead.pop()


def sample(logits: Tensor, rows: Sequence[SamplerRow]) -> Tensor:
    """Choose a token for each row.

    Args:
        logits: ``[N, V]``; not changed.

    Returns:
        ids ``[N]``, on the device of ``logits``.
    """
    plain = not any(row.processors or row.parameters.repetition_penalty != 1 for row in rows)
    if plain and all(row.parameters.greedy for row in rows):
        return logits.argmax(-1)
    logits = logits.float()
    if any(row.processors for row in rows):
        logits = _process(logits, rows)
    logits = _filter(logits, rows)
    if all(row.parameters.greedy for row in rows):
        return logits.argmax(-1)
    uniform = torch.tensor([row.uniform() for row in rows], dtype=torch.float64, device=logits.device)
    drawn = filters.draw(logits, uniform)
    greedy = torch.tensor([row.parameters.greedy for row in rows], device=logits.device)
    return torch.where(greedy, logits.argmax(-1), drawn)


def _process(logits: Tensor, rows: Sequence[SamplerRow]) -> Tensor:
    logits = logits.clone()
    for i, row in enumerate(rows):
        for processor in row.processors:
            logits[i] = processor(row.answer, logits[i])
    return logits


def _filter(logits: Tensor, rows: Sequence[SamplerRow]) -> Tensor:
    """Each filter runs only if some row asks for it."""
    every = [row.parameters for row in rows]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=logits.device)

    if any(p.repetition_penalty != 1 for p in every):
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for i, row in enumerate(rows):
            if row.parameters.repetition_penalty != 1:
                seen[i, torch.tensor([*row.prompt, *row.answer], dtype=torch.int64, device=logits.device)] = True
        logits = filters.penalise_repetition(logits, seen, column([p.repetition_penalty for p in every]))
    if any(not p.greedy for p in every):
        logits = filters.warm(logits, column([float(p.temperature) for p in every]))
        if any(p.top_k and not p.greedy for p in every):
            limits = [0 if p.greedy else p.top_k for p in every]
            logits = filters.keep_top_k(logits, torch.tensor(limits, device=logits.device))
        if any(p.top_p < 1 and not p.greedy for p in every):
            logits = filters.keep_top_p(logits, column([1.0 if p.greedy else float(p.top_p) for p in every]))
        if any(p.min_p > 0 and not p.greedy for p in every):
            logits = filters.keep_likely(logits, column([0.0 if p.greedy else float(p.min_p) for p in every]))
    return logits
