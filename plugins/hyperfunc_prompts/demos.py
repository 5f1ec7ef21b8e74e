"""``BootstrapDemos``: few-shot examples taken from runs that went right.

Khattab et al. 2023 (DSPy, arXiv 2310.03714) let a program's own passing traces teach it; here such demos are one more
proposal, and pass the test of :mod:`hyperfunc_prompts.acceptance` like any other. No model is asked to write anything.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.parameters.theta import JSONValue
from hyperfunc_prompts.optimizer import PromptOptimizer
from hyperfunc_prompts.pool import Candidate
from hyperfunc_prompts.predict import Predict, Prediction
from hyperfunc_prompts.reflection import estimate_tokens
from hyperfunc_prompts.search import Search
from hyperfunc_prompts.steps import Proposer
from hyperfunc_prompts.trials import Trial

__all__ = ["BootstrapDemos"]

_DEMOS = "demos"  # the text's name in every Predict


class BootstrapDemos(PromptOptimizer):
    """Shows every :class:`~hyperfunc_prompts.predict.Predict` with ``optimize_demos=True`` calls of its own that were
    part of a passing run.

    Each iteration draws other demos from the training examples that pass; different outputs are shown before the second
    of a kind. Demos never come from validation examples, and a proposal's first test is made on training examples that
    none of its demos comes from, so that it is not tested on what it shows.

    Args:
        max_iterations: proposals.
        context_size: tokens of one component's demos, estimated from bytes.
        max_demos: most demos of one component, ≥ 1.
        minibatch: training examples of the first test; all others than the demos' without it.
        threshold: lowest score of a passing run; ``perfect_score`` without it.
        verbose, scorer, …: as in :class:`~hyperfunc_prompts.optimizer.PromptOptimizer`.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    name = "bootstrap-demos"

    def __init__(
        self,
        max_iterations: int = 4,
        context_size: int = 4000,
        verbose: bool = False,
        scorer: Any = None,
        *,
        max_demos: int = 4,
        minibatch: int | None = None,
        threshold: float | None = None,
        validation: Sequence[Example] | float = 0.3,
        false_accept_rate: float = 0.05,
        perfect_score: float = 1.0,
        failure_score: float = 0.0,
        concurrency: int = 16,
        seed: int = 0,
    ) -> None:
        if max_demos < 1:
            raise ConfigurationError(f"max_demos must be at least 1, got {max_demos}")
        super().__init__(
            _nobody,
            max_iterations=max_iterations,
            context_size=context_size,
            verbose=verbose,
            scorer=scorer,
            validation=validation,
            minibatch=minibatch,
            false_accept_rate=false_accept_rate,
            perfect_score=perfect_score,
            failure_score=failure_score,
            attempts=1,
            rejected_shown=0,
            concurrency=concurrency,
            seed=seed,
        )
        self.max_demos = max_demos
        self.threshold = perfect_score if threshold is None else threshold

    def most_proposals(self, texts: int, examples: int) -> int:
        return self.max_iterations

    @property
    def writer(self) -> None:
        return None

    def proposer(self, search: Search) -> Proposer:
        return _Harvest(self)


async def _nobody(messages: list[dict[str, Any]], /) -> NoReturn:
    raise ConfigurationError("BootstrapDemos writes no texts and asks no model")


class _Harvest(Proposer):
    """Another draw of demos at each step."""

    def __init__(self, options: BootstrapDemos) -> None:
        self._options = options
        self._iteration = 0

    def forget(self, search: Search) -> None:
        pass

    async def step(self, search: Search) -> Candidate | None:
        options, parent = self._options, search.incumbent
        trials = dict(zip(search.train, await search.trials(parent, search.train), strict=True))
        passing = {key: trial for key, trial in trials.items() if trial.score >= options.threshold}
        texts, sources = dict(parent.texts), set[str]()
        for name, component in _components(search).items():
            demos, keys = self._draw(name, component, passing)
            if demos:
                texts[name] = demos
                sources |= keys
        self._iteration += 1
        if not sources or all(trial.score >= options.perfect_score for trial in trials.values()):
            self.finished = "no failures" if sources else "nothing to show"
            return None
        if self._iteration == options.max_iterations:
            self.finished = "completed"
        child = search.pool.add(texts, (parent,), options.name, passing=len(passing), sources=sorted(sources))
        batch = self._batch([key for key in search.train if key not in sources])
        if child.verdict == "pending" and (not batch or await search.beats_on_minibatch(child, parent, batch)):
            await search.decide(child)
        options.report(f"demos, draw {self._iteration}: {child.verdict} ({child.reason})")
        return child

    def _draw(self, name: str, component: Predict, passing: Mapping[str, Trial]) -> tuple[list[JSONValue], set[str]]:
        """Demos for one component, and the examples that they come from."""
        options = self._options
        generator = random.Random(f"demos/{options.seed}/{self._iteration}/{name}")
        by_output: dict[str, list[tuple[str, dict[str, JSONValue]]]] = {}
        for key, demo in _shown_calls(name, component, passing):
            outputs = {field: demo[field] for field in component.predicted.output_fields()}
            by_output.setdefault(_text(outputs), []).append((key, demo))
        kinds = [by_output[kind] for kind in sorted(by_output)]
        generator.shuffle(kinds)
        for kind in kinds:
            generator.shuffle(kind)
        deepest = max(map(len, kinds), default=0)
        in_turn = [kind[depth] for depth in range(deepest) for kind in kinds if depth < len(kind)]
        demos: list[JSONValue] = []
        sources: set[str] = set()
        left = options.context_size
        for key, demo in in_turn:
            tokens = estimate_tokens(_text(demo))
            if len(demos) < options.max_demos and tokens <= left and demo not in demos:
                demos.append(dict(demo))
                sources.add(key)
                left -= tokens
        return demos, sources

    def _batch(self, keys: list[str]) -> list[str]:
        size = self._options.minibatch
        if size is None or size >= len(keys):
            return keys
        return sorted(random.Random(f"minibatch/{self._options.seed}/{self._iteration}").sample(keys, size))


def _components(search: Search) -> dict[str, Predict]:
    """The components whose demos may be learned, by the name of their demos."""
    functions = search.system.registry.all_components()
    return {
        name: functions[entry.component]
        for name, entry in search.entries.items()
        if name == f"{entry.component}.{_DEMOS}" and isinstance(functions[entry.component], Predict)
    }


def _shown_calls(name: str, component: Predict, passing: Mapping[str, Trial]) -> list[tuple[str, dict[str, JSONValue]]]:
    """Every call of the component in the passing runs, as a demo, with the key of its example."""
    function = name.removesuffix(f".{_DEMOS}")
    return [
        (key, component.demo({**call.inputs(component.signature), **call.output}))
        for key, trial in passing.items()
        for call in trial.tape
        if call.function == function and call.error is None and isinstance(call.output, Prediction)
    ]


def _text(value: Mapping[str, JSONValue]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
