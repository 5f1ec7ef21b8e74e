"""``PromptLearningOptimizer``: a few rounds of "look at failures, write a better text, test it".

A proposer after Arize's Prompt Learning (one meta-prompt over failures with feedback columns, a rewrite or a list of
rules), behind the acceptance test of :mod:`hyperfunc_prompts.acceptance`, which that lacks.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from typing import Any, get_args

from hyperfunc.errors import BudgetExceededError, ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.training import discover
from hyperfunc_prompts.acceptance import AcceptanceTest
from hyperfunc_prompts.evidence import Mode, meta_prompt, worst_first
from hyperfunc_prompts.pool import Candidate
from hyperfunc_prompts.reflection import Complete, Reflector
from hyperfunc_prompts.search import PromptSearchResult, Search, split_validation, trainable_texts
from hyperfunc_prompts.trials import FeedbackFunction, TrialRunner

__all__ = ["PromptLearningOptimizer"]


class PromptLearningOptimizer:
    """Learns texts from failures.

    Each iteration takes the texts in turn: the incumbent is run on a minibatch, its failures and their feedback are
    shown to ``model``, and the text that comes back goes through form, minibatch and validation. What passes becomes
    part of the system at once, so that it survives whatever happens later.

    Args:
        model: who writes the texts: an alias or a model of the LLM runtime, or an async function of messages.
        max_iterations: rounds over the texts, ≥ 1.
        context_size: tokens of one request to ``model``, estimated from bytes.
        verbose: print a line per verdict.
        scorer: gives feedback, and the scores where ``optimize`` is given no metric.
        mode: ``"rewrite"`` replaces a text; ``"ruleset"`` keeps it and revises a list of rules under it (strings only;
            other JSON values are rewritten).
        validation: examples to accept on, or the share of the training data to hold out for that.
        minibatch: training examples per round; all without it.
        false_accept_rate: chance that a run without any better proposal accepts one; see
            :mod:`hyperfunc_prompts.acceptance`.
        perfect_score: a run at it is no failure.
        failure_score: score of a run that failed on an unusable reply.
        attempts: replies asked for until one can be used.
        rejected_shown: how many of the latest rejected texts the model sees.
        concurrency: most runs at a time; results do not depend on it.
        seed: of minibatches, the split and the permutations.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

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
        positive = {"max_iterations": max_iterations, "context_size": context_size, "concurrency": concurrency}
        for name, value in {**positive, "minibatch": 1 if minibatch is None else minibatch}.items():
            if value < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {value}")
        if mode not in get_args(Mode):
            raise ConfigurationError(f"mode: expected one of {', '.join(get_args(Mode))}, got {mode!r}")
        AcceptanceTest(false_accept_rate)  # checks the rate
        self.max_iterations = max_iterations
        self.context_size = context_size
        self.verbose = verbose
        self.scorer = scorer
        self.mode: Mode = mode
        self.validation = validation
        self.minibatch = minibatch
        self.false_accept_rate = false_accept_rate
        self.perfect_score = perfect_score
        self.failure_score = failure_score
        self.rejected_shown = rejected_shown
        self.concurrency = concurrency
        self.seed = seed
        self._reflector = Reflector(model, attempts=attempts)

    async def optimize(
        self,
        system: Any,
        train_data: Sequence[Example],
        metric_fn: Any = None,
        feedback_fn: FeedbackFunction | None = None,
    ) -> PromptSearchResult:
        """Improve the system's trainable texts.

        Args:
            system: a :class:`~hyperfunc.system.HyperSystem`.
            train_data: to learn from and, unless ``validation`` is given, to hold out from.
            metric_fn: ``(predictions, expected) -> float``, asked per example; a scorer, or a scorer's name.
            feedback_fn: ``(inputs, output, expected)`` to a text or to several by column.

        Raises:
            ReflectorOutageError: ``model`` could not be reached.
            UnusableProposalError: none of its replies could be used.
            EvaluationError: examples or metric are wrong; what a run raises passes unchanged.
        """
        metric = metric_fn if metric_fn is not None else self.scorer
        if metric is None:
            raise ConfigurationError("nothing to score by; give optimize a metric_fn, or the optimizer a scorer=")
        train, validation = split_validation(train_data, self.validation, self.seed)
        await discover(system, train)
        runner = TrialRunner(
            system,
            metric,
            self._feedback(metric, feedback_fn),
            concurrency=self.concurrency,
            failure_score=self.failure_score,
            seed=self.seed,
        )
        entries = trainable_texts(system)
        test = AcceptanceTest(self.false_accept_rate, max(1, self.max_iterations * len(entries)), self.seed)
        search = Search(system, entries, runner, train, validation, test, "prompt-learning")
        if not entries:
            return search.result("nothing to optimize")
        try:
            return search.result(await self._learn(search))
        except BudgetExceededError as error:
            return search.result(f"budget:{error.limit}")

    async def _learn(self, search: Search) -> str:
        for iteration in range(self.max_iterations):
            for name in search.entries:
                child = await self._propose(search, name, iteration)
                if child is None:
                    if len(self._batch(search, iteration)) == len(search.train):
                        return "no failures"
                    continue
                parent = search.pool[child.parents[0]]
                batch = self._batch(search, iteration)
                if child.verdict == "pending" and await search.beats_on_minibatch(child, parent, batch):
                    await search.decide(child)
                if self.verbose:
                    print(f"{name}, iteration {iteration + 1}: {child.verdict} ({child.reason})")
        return "completed"

    async def _propose(self, search: Search, name: str, iteration: int) -> Candidate | None:
        """A child of the incumbent with a new text for ``name``; ``None`` when nothing failed."""
        parent, entry = search.incumbent, search.entries[name]
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
        reflection = await self._reflector.new_text(name, current, messages, rules=mode == "ruleset")
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

    def _feedback(self, metric: Any, feedback_fn: FeedbackFunction | None) -> FeedbackFunction | None:
        """The caller's feedback and, where it does not score already, the scorer's."""
        if self.scorer is None or self.scorer is metric:
            return feedback_fn

        async def both(inputs: dict[str, Any], output: Any, expected: Any) -> dict[str, str]:
            said = self.scorer.score(output, expected, inputs)
            said = await said if inspect.isawaitable(said) else said
            columns = {"scorer": said.feedback}
            if feedback_fn is not None:
                given = feedback_fn(inputs, output, expected)
                given = await given if inspect.isawaitable(given) else given
                columns.update({"feedback": given} if isinstance(given, str) else given or {})
            return columns

        return both
