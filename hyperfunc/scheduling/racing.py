"""Racing: members whose place in their generation is decided stop before all its examples are run.

A generation is run in rungs, say a quarter, a half and all of its examples; all members see the same ones (common
random numbers). After a rung each member has a mean fᵢ over the n examples so far and a standard error of the mean that
all N examples will give, from its *residuals* against the population, example by example, which a hard example that is
hard for everybody leaves alone:

    rᵢₑ = sᵢₑ - mean over members of sₑ,        seᵢ² = var over e of rᵢₑ · (1/n - 1/N)

A member is *decided* once the members within ``± deviations · seᵢ`` of it, those it may still change places with, are
at most ``tolerance`` of the population. A decided member stops, twins only together. Its fitness is
``vᵢ = fᵢ + c``: what it had, plus the mean change c that the still undecided members saw on the later examples (a
control variate: it takes the difficulty of the later examples out).

What is unbiased, and what is not:

- ``vᵢ`` is not: who is decided early was lucky or unlucky in its first examples, so extreme members stay a little more
  extreme than all examples would leave them. Their order, which ranks are made of, suffers least.
- With ``survival=p > 0`` every decided pair is run to the end with probability p, by a lottery drawn from the seed and
  the generation, and then counts ``vᵢ + (fᵢ - vᵢ)/p`` with fᵢ over all examples. No decision and no c looks at the
  lottery or at what a decided pair did later, so the expectation over the lottery is exactly fᵢ, the fitness over all
  of the generation's examples, and every estimate linear in fitness (``shaping="raw"``) is exactly that of the
  generation run in full. It is bought with variance, ``(1/p - 1)(fᵢ - vᵢ)²``. Ranks and z-scores are not linear in
  fitness, so that no correction of fitness makes them unbiased; there ``survival=0``, the default, does better.

The idea of stopping by confidence is that of Hoeffding races (Maron and Moore 1994) and F-race (Birattari et al. 2002);
the correction is that of Horvitz and Thompson (1952). Knows nothing of programs, strategies and budgets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError, ShapeError
from hyperfunc.population.noise import generator_for

__all__ = ["Race", "Racing"]


@dataclass(frozen=True, kw_only=True)
class Racing:
    """When members stop.

    Args:
        rungs: shares of a generation's examples after which members may stop; rising, above 0 and below 1.
        deviations: half the width of a member's interval, in standard errors.
        tolerance: the share of the population that a decided member may still change places with, from 0 to 1.
        survival: probability with which a decided pair is run to the end all the same and corrects the bias; 0 to 1.
            0 leaves the (small) bias, 1 saves nothing.

    Raises:
        ConfigurationError: a number out of range, or rungs that do not rise.
    """

    rungs: tuple[float, ...] = (0.25, 0.5)
    deviations: float = 1.0
    tolerance: float = 0.35
    survival: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", tuple(self.rungs))
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or not 0 < self.rungs[0] <= self.rungs[-1] < 1:
            raise ConfigurationError(f"rungs: expected rising shares above 0 and below 1, got {self.rungs}")
        if not (self.deviations >= 0 and math.isfinite(self.deviations)):
            raise ConfigurationError(f"deviations: expected 0 or more standard errors, got {self.deviations}")
        for name in ("tolerance", "survival"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")

    def parts(self, examples: int) -> list[range]:
        """The positions of a generation's ``examples`` that each rung adds; no rung ends below four examples."""
        ends = sorted({n for n in (round(share * examples) for share in self.rungs) if 4 <= n < examples})
        return [range(start, end) for start, end in zip([0, *ends], [*ends, examples], strict=True)]


class Race:
    """One generation's race: give it the scores of each rung, and it says who goes on.

    Args:
        racing: when members stop.
        weights: ``[E]``, the examples' weights in a fitness, in the order in which they are run.
        members: P.
        twins: ``[P]`` int64, the index of each member's twin; ``None`` where members stand alone.
        lottery: what the survivors' lottery is drawn from, such as (seed, generation).
    """

    def __init__(
        self,
        racing: Racing,
        weights: Tensor,
        members: int,
        twins: Tensor | None = None,
        *,
        lottery: Sequence[int | str] = (),
    ) -> None:
        self._racing = racing
        self._weights = weights.to(torch.float64)
        self._pair = torch.arange(members) if twins is None else twins
        self._scores = torch.full((members, len(weights)), math.nan, dtype=torch.float64)
        self._seen = 0
        self._failed = torch.zeros(members, dtype=torch.bool)
        self._undecided = torch.ones(members, dtype=torch.bool)
        self._values = torch.full((members,), math.nan, dtype=torch.float64)
        draws = torch.rand(members, generator=generator_for("racing", *lottery), dtype=torch.float64)
        first_of_pair = torch.minimum(self._pair, torch.arange(members))
        self._survives = draws[first_of_pair] < racing.survival

    @property
    def running(self) -> Tensor:
        """``[P]`` bool: who is run on the next rung's examples."""
        return (self._undecided | self._survives) & ~self._failed

    def record(self, scores: Tensor) -> None:
        """Take the scores of the running members on the next rung's examples, and decide who stops.

        Args:
            scores: ``[R, n]``, a row per running member, in member order. NaN is an example that was not scored; a row
                of nothing else, or an infinite score, is a failed member, whose twin stops with it.

        Raises:
            ShapeError: not one row per running member, or more examples than there are.
        """
        running = self.running.nonzero().squeeze(1)
        end = self._seen + scores.shape[1]
        if scores.shape[0] != len(running) or end > len(self._weights):
            raise ShapeError(
                f"scores: expected {len(running)} running members on at most {len(self._weights) - self._seen} more "
                f"examples, got {list(scores.shape)}"
            )
        self._scores[running, self._seen : end] = scores.to(torch.float64)
        before, self._seen = self._seen, end
        failed = torch.zeros_like(self._failed)
        failed[running] = ~torch.isfinite(self._means(running, before, end))
        self._failed |= failed | failed[self._pair]
        undecided = (self._undecided & ~self._failed).nonzero().squeeze(1)
        if before and len(undecided):
            shift = self._means(undecided, 0, end) - self._means(undecided, 0, before)
            self._values[~self._undecided] += shift.mean()
        self._values[undecided] = self._means(undecided, 0, end)
        self._values[failed] = math.nan
        if end < len(self._weights) and len(undecided):
            self._decide(undecided)

    def fitness(self) -> Tensor:
        """``[P]`` float64: over all examples where a member was run on them, estimated where it stopped; NaN where it
        failed."""
        values = self._values.clone()
        corrected = (self._survives & ~self._undecided & ~self._failed).nonzero().squeeze(1)
        if len(corrected) and self._seen == len(self._weights):
            full = self._means(corrected, 0, self._seen)
            values[corrected] += (full - values[corrected]) / self._racing.survival
        return values

    @property
    def scores(self) -> Tensor:
        """``[P, E]`` float64, NaN where a member was not run."""
        return self._scores

    def _decide(self, undecided: Tensor) -> None:
        error = self._standard_errors(undecided)
        value = self._values[undecided]
        ladder = self._values[torch.isfinite(self._values)].sort().values
        reach = self._racing.deviations * error
        others = (
            torch.searchsorted(ladder, value + reach, right=True) - torch.searchsorted(ladder, value - reach) - 1
        )  # a member is within reach of itself
        decided = torch.zeros_like(self._undecided)
        decided[undecided] = others <= self._racing.tolerance * len(ladder)
        self._undecided &= ~(decided & decided[self._pair])

    def _means(self, members: Tensor, start: int, end: int) -> Tensor:
        """``[R]`` weighted means over the examples that were scored; NaN where none was."""
        scores = self._scores[members, start:end]
        weights = torch.where(scores.isnan(), 0.0, self._weights[start:end])
        products = torch.where(weights > 0, scores * weights, 0.0)  # what has no weight may be infinite
        return products.sum(1) / weights.sum(1)

    def _standard_errors(self, members: Tensor) -> Tensor:
        """``[R]``: of each member's mean over all examples relative to the population's, seen from those so far."""
        scores = self._scores[members, : self._seen]
        counted = ~scores.isnan() & (self._weights[: self._seen] > 0)
        residuals = torch.where(counted, scores - scores.nanmean(0), math.nan)
        count = counted.sum(1)
        centered = residuals - residuals.nanmean(1, keepdim=True)
        variance = centered.square().nansum(1) / (count - 1).clamp(min=1)
        return (variance * (1 / count - 1 / (count * len(self._weights) / self._seen)).clamp(min=0)).sqrt()
