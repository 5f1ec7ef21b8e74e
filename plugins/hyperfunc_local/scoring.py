"""Log-probabilities of given continuations, for all members at once. Knows nothing of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError
from hyperfunc_local.models.causal import CausalModel
from hyperfunc_local.models.weights import BoundWeights

__all__ = ["Score", "score"]


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probabilities in nats.

    Attributes:
        total: ``[P, B]``, of the whole continuation, float32.
        tokens: ``[P, B, longest]``, of each of its tokens; 0 beyond its end.
        greedy: ``[P, B]``, whether every token was the most likely one.
    """

    total: Tensor
    tokens: Tensor
    greedy: Tensor


def score(
    model: CausalModel,
    weights: BoundWeights,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    max_rows: int = 256,
) -> Score:
    """Score continuation ``i`` after prompt ``i`` under every member.

    Args:
        max_rows: most rows (members x prompts) in one pass.

    Raises:
        ConfigurationError: a prompt or continuation without tokens.
    """
    for what, texts in (("prompt", prompts), ("continuation", continuations)):
        if any(len(ids) == 0 for ids in texts):
            raise ConfigurationError(f"{what}s to be scored need at least one token")
    longest = max((len(c) for c in continuations), default=0)
    count = len(prompts)
    device = weights.device
    tokens = torch.zeros(weights.size, count, longest, device=device)
    greedy = torch.ones(weights.size, count, dtype=torch.bool, device=device)
    at_once = max(1, max_rows // weights.size)
    for begin in range(0, count, at_once):
        part = range(begin, min(count, begin + at_once))
        lengths = [len(prompts[i]) + len(continuations[i]) for i in part]
        # Padded on the right: causal attention keeps the padding out of everything that is read.
        ids = torch.zeros(len(part), max(lengths), dtype=torch.int64)
        for row, i in enumerate(part):
            ids[row, : lengths[row]] = torch.tensor([*prompts[i], *continuations[i]])
        ids = ids.to(device)
        rows = torch.tensor([row for row, i in enumerate(part) for _ in continuations[i]], device=device)
        steps = torch.tensor([s for i in part for s in range(len(continuations[i]))], device=device)
        starts = torch.tensor([len(prompts[i]) for i in part], device=device)
        places = starts[rows] + steps
        shared = ids.expand(weights.size, -1, -1)
        logits = model.logits_at(weights, shared, rows, places - 1).float()  # [P, scored tokens, V]
        wanted = ids[rows, places].expand(weights.size, -1).unsqueeze(-1)
        chosen = logits.gather(-1, wanted).squeeze(-1)
        tokens[:, begin + rows, steps] = chosen - logits.logsumexp(-1)
        right = (chosen >= logits.amax(-1)).to(torch.int32)
        wrong = torch.zeros(weights.size, len(part), dtype=torch.int32, device=device)
        wrong.index_add_(1, rows, 1 - right)
        greedy[:, part.start : part.stop] = wrong == 0
    return Score(tokens.sum(-1), tokens, greedy)
