"""What all prompt optimizers share: data split, runs, feedback and the end of a run. The search itself is theirs."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from hyperfunc.discovery import discover
from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.scheduling.text_forecast import TextForecast
from hyperfunc_prompts.acceptance import AcceptanceTest
from hyperfunc_prompts.forecasting import foresee
from hyperfunc_prompts.reflection import Complete, Reflector
from hyperfunc_prompts.search import PromptSearchResult, Search, split_validation, trainable_texts
from hyperfunc_prompts.steps import PromptSearch, Proposer
from hyperfunc_prompts.trials import FeedbackFunction, TrialRunner

__all__ = ["PromptOptimizer"]


class PromptOptimizer(ABC):
    """Base of the optimizers that search with one pool and one acceptance test.

    Args:
        model: who writes the texts: an alias or a model of the LLM runtime, or an async function of messages.
        max_iterations, context_size, minibatch: ≥ 1; explained at the subclasses.
        verbose: print a line per verdict.
        scorer: gives feedback, and the scores where ``optimize`` is given no metric.
        validation: examples to accept on, or the share of the training data to hold out for that.
        false_accept_rate: chance that a run without any better proposal accepts one; see
            :mod:`hyperfunc_prompts.acceptance`.
        perfect_score: a run at it is no failure.
        failure_score: score of a run that failed on an unusable reply.
        attempts: replies asked for until one can be used.
        rejected_shown: how many of the latest rejected texts the model sees.
        concurrency: most runs at a time; results do not depend on it.
        seed: of everything that is drawn.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    name: ClassVar[str]

    def __init__(
        self,
        model: str | Complete,
        *,
        max_iterations: int,
        context_size: int,
        verbose: bool,
        scorer: Any,
        validation: Sequence[Example] | float,
        minibatch: int | None,
        false_accept_rate: float,
        perfect_score: float,
        failure_score: float,
        attempts: int,
        rejected_shown: int,
        concurrency: int,
        seed: int,
    ) -> None:
        positive = {"max_iterations": max_iterations, "context_size": context_size, "concurrency": concurrency}
        for name, value in {**positive, "minibatch": 1 if minibatch is None else minibatch}.items():
            if value < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {value}")
        if rejected_shown < 0:
            raise ConfigurationError(f"rejected_shown must be at least 0, got {rejected_shown}")
        AcceptanceTest(false_accept_rate)  # checks the rate
        self.max_iterations = max_iterations
        self.context_size = context_size
        self.verbose = verbose
        self.scorer = scorer
        self.validation = validation
        self.minibatch = minibatch
        self.false_accept_rate = false_accept_rate
        self.perfect_score = perfect_score
        self.failure_score = failure_score
        self.rejected_shown = rejected_shown
        self.concurrency = concurrency
        self.seed = seed
        self.reflector = Reflector(model, attempts=attempts)

    @abstractmethod
    def proposer(self, search: Search) -> Proposer:
        """What proposes in one run; its state is the run's, not the optimizer's."""

    def most_proposals(self, texts: int, examples: int) -> int:
        """The most proposals that one run makes over so many texts, with so many training examples."""
        return self.max_iterations * texts

    @property
    def writer(self) -> Reflector | None:
        """Who is asked for texts; ``None`` where nobody is."""
        return self.reflector

    def forecast(
        self,
        system: Any,
        train_data: Sequence[Example],
        *,
        val_data: Sequence[Example] | None = None,
        pretest: bool = True,
        tensors_move: bool = False,
    ) -> TextForecast:
        """What a search would take; see :mod:`hyperfunc_prompts.forecasting`. Runs and asks nothing.

        Args:
            system: knows its components already.
            train_data, val_data: as for :meth:`start`.
            pretest: the run begins by looking for headroom on all validation examples.
            tensors_move: tensors are learned in the same run.

        Raises:
            EvaluationError: the examples cannot be divided.
        """
        texts = len(trainable_texts(system))
        validation = self.validation if val_data is None else val_data
        train, _ = split_validation(train_data, validation, self.seed)
        return foresee(
            system,
            train_data,
            validation,
            proposals=self.most_proposals(texts, len(train)) if texts else 0,
            minibatch=self.minibatch,
            reflector=self.writer,
            attempts=self.reflector.attempts,
            context_size=self.context_size,
            seed=self.seed,
            pretest=pretest,
            tensors_move=tensors_move,
            notes=self.not_foreseen,
        )

    @property
    def not_foreseen(self) -> tuple[str, ...]:
        """What :meth:`forecast` leaves out."""
        return ()

    def report(self, line: str) -> None:
        """Print ``line`` if asked to."""
        if self.verbose:
            print(line)

    async def optimize(
        self,
        system: Any,
        train_data: Sequence[Example],
        metric_fn: Any = None,
        feedback_fn: FeedbackFunction | None = None,
        *,
        val_data: Sequence[Example] | None = None,
    ) -> PromptSearchResult:
        """Improve the system's trainable texts: :meth:`start`, and steps until the search ends.

        Raises:
            ReflectorOutageError: ``model`` could not be reached.
            UnusableProposalError: none of its replies could be used.
            EvaluationError: examples or metric are wrong; what a run raises passes unchanged.
        """
        search = await self.start(system, train_data, metric_fn, feedback_fn, val_data=val_data)
        while await search.step(defer=True) is not None:
            pass
        return search.result()

    async def start(
        self,
        system: Any,
        train_data: Sequence[Example],
        metric_fn: Any = None,
        feedback_fn: FeedbackFunction | None = None,
        *,
        val_data: Sequence[Example] | None = None,
    ) -> PromptSearch:
        """A search that waits for its first :meth:`~hyperfunc_prompts.steps.PromptSearch.step`.

        Args:
            system: a :class:`~hyperfunc.system.HyperSystem`.
            train_data: to learn from and, unless there are examples to accept on, to hold out from.
            val_data: examples to accept on; ``None`` takes the optimizer's ``validation``.
            metric_fn: ``(predictions, expected) -> float``, asked per example; a scorer, or a scorer's name.
            feedback_fn: ``(inputs, output, expected)`` to a text or to several by column.

        Raises:
            ConfigurationError: there is nothing to score by.
            EvaluationError: examples or metric are wrong.
        """
        metric = metric_fn if metric_fn is not None else self.scorer
        if metric is None:
            raise ConfigurationError("nothing to score by; give optimize a metric_fn, or the optimizer a scorer=")
        held_out = self.validation if val_data is None else val_data
        train, validation = split_validation(train_data, held_out, self.seed)
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
        test = AcceptanceTest(self.false_accept_rate, seed=self.seed)
        search = Search(system, entries, runner, train, validation, test, self.name)
        most = self.most_proposals(len(entries), len(train)) if entries else 0
        return PromptSearch(search, self.proposer(search) if entries else None, most, self.perfect_score)

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
