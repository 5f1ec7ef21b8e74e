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

__all__ = ["PromptLearningOptimizer"]


class PromptLearningOptimizer(PromptOptimizer):
    """Learns texts from failures.

    Each iteration takes the texts in turn: the candidate at hand is run on a minibatch, its failures and their feedback
    are shown to ``model``, and the text that comes back goes through form, minibatch and validation. A child no worse
    on the minibatch is where the next round starts from; only one that passes validation becomes
    part of the system at once, so that it survives whatever happens later.

    Args:
        max_iterations: rounds over the texts.
        context_size: tokens of one request to ``model``, estimated from bytes.
        mode: ``"rewrite"`` replaces a text; ``"ruleset"`` keeps it and revises a list of rules under it (strings only;
            other JSON values are rewritten).
        minibatch: training examples per round; all without it.
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
        minibatch: int | None = None,
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

    def most_validations(self, texts: int) -> int:
        return self.max_iterations * texts

    def proposer(self, search: Search) -> Proposer:
        return _Chain(self)


class _Chain(Proposer):
    """Rounds over the texts, each child made from the last one that was no worse."""

    def __init__(self, options: PromptLearningOptimizer) -> None:
        self._options = options
        self._rewriter = Rewriter(options.reflector, options.context_size, options.rejected_shown, options.mode)
        self._attempts = 0
        self._working: Candidate | None = None  # where the next proposal starts from; shipped is the incumbent

    def forget(self, search: Search) -> None:
        self._working = None

    async def step(self, search: Search) -> Candidate | None:
        options, names = self._options, list(search.entries)
        iteration, position = divmod(self._attempts, len(names))
        name, batch = names[position], self._batch(search, iteration)
        working = self._working or search.incumbent
        failures = worst_first(await search.trials(working, batch), options.perfect_score)
        child = None
        if failures:
            proposer = f"{options.name}/{options.mode}"
            child = await self._rewriter.child(search, working, name, failures, proposer, iteration=iteration)
            if child.verdict == "pending":
                self._working = await self._test(search, child, working, batch)
            options.report(f"{name}, iteration {iteration + 1}: {child.verdict} ({child.reason})")
        elif len(batch) == len(search.train) and working is search.incumbent:
            self.finished = "no failures"
        self._attempts += 1
        if self._attempts == options.max_iterations * len(names):
            self.finished = self.finished or "completed"
        return child

    async def _test(self, search: Search, child: Candidate, working: Candidate, batch: list[str]) -> Candidate:
        """Where to go on from: the child, if it is no worse than where it came from.

        A test that seldom errs cannot see small steps, and a score that is all or nothing shows none; so the chain goes
        on through them, and every link that beats the incumbent on the minibatch is brought to validation.
        """
        if await search.beats_on_minibatch(child, search.incumbent, batch) and await search.decide(child):
            return child
        return child if child.mean(batch) >= working.mean(batch) else working

    def _batch(self, search: Search, iteration: int) -> list[str]:
        """This iteration's training examples: consecutive slices of a shuffled order."""
        asked, seed = self._options.minibatch, self._options.seed
        size = len(search.train) if asked is None else min(asked, len(search.train))
        if size == len(search.train):
            return search.train
        order = list(search.train)
        random.Random(f"minibatch/{seed}").shuffle(order)
        start = iteration * size % len(order)
        return (order + order)[start : start + size]
