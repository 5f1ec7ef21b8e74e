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
from hyperfunc_prompts.evidence import Mode, meta_prompt, worst_first
from hyperfunc_prompts.optimizer import PromptOptimizer
from hyperfunc_prompts.pool import Candidate
from hyperfunc_prompts.reflection import Complete
from hyperfunc_prompts.search import Search

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

    async def search(self, search: Search) -> str:
        working = search.incumbent  # where the next proposal starts from; what is shipped is the incumbent
        for iteration in range(self.max_iterations):
            batch = self._batch(search, iteration)
            for name in search.entries:
                child = await self._propose(search, working, name, iteration)
                if child is None:
                    if len(batch) == len(search.train) and working is search.incumbent:
                        return "no failures"
                    continue
                if child.verdict == "pending":
                    working = await self._test(search, child, working, batch)
                self.report(f"{name}, iteration {iteration + 1}: {child.verdict} ({child.reason})")
        return "completed"

    async def _test(self, search: Search, child: Candidate, working: Candidate, batch: list[str]) -> Candidate:
        """Where to go on from: the child, if it is no worse than where it came from.

        A test that seldom errs cannot see small steps, and a score that is all or nothing shows none; so the chain goes
        on through them, and every link that beats the incumbent on the minibatch is brought to validation.
        """
        if await search.beats_on_minibatch(child, search.incumbent, batch) and await search.decide(child):
            return child
        return child if child.mean(batch) >= working.mean(batch) else working

    async def _propose(self, search: Search, parent: Candidate, name: str, iteration: int) -> Candidate | None:
        """A child of ``parent`` with a new text for ``name``; ``None`` when nothing failed."""
        entry = search.entries[name]
        trials = await search.trials(parent, self._batch(search, iteration))
        failures = worst_first(trials, self.perfect_score)
        if not failures:
            return None
        current = parent.texts[name]
        mode: Mode = self.mode if isinstance(current, str) else "rewrite"
        messages, shown = meta_prompt(
            component=entry.component,
            description=entry.text.description,
            current=current,
            others={other: text for other, text in parent.texts.items() if other != name},
            failures=failures,
            turned_down=search.pool.turned_down(name, self.rejected_shown),
            name=name,
            mode=mode,
            context_size=self.context_size,
        )
        reflection = await self.reflector.new_text(name, current, messages, rules=mode == "ruleset")
        evidence = {"iteration": iteration, "failures": len(failures), "shown": shown, "replies": reflection.attempts}
        texts = {**parent.texts, name: reflection.value}
        child = search.pool.add(texts, (parent,), f"prompt-learning/{mode}", **evidence)
        child.cost += reflection.usage
        return child

    def _batch(self, search: Search, iteration: int) -> list[str]:
        """This iteration's training examples: consecutive slices of a shuffled order."""
        size = len(search.train) if self.minibatch is None else min(self.minibatch, len(search.train))
        if size == len(search.train):
            return search.train
        order = list(search.train)
        random.Random(f"minibatch/{self.seed}").shuffle(order)
        start = iteration * size % len(order)
        return (order + order)[start : start + size]
