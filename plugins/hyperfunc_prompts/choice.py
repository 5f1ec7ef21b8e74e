"""Whose text is rewritten next: in turn, or where the failures come from. Knows nothing of how texts are proposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hyperfunc.errors import ConfigurationError
from hyperfunc.usage import Usage
from hyperfunc_prompts.attribution import Oracle
from hyperfunc_prompts.blame import blame_with
from hyperfunc_prompts.pool import Candidate
from hyperfunc_prompts.search import Search
from hyperfunc_prompts.trials import Trial

__all__ = ["BlameDriven", "ComponentChoice", "RoundRobin", "component_choice_named"]


class ComponentChoice(Protocol):
    """Chooses for a search."""

    async def choose(self, search: Search, parent: Candidate, failures: Sequence[Trial], turn: int) -> str:
        """The name of the text to rewrite; one of ``search.entries``.

        Args:
            parent: whose text it is.
            failures: its runs that went wrong, at least one.
            turn: how often a text was chosen for this candidate and those that it came from.
        """
        ...


class RoundRobin:
    """One text after the other, in the order of the components."""

    async def choose(self, search: Search, parent: Candidate, failures: Sequence[Trial], turn: int) -> str:
        """The text whose turn it is."""
        names = list(search.entries)
        return names[turn % len(names)]


class BlameDriven:
    """A text of the component that is most to blame for the failures; in turn where nobody is known to be.

    Each child of the candidate that was turned down halves the blame of what it changed, so that the search goes on
    elsewhere when one place does not get better.

    Args:
        oracles: right outputs by component; else other candidates' better runs of the same examples serve.
        resamples: how often a failing example without a better run may be run again to find one.
        perfect_score: a run at it does not fail.
    """

    def __init__(
        self, oracles: Mapping[str, Oracle] | None = None, *, resamples: int = 0, perfect_score: float = 1.0
    ) -> None:
        self._oracles = dict(oracles or {})
        self._resamples, self._perfect_score = resamples, perfect_score
        self._otherwise = RoundRobin()

    async def choose(self, search: Search, parent: Candidate, failures: Sequence[Trial], turn: int) -> str:
        """The text of the component that is most to blame."""
        examples = [trial.example for trial in failures]
        known = search.known_trials(examples)
        blame = await blame_with(
            search.runner,
            examples,
            self._oracles,
            theta=parent.texts,
            recorded=failures,
            others=[trial for id, trials in known.items() if id != parent.id for trial in trials],
            resamples=self._resamples,
            perfect_score=self._perfect_score,
        )
        search.account(blame.usage + Usage(evaluations=blame.evaluations))
        effects = {row.component: row.effect for row in blame.table}
        weights = {
            name: effects.get(entry.component, 0.0) / 2 ** self._turned_down(search, parent, name)
            for name, entry in search.entries.items()
        }
        highest = max(weights.values())
        if highest <= 0:
            return await self._otherwise.choose(search, parent, failures, turn)
        leading = [name for name, weight in weights.items() if weight == highest]
        return leading[turn % len(leading)]  # texts of one component: in turn

    @staticmethod
    def _turned_down(search: Search, parent: Candidate, name: str) -> int:
        return sum(
            parent.id in child.parents and name in child.changed and child.verdict in ("rejected", "refused")
            for child in search.pool
        )


def component_choice_named(choice: str | ComponentChoice, perfect_score: float = 1.0) -> ComponentChoice:
    """A choice by its name, ``"round-robin"`` or ``"blame"``; a choice as it is."""
    if choice == "round-robin":
        return RoundRobin()
    if choice == "blame":
        return BlameDriven(perfect_score=perfect_score)
    if isinstance(choice, str):
        raise ConfigurationError(f"component_choice: expected round-robin, blame or a ComponentChoice, got {choice!r}")
    return choice
