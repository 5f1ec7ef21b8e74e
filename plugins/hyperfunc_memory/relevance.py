"""How relevant a memory is: text match × importance × recency, under weights that can be optimized.

    relevance = text^a · importance^b · recency^c

with, each in (0, 1]:

- ``text``: the backend's text score (BM25, ts_rank) divided by the best score among the candidates; with an embedder
  the cosine similarity, if that is larger;
- ``importance``: the entry's importance, at least 0.01, so that no weight can make an entry unreachable;
- ``recency``: ½^(age / half-life), at least 0.01, the age counted from ``created_at``.

A weight of 0 switches its factor off; the product is a weighted geometric mean, so only the ratios of ``a``, ``b`` and
``c`` change an order. Last access is no factor: what was retrieved once would be retrieved ever more often.
Knows nothing of databases, and imports torch only where a tensor is made: a memory opens in a tenth of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from hyperfunc.errors import ShapeError
from hyperfunc_memory.backend import Match
from hyperfunc_memory.entries import MemoryEntry
from hyperfunc_memory.errors import MemoryInputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["RetrievalWeights", "ranked", "relevance"]

_FLOOR = 0.01
_SECONDS_PER_DAY = 86_400.0
_LOWER = (0.0, 0.0, 0.0, math.log(1.0 / 24.0))
_UPPER = (4.0, 4.0, 4.0, math.log(3650.0))


@dataclass(frozen=True, slots=True)
class RetrievalWeights:
    """The weights of relevance: a ``hp_type`` for hyperfunctions, and an argument of :meth:`Memory.retrieve`.

    Attributes:
        text: exponent of the text match, 0 to 4.
        importance: exponent of the importance, 0 to 4.
        recency: exponent of the recency, 0 to 4.
        half_life_days: age at which recency is ½, in days, 1/24 to 3650.

    Raises:
        MemoryInputError: a value is not finite or out of range.
    """

    text: float = 1.0
    importance: float = 0.5
    recency: float = 0.25
    half_life_days: float = 30.0

    def __post_init__(self) -> None:
        ranges = ((0.0, 4.0), (0.0, 4.0), (0.0, 4.0), (1.0 / 24.0, 3650.0))
        for name, value, (low, high) in zip(self.__slots__, astuple(self), ranges, strict=True):
            if not (math.isfinite(value) and low * (1 - 1e-5) <= value <= high * (1 + 1e-5)):
                raise MemoryInputError(f"{name} must lie between {low:g} and {high:g}, got {value}")

    @classmethod
    def shape(cls) -> tuple[int, ...]:
        """``(4,)``: text, importance, recency, natural logarithm of the half-life in days."""
        return (4,)

    @classmethod
    def dim(cls) -> int:
        """4."""
        return 4

    @classmethod
    def noise_rank(cls) -> int | None:
        """``None``: a vector has no low-rank noise."""
        return None

    @classmethod
    def bounds(cls) -> tuple[Tensor, Tensor]:
        """Lowest and highest values, each of shape ``(4,)``."""
        import torch

        return torch.tensor(_LOWER), torch.tensor(_UPPER)

    @classmethod
    def default_init(cls) -> Tensor:
        """The defaults, shape ``(4,)``."""
        return cls().to_tensor()

    def to_tensor(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Shape ``(4,)``, float32 by default; the half-life as its logarithm, so that one step size suits all four."""
        import torch

        values = (self.text, self.importance, self.recency, math.log(self.half_life_days))
        return torch.tensor(values, device=device, dtype=dtype or torch.float32)

    @classmethod
    def from_tensor(cls, t: Tensor) -> RetrievalWeights:
        """The inverse of :meth:`to_tensor`; values out of bounds (NaN too) are moved to the nearest bound.

        Raises:
            ShapeError: ``t`` has another shape than ``(4,)``.
        """
        import torch

        if t.shape != (4,):
            raise ShapeError(f"RetrievalWeights needs a tensor of shape (4,), got {tuple(t.shape)}")
        lower, upper = cls.bounds()
        flat = t.detach().to("cpu", torch.float64)
        flat = torch.where(torch.isnan(flat), lower.double(), flat)
        text, importance, recency, log_half_life = torch.clamp(flat, lower.double(), upper.double()).tolist()
        return cls(text, importance, recency, math.exp(log_half_life))


def relevance(entry: MemoryEntry, text: float, weights: RetrievalWeights, now: float) -> float:
    """The relevance of ``entry``, in (0, 1].

    Args:
        text: the normalised text score, 0 to 1.
        now: seconds since the epoch. What lies in the future is as recent as can be.
    """
    age_days = max(0.0, now - entry.created_at) / _SECONDS_PER_DAY
    recency = max(0.5 ** (age_days / weights.half_life_days), _FLOOR)
    importance = max(entry.importance, _FLOOR)
    product: float = max(text, 1e-9) ** weights.text * importance**weights.importance * recency**weights.recency
    return product


def ranked(
    matches: Sequence[Match],
    weights: RetrievalWeights,
    now: float,
    limit: int,
    neighbours: Sequence[Match] = (),
) -> list[MemoryEntry]:
    """The ``limit`` most relevant entries, best first; equals in the order newest first.

    Args:
        matches: found by their words; scores of any scale.
        neighbours: found by their meaning; scores are cosine similarities. An entry may be in both.
    """
    best = max((match.text_score for match in matches), default=0.0)
    found = {match.entry.id: (match.text_score / best if best > 0 else 1.0, match.entry) for match in matches}
    for match in neighbours:
        text, entry = found.get(match.entry.id, (0.0, match.entry))
        found[match.entry.id] = (max(text, min(match.text_score, 1.0)), entry)
    scored = [(relevance(entry, text, weights, now), entry) for text, entry in found.values()]
    scored.sort(key=lambda pair: (-pair[0], -(pair[1].id or 0)))
    return [entry for _, entry in scored[:limit]]
