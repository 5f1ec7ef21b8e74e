"""What an optimization will run and pay for, as an interval, before anything is spent.

The runs follow from the numbers alone (generations, members, examples). What one run pays for is declared, or measured
on as many examples as the caller allows. The interval is as wide as what is not known:

- at most, every run pays for all its calls, at the dearest run's usage, but no more than a budget has left;
- at least, where a call store is in use, each example is paid for once, since calls that perturbed tensors do not
  change are answered from the store; without a store every run pays, at the cheapest run's usage.

Steps that improve texts are bounds and an estimate, by the prompt optimizer
(:mod:`hyperfunc.scheduling.text_forecast`). Knows nothing of prices: usage brings its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from hyperfunc.scheduling.text_forecast import TextForecast
from hyperfunc.usage import Usage

__all__ = ["Forecast", "TextSteps", "average", "capped", "count_runs", "scaled", "spread"]


@dataclass(frozen=True)
class TextSteps:
    """The part of a run that improves texts.

    Attributes:
        search: what the prompt optimizer says.
        low, expected, high: what its runs and the replies of the model that writes use together.
    """

    search: TextForecast
    low: Usage
    expected: Usage
    high: Usage

    @classmethod
    def of(cls, search: TextForecast, runs: tuple[Usage, Usage, Usage]) -> TextSteps:
        """From what one run uses, at least, on average and at most."""
        low, typical, high = runs
        expected, most = scaled(typical, search.runs.expected), scaled(high, search.runs.most)
        if search.reply is not None:
            expected += scaled(search.reply[0], search.replies.expected)
            most += scaled(search.reply[1], search.replies.most)
        return cls(search, scaled(low, search.runs.least), expected, most)

    def __str__(self) -> str:
        low, expected, high = self.low, self.expected, self.high
        return "\n".join(
            [
                f"texts: at most {self.search.proposals} proposals",
                f"  runs: {self.search.runs}",
                f"  replies of the model that writes: {self.search.replies}",
                f"  calls: {low.calls} to {high.calls}, about {expected.calls}",
                f"  USD: {low.usd:.4f} to {high.usd:.4f}, about {expected.usd:.4f}",
            ]
        )


@dataclass(frozen=True)
class Forecast:
    """What an optimization will run and pay for, if it goes on for all its generations.

    Attributes:
        generations: of tensors, how many.
        evaluations: (member, example) runs of those generations, and those by which the centre is judged.
        low, high: what is paid for, at least and at most, by tensors and texts together.
        source: where the usage of one run comes from.
        notes: what is not in these numbers.
        texts: the part of the texts; ``None`` where none are learned, or nobody says what that takes.
    """

    generations: int
    evaluations: int
    low: Usage
    high: Usage
    source: str
    notes: tuple[str, ...] = ()
    texts: TextSteps | None = None

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
            *([] if self.texts is None else [str(self.texts)]),
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


def average(usages: Sequence[Usage]) -> Usage:
    """The mean of each number; counts are rounded up."""
    total = sum(usages, Usage())
    means = {f.name: getattr(total, f.name) / len(usages) for f in fields(Usage)}
    return Usage(**{name: v if isinstance(getattr(total, name), float) else math.ceil(v) for name, v in means.items()})


def capped(usage: Usage, limits: Mapping[str, float]) -> Usage:
    """``usage`` within ``limits`` by kind, as a budget has them; of tokens too many, fewer are written first."""
    tokens = int(limits.get("tokens", usage.total_tokens))
    read = min(usage.input_tokens, tokens)
    return replace(
        usage,
        usd=min(usage.usd, limits.get("usd", usage.usd)),
        calls=int(min(usage.calls, limits.get("calls", usage.calls))),
        input_tokens=read,
        output_tokens=min(usage.output_tokens, tokens - read),
        evaluations=int(min(usage.evaluations, limits.get("evaluations", usage.evaluations))),
    )


def spread(usages: Sequence[Usage]) -> tuple[Usage, Usage]:
    """The smallest and the largest of each number."""
    names = [f.name for f in fields(Usage)]
    low = Usage(**{n: min(getattr(u, n) for u in usages) for n in names})
    return low, Usage(**{n: max(getattr(u, n) for u in usages) for n in names})
