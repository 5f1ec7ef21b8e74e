"""A search that goes one proposal at a time, for whoever decides between steps what to spend on next.

:meth:`PromptSearch.step` makes one proposal attempt under the common acceptance test and says what it cost and gained.
``optimize`` of the optimizers is nothing but steps until the end. Knows nothing of how texts are proposed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from functools import partial

from hyperfunc.errors import BudgetExceededError
from hyperfunc.evaluation.example import Example
from hyperfunc.optimization.texts import NoHeadroom
from hyperfunc.parameters.theta import JSONValue
from hyperfunc.usage import Usage
from hyperfunc_prompts.pool import Candidate
from hyperfunc_prompts.search import PromptSearchResult, Search

__all__ = ["PromptSearch", "PromptStep", "Proposer"]

_ENOUGH_RUNS = 20  # perfect ones, from which on a part of the examples speaks for all


class Proposer(ABC):
    """One run of one way of searching: what it needs to know from one step to the next.

    Attributes:
        finished: why there is no further step; ``""`` while there is one.
    """

    finished: str = ""

    @abstractmethod
    async def step(self, search: Search) -> Candidate | None:
        """One proposal, brought through the acceptance test; ``None`` when there was nothing to propose from."""

    async def conclude(self, search: Search) -> Candidate | None:
        """Bring to validation what waits for it; the candidate that was accepted, if one was."""
        return None

    @abstractmethod
    def forget(self, search: Search) -> None:
        """``search`` has forgotten its scores; what this proposer derived from them no longer holds."""


@dataclass(frozen=True)
class PromptStep:
    """What one proposal attempt did.

    Attributes:
        candidate: what was proposed, with its verdict, reason and scores; ``None`` when nothing was.
        accepted: whether its texts are the system's now.
        fitness: the candidate's mean score on the validation examples that it was run on; NaN if there is none.
        gain: on the validation examples, by how much the accepted candidate's mean is above that of the texts that it
            replaced; 0 where nothing was accepted.
        usage: all that the attempt used: program runs, their calls, and the calls that wrote the proposal, also where
            no reply could be used. Runs that were made before are not made again and cost nothing.
    """

    candidate: Candidate | None
    accepted: bool
    fitness: float
    gain: float
    usage: Usage


class PromptSearch:
    """One search over a system's texts, step by step. Made by :meth:`PromptOptimizer.start`.

    Args:
        search: pool, trials and acceptance.
        proposer: makes the proposals; ``None`` where the system has no text to learn.
        most_steps: the most proposals that it can make.
        perfect_score: a run at it leaves nothing to gain.
    """

    def __init__(
        self, search: Search, proposer: Proposer | None, most_steps: int = 0, perfect_score: float = math.inf
    ) -> None:
        self.search = search
        self.most_steps = most_steps
        self.pretest_runs = 0
        self._perfect_score = perfect_score
        self._proposer = proposer
        self._ended = "" if proposer is not None else "nothing to optimize"

    @property
    def finish_reason(self) -> str:
        """Why there is no further step: ``completed``, ``no failures``, ``nothing to optimize``, ``nothing to show``
        (demos), ``budget:…``; ``""`` while there is one."""
        return self._ended or (self._proposer.finished if self._proposer is not None else "")

    @property
    def usage(self) -> Usage:
        """All that was used until now."""
        return self.search.usage

    @property
    def texts(self) -> dict[str, JSONValue]:
        """The accepted texts; at first those that the search began with."""
        return dict(self.search.incumbent.texts)

    @property
    def train(self) -> list[Example]:
        """The examples that proposals are made from."""
        return self.search.examples(self.search.train)

    @property
    def validation(self) -> list[Example]:
        """The examples that proposals are accepted on."""
        return self.search.examples(self.search.validation)

    @property
    def fitness(self) -> float:
        """Mean score of the accepted texts on the validation examples that they were run on; NaN if there is none."""
        return self.search.mean(self.search.incumbent)

    @property
    def seed_fitness(self) -> float:
        """The same of the texts that the search began with."""
        return self.search.mean(self.search.pool.seed)

    async def run_seed(self, count: int) -> None:
        """Run the first ``count`` validation examples under the seed; what was run already is not run again."""
        await self.search.trials(self.search.pool.seed, self.search.validation[:count])

    async def headroom(self, left: Callable[[], float]) -> NoHeadroom | None:
        """Run the seed on validation examples, as far as ``left()`` allows, and see whether anything could be accepted.

        Two findings say no. Every run was perfect. Or so few were not that even a text which mends them all could not
        pass the acceptance test: with f examples on which two texts differ, the smallest p-value of the paired
        permutation test is 2^-f. What was run is kept, and not run again by later steps.

        Args:
            left: share of the budget that may still be used for this.
        """
        search, seed = self.search, self.search.pool.seed
        keys, done, at_first = search.validation, 0, left()
        while done < len(keys):
            each = (at_first - left()) / done if done else 0.0
            affordable = len(keys) - done if each <= 0 and done else int(left() / each) if done else 1
            if affordable < 1:
                break
            done = min(len(keys), done + affordable)
            await self.run_seed(done)
        self.pretest_runs = done
        wrong = sum(seed.scores[key] < self._perfect_score for key in keys[:done])
        if wrong == 0 and (done == len(keys) or done >= _ENOUGH_RUNS):
            return NoHeadroom(f"all of {done} validation examples are at the perfect score already", True)
        level = search.test.level_of(search.validated + 1) / 2
        if done == len(keys) and 2.0**-wrong > level:
            return NoHeadroom(
                f"only {wrong} of {done} validation examples could be better; a text that mended them all would have a "
                f"p-value of {2.0**-wrong:.2g}, and acceptance needs {level:.2g} (more validation examples would do)"
            )
        return None

    async def step(self, *, defer: bool = False) -> PromptStep | None:
        """Make one proposal attempt; ``None``, and nothing is spent, once there is a :attr:`finish_reason`.

        Args:
            defer: leave it to the proposer when to go to validation, as long as the budget has room for that later. It
                costs less, in steps that gain nothing and one that gains all; without it, whatever looks better comes
                to validation in its own step.

        An accepted candidate's texts are the system's when this returns. After an error or a cancellation the search
        is as it was before the proposal that failed, and a further step may be tried.

        Raises:
            ReflectorOutageError: the model that writes proposals could not be reached.
            UnusableProposalError: none of its replies could be used.
        """
        if self.finish_reason or self._proposer is None:
            return None
        return await self._attempt(partial(self._step, defer=defer))

    async def conclude(self) -> PromptStep:
        """Bring to validation what has been proposed and waits for more; call it when no further step will be paid for.

        A search may put validation off until there is something to see. Proposes nothing, and costs nothing where
        nothing waits.
        """
        if self.finish_reason or self._proposer is None:
            return PromptStep(None, False, math.nan, 0.0, Usage())
        return await self._attempt(self._proposer.conclude)

    async def _step(self, search: Search, *, defer: bool) -> Candidate | None:
        """A step; what waits is tested now, unless that may be put off and the budget has room for it later."""
        assert self._proposer is not None
        before = search.incumbent
        candidate = await self._proposer.step(search)
        has_room = search.affordable_runs() >= 3 * len(search.validation)
        if search.incumbent is not before or (defer and has_room):
            return candidate
        concluded = await self._proposer.conclude(search)
        return candidate if concluded is None else concluded

    async def _attempt(self, action: Callable[[Search], Awaitable[Candidate | None]]) -> PromptStep:
        search = self.search
        used, before, known = search.usage, search.incumbent, len(search.pool)
        try:
            candidate = await action(search)
        except BudgetExceededError as error:
            self._ended = f"budget:{error.limit}"
            candidate = search.pool[known] if len(search.pool) > known else None
        accepted = search.incumbent is not before
        gain = search.last_gain if accepted else 0.0
        fitness = math.nan if candidate is None else search.mean(candidate)
        return PromptStep(candidate, accepted, fitness, gain, _difference(search.usage, used))

    def forget_scores(self) -> None:
        """Call when other parameters of the system (its tensors) have changed: every score is of another program then.

        Texts, verdicts and lineage stay; what the next steps compare is run again, under the parameters of then.
        """
        self.search.forget_scores()
        if self._proposer is not None:
            self._proposer.forget(self.search)

    def result(self) -> PromptSearchResult:
        """What has been found until now."""
        return self.search.result(self.finish_reason)


def _difference(after: Usage, before: Usage) -> Usage:
    return Usage(*(getattr(after, f.name) - getattr(before, f.name) for f in fields(Usage)))
