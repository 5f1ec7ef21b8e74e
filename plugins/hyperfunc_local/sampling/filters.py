"""Filters of logits, each for many rows with a setting per row. Composable: each takes and gives logits ``[N, V]``.

Dropped tokens have a logit of minus infinity. Knows nothing of models or requests.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw", "keep_likely", "keep_top_k", "keep_top_p", "penalise_repetition", "warm"]


def penalise_repetition(
    logits: Tensor,
    seen: Tensor,  # [N, V] bool: tokens that occur in the row's text
    penalty: Tensor,  # [N]
) -> Tensor:
    """Divide the logits of seen tokens by ``penalty``, multiply where negative (CTRL, arXiv:1909.05858)."""
    factor = penalty.unsqueeze(1)
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def warm(logits: Tensor, temperature: Tensor) -> Tensor:
    """Divide by ``temperature`` ``[N]``; rows at 0 keep their logits (they take the largest)."""
    return logits / torch.where(temperature > 0, temperature, 1.0).unsqueeze(1)


def keep_top_k(logits: Tensor, k: Tensor) -> Tensor:
    """Keep the ``k`` ``[N]`` largest of each row, and those equal to the smallest kept; 0 keeps all."""
    size = logits.shape[1]
    largest = int(k.max())
    if largest == 0:
        return logits
    ranked = logits.topk(min(largest, size), dim=-1).values
    threshold = ranked.gather(1, (k.clamp(1, ranked.shape[1]) - 1).unsqueeze(1))
    return torch.where((logits >= threshold) | (k == 0).unsqueeze(1), logits, -torch.inf)


def keep_top_p(logits: Tensor, p: Tensor) -> Tensor:
    """Keep the smallest set of most likely tokens with probability of at least ``p`` ``[N]`` (arXiv:1904.09751)."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    kept = before < p.unsqueeze(1)
    kept[:, 0] = True
    return torch.where(torch.zeros_like(kept).scatter_(1, order, kept), logits, -torch.inf)


def keep_likely(logits: Tensor, minimum: Tensor) -> Tensor:
    """Keep tokens at least ``minimum`` ``[N]`` times as likely as the most likely one (min-p, arXiv:2407.01082)."""
    threshold = logits.amax(-1, keepdim=True) + minimum.log().unsqueeze(1)
    return torch.where(logits >= threshold, logits, -torch.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token for each row by inverting its distribution at ``uniform`` ``[N]`` in [0, 1): ``[N]`` ids.

    A function of its arguments, so that a row's draw does not depend on the rows beside it.
    """
    cumulative = logits.softmax(-1).double().cumsum(-1)
    target = uniform.to(cumulative).unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)
