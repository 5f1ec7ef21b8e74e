"""Improving texts, a proposal at a time, under whatever tensors the run has adopted.

Knows what a text search is, and nothing of how one proposes and tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hyperfunc.evaluation.example import Example
from hyperfunc.parameters.theta import JSONValue, Theta, ThetaValue
from hyperfunc.usage import Usage

__all__ = ["NoHeadroom", "TextLearning", "TextOptimizer", "TextSearch", "TextStep"]


class TextStep(Protocol):
    """What one proposal did.

    Attributes:
        accepted: whether its texts are the system's now.
        fitness: its mean score on the validation examples; NaN if it did not come so far.
        usage: what it used.
    """

    @property
    def accepted(self) -> bool: ...

    @property
    def fitness(self) -> float: ...

    @property
    def usage(self) -> Usage: ...


@dataclass(frozen=True)
class NoHeadroom:
    """Why texts are better left as they are.

    Attributes:
        reason: in words.
        nothing_to_gain: every run that was looked at was perfect, so that tensors could not gain either.
    """

    reason: str
    nothing_to_gain: bool = False


class TextSearch(Protocol):
    """A search that waits for its next step.

    Attributes:
        finish_reason: why there is no further step; ``""`` while there is one.
        most_steps: the most steps that there can be.
        texts: the accepted ones, by dotted name.
        train, validation: the examples that it learns from, and accepts on.
        fitness: mean score of the accepted texts on ``validation``; NaN where they were not run.
        seed_fitness: the same of the texts that the search began with.
        pretest_runs: how many validation examples :meth:`headroom` has run.
    """

    @property
    def finish_reason(self) -> str: ...

    @property
    def most_steps(self) -> int: ...

    @property
    def texts(self) -> Mapping[str, JSONValue]: ...

    @property
    def train(self) -> Sequence[Example]: ...

    @property
    def validation(self) -> Sequence[Example]: ...

    @property
    def fitness(self) -> float: ...

    @property
    def seed_fitness(self) -> float: ...

    @property
    def pretest_runs(self) -> int: ...

    async def step(self, *, defer: bool = False) -> TextStep | None:
        """Make one proposal and test it; accepted texts are the system's when this returns.

        Args:
            defer: the test may be left for a later step, where that costs less.
        """
        ...

    async def headroom(self, left: Callable[[], float]) -> NoHeadroom | None:
        """Whether a proposal could be accepted at all; ``None`` if so, or if that is not known.

        Args:
            left: share of the limits that may still be used to find out.
        """
        ...

    async def run_seed(self, count: int) -> None:
        """Run the first ``count`` validation examples under the seed, as :meth:`headroom` did."""
        ...

    def forget_scores(self) -> None:
        """The tensors have changed: scores are of another program."""
        ...

    def result(self) -> Any:
        """What was found until now, with its candidates."""
        ...


@runtime_checkable
class TextOptimizer(Protocol):
    """A prompt optimizer that can be taken a step at a time."""

    async def start(
        self,
        system: Any,
        train_data: Sequence[Example],
        metric_fn: Any = None,
        feedback_fn: Any = None,
        *,
        val_data: Sequence[Example] | None = None,
    ) -> TextSearch:
        """A search that waits for its first step."""
        ...


class _HasTheta(Protocol):
    def set_theta(self, theta: Mapping[str, ThetaValue]) -> None: ...


class TextLearning:
    """One text search at work on one system.

    Args:
        system: what is run; its current θ is replaced by the one that each step is made under.
        theta: the θ that the run begins with.
        search: proposes, tests, accepts.
    """

    def __init__(self, system: _HasTheta, theta: Theta, search: TextSearch) -> None:
        self.search = search
        self._system = system
        self._tensors = Theta(theta.tensors).content_hash

    async def step(self, theta: Theta, *, defer: bool) -> TextStep | None:
        """One proposal under ``theta``, whose texts must be the accepted ones; ``None`` when the search has ended.

        Args:
            defer: let the search keep what it proposes for a later test. Not where tensors may change before its next
                step, and with them what its scores are worth.
        """
        tensors = Theta(theta.tensors).content_hash
        if self._tensors != tensors:
            self.search.forget_scores()
        self._tensors = tensors
        self._system.set_theta(theta)
        return await self.search.step(defer=defer)
