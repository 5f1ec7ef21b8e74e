"""``PromptLearningOptimizer``: a few rounds of "look at failures, write a better text, test it".

A proposer after Arize's Prompt Learning (one meta-prompt over failures with feedback columns, a rewrite or a list of
rules), behind the acceptance test of :mod:`hyperfunc_prompts.acceptance`, which that lacks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, get_args

from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc_prompts.evidence import Mode, worst_first
from hyperfunc_prompts.optimizer import PromptOptimizer
from hyperfunc_prompts.pool import Candidate
from hyperfunc_prompts.reflection import Complete
from hyperfunc_prompts.rewriting import Rewriter
from hyperfunc_prompts.search import Search
from hyperfunc_prompts.steps import Proposer
from hyperfunc_prompts.trials import Trial

__all__ = ["PromptLearningOptimizer"]


class PromptLearningOptimizer(PromptOptimizer):
    """Learns texts from failures.

    The candidate at hand is run on a minibatch, its failures and their feedback are shown to ``model``, and the text
    that comes back is tried on the same examples. If it is no worse, the next round starts from it. When nothing fails
    any more, or nothing gets better, further examples are taken in and the candidate is brought to validation; one that
    passes becomes part of the system at once, so that it survives whatever happens later. So validation is paid for
    when there is something to see, and not for every small step.

    Args:
        max_iterations: rounds; each proposes one new text for every parameter. The search ends earlier where nothing
            fails any more.
        context_size: tokens of one request to ``model``, estimated from bytes.
        mode: ``"rewrite"`` replaces a text; ``"ruleset"`` keeps it and revises a list of rules under it (strings only;
            other JSON values are rewritten).
        minibatch: training examples taken in at a time; ``None``: all at once.
        patience: vain rounds per text until further examples are taken in.
        window: minibatches that a new text is tried on at most, besides known failures.
        model, verbose, …: as in :class:`~hyperfunc_prompts.optimizer.PromptOptimizer`.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    name = "prompt-learning"

    def __init__(
        self,
        model: str | Complete = "gpt-4o",
        max_iterations: int = 3,
        context_size: int = 8000,
        verbose: bool = False,
        scorer: Any = None,
        *,
        mode: Mode = "rewrite",
        validation: Sequence[Example] | float = 0.3,
        minibatch: int | None = 8,
        patience: int = 3,
        window: int = 3,
        false_accept_rate: float = 0.05,
        perfect_score: float = 1.0,
        failure_score: float = 0.0,
        attempts: int = 3,
        rejected_shown: int = 3,
        concurrency: int = 16,
        seed: int = 0,
    ) -> None:
        if mode not in get_args(Mode):
            raise ConfigurationError(f"mode: expected one of {', '.join(get_args(Mode))}, got {mode!r}")
        for argument, value in {"patience": patience, "window": window}.items():
            if value < 1:
                raise ConfigurationError(f"{argument} must be at least 1, got {value}")
        super().__init__(
            model,
            max_iterations=max_iterations,
            context_size=context_size,
            verbose=verbose,
            scorer=scorer,
            validation=validation,
            minibatch=minibatch,
            false_accept_rate=false_accept_rate,
            perfect_score=perfect_score,
            failure_score=failure_score,
            attempts=attempts,
            rejected_shown=rejected_shown,
            concurrency=concurrency,
            seed=seed,
        )
        self.mode: Mode = mode
        self.patience = patience
        self.window = window

    def proposer(self, search: Search) -> Proposer:
        return _Chain(self, search)


class _Chain(Proposer):
    """Rounds over the texts, each child made from the last one that was no worse.

    The chain is held to a window of training examples that moves on when nothing in it fails any more, or when nothing
    gets better. A test that seldom errs cannot see small steps, and a score that is all or nothing shows none; so the
    chain goes on through steps that gain nothing, and comes to validation when it rests.
    """

    def __init__(self, options: PromptLearningOptimizer, search: Search) -> None:
        self._options = options
        self._rewriter = Rewriter(options.reflector, options.context_size, options.rejected_shown, options.mode)
        self._waiting = list(search.train)
        random.Random(f"minibatch/{options.seed}").shuffle(self._waiting)
        self._size = min(options.minibatch or len(search.train), len(search.train))
        self._held: list[str] = []
        self._working = search.incumbent  # where the next proposal starts from; shipped is the incumbent
        self._validated = {search.incumbent.id}
        self._stalled = 0
        self._attempts = 0
        self._texts = len(search.entries)
        self._limit = options.most_proposals(len(search.entries), len(search.train))

    def forget(self, search: Search) -> None:
        self._validated, self._stalled = {search.incumbent.id}, 0
        if self.finished == "no failures":
            self.finished = ""

    async def step(self, search: Search) -> Candidate | None:
        options, names = self._options, list(search.entries)
        failures, successes = await self._evidence(search)
        if not failures:
            self.finished = "no failures"
            return self._working if await self._validate(search) else None
        name = names[self._attempts % len(names)]
        child = await self._rewriter.child(
            search,
            self._working,
            name,
            failures,
            f"{options.name}/{options.mode}",
            successes=successes,
            held=len(self._held),
        )
        self._attempts += 1
        await self._follow(search, child)
        last = self._attempts == self._limit
        tried = len(self._held) > self._size or not self._waiting
        if last or (self._rests() and tried):
            await self._validate(search)
        if last:
            self.finished = "completed"
        options.report(f"{name}, round {1 + (self._attempts - 1) // len(names)}: {child.verdict} ({child.reason})")
        return child

    async def conclude(self, search: Search) -> Candidate | None:
        return self._working if await self._validate(search) else None

    async def _follow(self, search: Search, child: Candidate) -> None:
        """Go on from the child if it is no worse."""
        working, better = self._working, False
        best = self._options.perfect_score
        if child.verdict == "pending" and await search.holds_against(child, working, self._held, best):
            better = child.mean(self._held) > working.mean(self._held)
            self._working = child
        self._stalled = 0 if better else self._stalled + 1

    def _rests(self) -> bool:
        """Whether nothing fails, or nothing gets better."""
        perfect = all(self._working.scores[key] >= self._options.perfect_score for key in self._held)
        return perfect or self._stalled >= self._options.patience * self._texts

    async def _validate(self, search: Search) -> bool:
        """Bring the chain's end to validation, unless it was there or is no better on what both have run."""
        working, incumbent = self._working, search.incumbent
        common = [key for key in search.train if key in working.scores and key in incumbent.scores]
        if working.id in self._validated or (common and working.mean(common) <= incumbent.mean(common)):
            return False
        self._validated.add(working.id)
        return await search.decide(working)

    async def _evidence(self, search: Search) -> tuple[list[Trial], list[Trial]]:
        """What the chain fails on, in other examples where it rests; and, after vain attempts, what it does right.

        Each attempt shows the failures in another order, so that a model that always answers alike is not asked the
        same thing twice.
        """
        await search.trials(self._working, self._held)  # missing where scores were forgotten
        if not self._held or self._rests():
            self._stalled = 0
            self._turn()
        while True:
            await search.trials(self._working, self._held)
            known = [key for key in search.train if key in self._working.scores]
            trials = await search.trials(self._working, known)
            failures = worst_first(trials, self._options.perfect_score)
            if failures or len(known) == len(search.train):
                break
            self._turn()
        if not failures:
            return [], []
        first = self._stalled % len(failures)
        successes = [trial for trial in trials if trial.score >= self._options.perfect_score]
        return failures[first:] + failures[:first], successes[: self._stalled]

    def _turn(self) -> None:
        """Hold the chain to a further minibatch, and let go of the oldest but one."""
        self._held += self._waiting[: self._size]
        del self._waiting[: self._size]
        surplus = max(0, len(self._held) - self._options.window * self._size)
        self._waiting += self._held[:surplus]
        del self._held[:surplus]
