"""Examples per generation that follow the noise: few while members differ clearly, more as they become alike.

Twins are compared on the same examples: dᵢₑ is what member i has over its twin on example e (where members stand alone:
over the population's mean). The mean over n examples is signal plus noise of variance σ²/n:

    σ² = mean over pairs of the variance over examples of dᵢₑ,        τ² = mean over pairs of d̄ᵢ² - σ²/n

``B = σ²/τ²`` is the *noise scale*: the number of examples at which noise and signal are equal. Since the estimated
direction is a sum of nearly orthogonal draws weighted by d̄ᵢ, the ratio of noise to signal in it is that of its weights,
``√(B/n)``; holding that at or below ``noise`` is the norm test of adaptive-batch SGD (Byrd et al. 2012), and B is what
McCandlish et al. (2018, arXiv:1812.06162) measure for gradients. So the next generation takes ``n = B / noise²``
examples, within limits. σ² and τ² are averaged over past generations before they are divided: a ratio of averages has
less bias than an average of ratios, and τ² of one generation may even be negative.

Everything follows from the scores, so that a run that is resumed chooses the same sizes. Knows nothing of programs,
strategies or which examples are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError

__all__ = ["AdaptiveMinibatch", "MinibatchSize"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveMinibatch:
    """How the number of examples per generation follows the noise.

    Args:
        noise: the greatest ratio of noise to signal in the direction of a generation, above 0; smaller means more
            examples.
        smallest: the least number of examples, at least 2.
        growth: the greatest factor, up or down, from one generation to the next; above 1.
        memory: weight of the past in the averages of σ² and τ², from 0 to below 1.

    The first generation takes the smallest number; ``minibatch`` of ``optimize`` is the greatest, or all there are.

    Raises:
        ConfigurationError: a number out of range.
    """

    noise: float = 1.5
    smallest: int = 16
    growth: float = 2.0
    memory: float = 0.8

    def __post_init__(self) -> None:
        if not (self.noise > 0 and math.isfinite(self.noise)):
            raise ConfigurationError(f"noise: expected a ratio above 0, got {self.noise}")
        if self.smallest < 2:
            raise ConfigurationError(f"smallest: expected at least 2 examples, got {self.smallest}")
        if not self.growth > 1:
            raise ConfigurationError(f"growth: expected a factor above 1, got {self.growth}")
        if not 0 <= self.memory < 1:
            raise ConfigurationError(f"memory: expected from 0 to below 1, got {self.memory}")


class MinibatchSize:
    """The size of the next generation's minibatch, from what was seen so far.

    Args:
        adaptive: how it follows the noise.
        largest: the greatest size.

    Attributes:
        size: examples of the next generation.
    """

    def __init__(self, adaptive: AdaptiveMinibatch, largest: int) -> None:
        self._adaptive = adaptive
        self._largest = largest
        self._smallest = min(adaptive.smallest, largest)
        self._noise = 0.0  # running averages of σ² and τ²
        self._signal = 0.0
        self.size = self._smallest

    @property
    def noise_scale(self) -> float:
        """B, the examples at which noise and signal are equal; infinite where no signal was seen."""
        return self._noise / self._signal if self._signal > 0 else math.inf

    def observe(self, scores: Tensor, twins: Tensor | None) -> None:
        """Learn from one generation.

        Args:
            scores: ``[P, E]``; examples and members with scores that are not finite are left out (of a race, the
                examples count that everybody was run on).
            twins: ``[P]`` int64, the index of each member's twin; ``None`` where members stand alone.
        """
        differences = _differences(scores.to(torch.float64), twins)
        pairs, count = differences.shape
        if pairs < 2 or count < 2:
            return
        noise = float(differences.var(1).mean())
        signal = float(differences.mean(1).square().mean()) - noise / count
        past = self._adaptive.memory if self._noise or self._signal else 0.0
        self._noise = past * self._noise + (1 - past) * noise
        self._signal = past * self._signal + (1 - past) * signal
        if self._noise == 0.0:
            return  # members are constant over examples, or nobody differs: nothing says that more would help
        wanted = self.noise_scale / self._adaptive.noise**2
        growth = self._adaptive.growth
        self.size = self._within(math.ceil(min(max(wanted, self.size / growth), self.size * growth)))

    def to_json(self) -> dict[str, Any]:
        """Everything that the next sizes depend on."""
        return {"size": self.size, "noise": self._noise, "signal": self._signal}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from :meth:`to_json`."""
        self.size, self._noise, self._signal = int(data["size"]), float(data["noise"]), float(data["signal"])

    def _within(self, size: int) -> int:
        return max(self._smallest, min(size, self._largest))


def _differences(scores: Tensor, twins: Tensor | None) -> Tensor:
    """``[pairs, E]``: each pair's difference, or each lone member's distance from the mean, where all is finite."""
    finite = torch.isfinite(scores)
    alive = finite.any(1)
    if twins is not None:
        alive &= alive[twins]
    examples = finite[alive].all(0)
    kept = scores[:, examples]
    if twins is None:
        alone = kept[alive]
        return alone - alone.mean(0)
    first = alive & (torch.arange(len(twins)) < twins)
    return kept[first] - kept[twins[first]]
