"""A search that goes one proposal at a time, for whoever decides between steps what to spend on next.

:meth:`PromptSearch.step` makes one proposal attempt under the common acceptance test and says what it cost and gained.
``optimize`` of the optimizers is nothing but steps until the end. Knows nothing of how texts are proposed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

from hyperfunc.errors import BudgetExceededError
from hyperfunc.usage import Usage
from hyperfunc_prompts.pool import Candidate
from hyperfunc_prompts.search import PromptSearchResult, Search

__all__ = ["PromptSearch", "PromptStep", "Proposer"]


class Proposer(ABC):
    """One run of one way of searching: what it needs to know from one step to the next.

    Attributes:
        finished: why there is no further step; ``""`` while there is one.
    """

    finished: str = ""

    @abstractmethod
    async def step(self, search: Search) -> Candidate | None:
        """One proposal, brought through the acceptance test; ``None`` when there was nothing to propose from."""

    @abstractmethod
    def forget(self, search: Search) -> None:
        """``search`` has forgotten its scores; what this proposer derived from them no longer holds."""


@dataclass(frozen=True)
class PromptStep:
    """What one proposal attempt did.

    Attributes:
        candidate: what was proposed, with its verdict, reason and scores; ``None`` when nothing was.
        accepted: whether its texts are the system's now.
        gain: on the validation examples, by how much the accepted candidate's mean is above that of the texts that it
            replaced; 0 where nothing was accepted.
        usage: all that the attempt used: program runs, their calls, and the calls that wrote the proposal, also where
            no reply could be used. Runs that were made before are not made again and cost nothing.
    """

    candidate: Candidate | None
    accepted: bool
    gain: float
    usage: Usage


class PromptSearch:
    """One search over a system's texts, step by step. Made by :meth:`PromptOptimizer.start`.

    Args:
        search: pool, trials and acceptance.
        proposer: makes the proposals; ``None`` where the system has no text to learn.
    """

    def __init__(self, search: Search, proposer: Proposer | None) -> None:
        self.search = search
        self._proposer = proposer
        self._ended = "" if proposer is not None else "nothing to optimize"

    @property
    def finish_reason(self) -> str:
        """Why there is no further step: ``completed``, ``no failures``, ``nothing to optimize``, ``budget:…``; ``""``
        while there is one."""
        return self._ended or (self._proposer.finished if self._proposer is not None else "")

    @property
    def usage(self) -> Usage:
        """All that was used until now."""
        return self.search.usage

    async def step(self) -> PromptStep | None:
        """Make one proposal attempt; ``None``, and nothing is spent, once there is a :attr:`finish_reason`.

        An accepted candidate's texts are the system's when this returns. After an error or a cancellation the search
        is as it was before the proposal that failed, and a further step may be tried.

        Raises:
            ReflectorOutageError: the model that writes proposals could not be reached.
            UnusableProposalError: none of its replies could be used.
        """
        if self.finish_reason or self._proposer is None:
            return None
        search = self.search
        used, before, known = search.usage, search.incumbent, len(search.pool)
        try:
            candidate = await self._proposer.step(search)
        except BudgetExceededError as error:
            self._ended = f"budget:{error.limit}"
            candidate = search.pool[known] if len(search.pool) > known else None
        accepted = search.incumbent is not before
        gain = search.last_gain if accepted else 0.0
        return PromptStep(candidate, accepted, gain, _difference(search.usage, used))

    def forget_scores(self) -> None:
        """Call when other parameters of the system (its tensors) have changed: every score is of another program then.

        Texts, verdicts and lineage stay; what the next steps compare is run again, under the parameters of then.
        """
        self.search.forget_scores()
        if self._proposer is not None:
            self._proposer.forget(self.search)

    def result(self) -> PromptSearchResult:
        """What has been found until now."""
        return self.search.result(self.finish_reason or "stopped")


def _difference(after: Usage, before: Usage) -> Usage:
    return Usage(*(getattr(after, f.name) - getattr(before, f.name) for f in fields(Usage)))
