"""Which examples a generation is run on: all, or a minibatch of an epoch's shuffle, of fixed or of learned size.

Knows nothing of programs, members or strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperfunc.population.noise import generator_for
from hyperfunc.scheduling.minibatch_size import AdaptiveMinibatch, MinibatchSize

__all__ = ["Minibatches"]


class Minibatches:
    """The examples of one generation after the other.

    Args:
        count: how many examples there are.
        size: examples per generation, at most where the size adapts; ``None`` takes all.
        adaptive: how the size follows the noise; ``None``: not at all.
        seed: of the shuffles.
    """

    def __init__(self, count: int, size: int | None, adaptive: AdaptiveMinibatch | None = None, *, seed: int) -> None:
        self._count = count
        self._fixed = count if size is None else min(size, count)
        self._size = None if adaptive is None else MinibatchSize(adaptive, self._fixed)
        self._seed = seed
        self._epoch, self._position = 0, 0

    def positions(self, index: int) -> list[int]:
        """The positions of generation ``index``'s examples, the same for every member."""
        if self._size is not None:
            start = self._position
            return self._order(self._epoch)[start : start + self._size.size]
        if self._fixed == self._count:
            return list(range(self._count))
        epoch, position = divmod(index, self._count // self._fixed)
        return self._order(epoch)[position * self._fixed : (position + 1) * self._fixed]

    @property
    def learns(self) -> bool:
        """Whether :meth:`observe` wants to see scores."""
        return self._size is not None

    def observe(self, scores: Tensor, twins: Tensor | None) -> None:
        """Generation done: learn from its scores (``[P, E]``) how many examples the next one takes, and move on."""
        if self._size is None:
            return
        self._position += self._size.size
        self._size.observe(scores, twins)
        if self._position + self._size.size > self._count:  # what is left of the epoch is too little
            self._epoch, self._position = self._epoch + 1, 0

    def to_json(self) -> dict[str, Any] | None:
        """What the next minibatches depend on beside the generation's number; ``None`` where that is nothing."""
        if self._size is None:
            return None
        return {"epoch": self._epoch, "position": self._position, "size": self._size.to_json()}

    def restore(self, data: Mapping[str, Any] | None) -> None:
        """Go on from :meth:`to_json`."""
        if self._size is not None and data is not None:
            self._epoch, self._position = int(data["epoch"]), int(data["position"])
            self._size.restore(data["size"])

    def _order(self, epoch: int) -> list[int]:
        order: list[int] = torch.randperm(self._count, generator=generator_for(self._seed, "minibatch", epoch)).tolist()
        return order
