"""What a text search will do, as far as can be said before anything is run: by the prompt optimizer that makes it.

Knows nothing of how texts are proposed and tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from hyperfunc.evaluation.example import Example
from hyperfunc.usage import Usage

__all__ = ["Expectation", "ForeseeingTextOptimizer", "TextForecast"]


class Expectation(NamedTuple):
    """A count: its bounds, and an estimate between them."""

    least: int
    expected: int
    most: int

    def __str__(self) -> str:
        return f"{self.least} to {self.most}, about {self.expected}"


@dataclass(frozen=True)
class TextForecast:
    """One text search, beforehand.

    Attributes:
        train, validation: how many examples it learns from, and accepts on.
        proposals: the most that it makes.
        runs: of the program.
        replies: of the model that writes texts.
        reply: what one reply uses: an estimate, and the most; ``None`` where that is not known.
        notes: what is not in these numbers.
    """

    train: int
    validation: int
    proposals: int
    runs: Expectation
    replies: Expectation
    reply: tuple[Usage, Usage] | None = None
    notes: tuple[str, ...] = ()


@runtime_checkable
class ForeseeingTextOptimizer(Protocol):
    """A prompt optimizer that says beforehand what it will do."""

    def forecast(
        self,
        system: Any,
        train_data: Sequence[Example],
        *,
        val_data: Sequence[Example] | None = None,
        pretest: bool = True,
        tensors_move: bool = False,
    ) -> TextForecast:
        """What a search over the system's texts would do; runs and asks nothing.

        Args:
            system: knows its components already.
            train_data, val_data: as for ``start``.
            pretest: the run begins by looking for headroom on all validation examples.
            tensors_move: tensors are learned in the same run, so that scores are forgotten between steps.
        """
        ...
