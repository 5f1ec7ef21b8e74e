"""What an optimization will run and pay for, as an interval, before anything is spent.

The runs follow from the numbers alone (generations, members, examples). What one run pays for is declared, or measured
on as many examples as the caller allows. The interval is as wide as what is not known:

- at most, every run pays for all its calls, at the dearest run's usage;
- at least, where a call store is in use, each example is paid for once, since calls that perturbed tensors do not
  change are answered from the store; without a store every run pays, at the cheapest run's usage.

Knows nothing of prices: usage brings its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from hyperfunc.usage import Usage

__all__ = ["Forecast", "count_runs", "scaled", "spread"]


@dataclass(frozen=True)
class Forecast:
    """What an optimization will run and pay for, if it goes on for all its generations.

    Attributes:
        generations: how many.
        evaluations: (member, example) runs.
        low, high: what is paid for, at least and at most.
        source: where the usage of one run comes from.
        notes: what is not in these numbers.
    """

    generations: int
    evaluations: int
    low: Usage
    high: Usage
    source: str
    notes: tuple[str, ...] = ()

    @property
    def calls(self) -> tuple[int, int]:
        return self.low.calls, self.high.calls

    @property
    def tokens(self) -> tuple[int, int]:
        return self.low.total_tokens, self.high.total_tokens

    @property
    def usd(self) -> tuple[float, float]:
        return self.low.usd, self.high.usd

    def __str__(self) -> str:
        lines = [
            f"{self.generations} generations, {self.evaluations} runs",
            f"calls: {self.low.calls} to {self.high.calls}",
            f"tokens: {self.low.total_tokens} to {self.high.total_tokens}",
            f"USD: {self.low.usd:.4f} to {self.high.usd:.4f}",
            f"usage of one run: {self.source}",
        ]
        return "\n".join([*lines, *self.notes])


def count_runs(
    *, steps: int, population_size: int, train: int, minibatch: int | None, selection: int, validate_every: int
) -> int:
    """(member, example) runs of the tensor loop.

    Args:
        train, selection: numbers of examples; without validation data the selection data are the training data.
    """
    if steps == 0:
        return 0
    size = min(minibatch or train, train)
    # The initial centre, every validate_every-th one, and the last.
    selections = 1 + steps // validate_every + (steps % validate_every != 0)
    return steps * population_size * size + selections * selection


def scaled(usage: Usage, factor: int) -> Usage:
    """``factor`` times ``usage``."""
    return Usage(**{f.name: getattr(usage, f.name) * factor for f in fields(Usage)})


def spread(usages: Sequence[Usage]) -> tuple[Usage, Usage]:
    """The smallest and the largest of each number."""
    names = [f.name for f in fields(Usage)]
    low = Usage(**{n: min(getattr(u, n) for u in usages) for n in names})
    return low, Usage(**{n: max(getattr(u, n) for u in usages) for n in names})
