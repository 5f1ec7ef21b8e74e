"""Which component is to blame: credit assignment over several failing examples, within a budget.

How one example is gone through is in :mod:`hyperfunc_prompts.attribution`; this is what is made of many. What is known
is replayed, so that only calls with new inputs are paid for, and the search ends when the answer is clear.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hyperfunc.budget import Budget
from hyperfunc.calls import MemoryCallStore
from hyperfunc.errors import BudgetExceededError, ConfigurationError, UnknownParameterError
from hyperfunc.evaluation.concurrency import run_together
from hyperfunc.evaluation.example import Example
from hyperfunc.evaluation.statistics import Interval, bootstrap_interval
from hyperfunc.parameters.theta import ThetaValue
from hyperfunc.program import Program
from hyperfunc.scope import Reservation, current_scope, enter_scope
from hyperfunc.selection import as_examples
from hyperfunc.tape import Tape
from hyperfunc.usage import Usage
from hyperfunc_prompts.attribution import Attribution, Oracle, RightOutputs, attribute
from hyperfunc_prompts.interventions import Rerun, Rerunner
from hyperfunc_prompts.trials import Trial, TrialRunner, example_keys

__all__ = ["Blame", "ComponentBlame", "Oracle", "assign_blame", "blame_with"]

T = TypeVar("T")

_CHUNK = 8  # examples between two looks at the result; fixed, so that it does not depend on concurrency
_REPEATS_UNTIL_SURE = 8  # calls made twice that must all agree before calls are taken to be deterministic
_DRAWS = 2000


@dataclass(frozen=True)
class ComponentBlame:
    """One component's part in the failures.

    Attributes:
        component: dotted name.
        effect: what the score would gain, per failing example, if the component did right what it is given.
        interval: of ``effect``, over the failing examples.
        first: share of the bootstrap resamples in which nobody has a larger effect; ties are divided.
        compared: failing examples in which one of its outputs had a replacement. Where it is 0 nothing is known about
            the component itself, and what was gained just downstream of it is divided with it.
    """

    component: str
    effect: float
    interval: Interval
    first: float
    compared: int


@dataclass(frozen=True)
class Blame:
    """Components in order of blame.

    Attributes:
        table: one row per component that was called in a failing run, most to blame first; equal ones in call order.
        gains: by failing example (its id, numbered where it comes again), what each component gained.
        score, reached: mean score of the failing runs as they were, and with all replaced that had to be; NaN without.
        examples: how many were looked at; ``len(gains)`` of them failed and were gone through.
        evaluations: program runs in which something was really called.
        calls_made, calls_replayed: component calls that were made, and that were answered without.
        usage: of the calls that were made.
        finish_reason: ``completed``, ``sure``, ``no failures`` or ``budget:…``.
        unused_oracles: oracles of components that were never called.
    """

    table: tuple[ComponentBlame, ...]
    gains: Mapping[str, Mapping[str, float]]
    score: float
    reached: float
    examples: int
    evaluations: int
    calls_made: int
    calls_replayed: int
    usage: Usage
    finish_reason: str
    unused_oracles: tuple[str, ...] = ()

    @property
    def order(self) -> list[str]:
        """Component names, most to blame first."""
        return [row.component for row in self.table]

    def __getitem__(self, component: str) -> ComponentBlame:
        for row in self.table:
            if row.component == component:
                return row
        raise UnknownParameterError(component, self.order)

    def explain(self) -> str:
        """The result in words, a line per component."""
        if not self.gains:
            return f"nobody to blame: {self.examples} examples, {self.finish_reason}"
        head = (
            f"{len(self.gains)} failing of {self.examples} examples ({self.finish_reason}): mean score {self.score:.3g}"
        )
        spent = f"{self.calls_made} calls made, {self.calls_replayed} replayed"
        lines = [f"{head}, {self.reached:.3g} with right outputs; {spent}"]
        for row in self.table:
            said = f"  {row.component}: {row.effect:+.3g} [{row.interval.low:+.3g}, {row.interval.high:+.3g}]"
            lines.append(f"{said}, {f'first in {row.first:.0%}' if row.compared else 'no right output known'}")
        if self.unused_oracles:
            lines.append(f"  never called, though they have oracles: {', '.join(self.unused_oracles)}")
        return "\n".join(lines)

    __str__ = explain


async def assign_blame(
    system: Any,
    examples: Sequence[Example],
    metric: Any,
    oracles: Mapping[str, Oracle] | None = None,
    budget: Budget | None = None,
    *,
    theta: Mapping[str, ThetaValue] | None = None,
    recorded: Iterable[Trial] = (),
    others: Iterable[Trial] = (),
    resamples: int = 0,
    sure: float = 0.99,
    perfect_score: float = 1.0,
    failure_score: float = 0.0,
    confidence: float = 0.95,
    concurrency: int = 16,
    seed: int = 0,
) -> Blame:
    """Name the components that make the examples fail, most to blame first.

    Args:
        system: a :class:`~hyperfunc.system.HyperSystem`.
        examples: failing and passing ones; the passing ones cost their run only.
        metric: ``(predictions, expected) -> float``, a scorer, or a scorer's name; higher is better.
        oracles: by component; where there is none, the outputs of the best better run of the same example serve.
        budget: ceilings instead of those of the scope around (make that budget its parent to keep both). When one is
            reached, the result is that of the examples gone through until then.
        theta: values in place of the current ones.
        recorded: runs of these examples under this θ; such an example is not run again.
        others: further runs of these examples, under other texts or at other times.
        resamples: how often a failing example without a better run may be run again to find one.
        sure: end when a component comes first in this share of resamples, after at least eight failing examples; with
            more than 1 all examples are gone through.
        perfect_score: a run at it does not fail.
        failure_score: score of a run that failed on an unusable reply; every other error passes unchanged.
        confidence: of the intervals.
        concurrency: most examples at a time; the result does not depend on it.
        seed: of the runs' scopes and of the bootstrap.

    Raises:
        ConfigurationError: a number is out of its range.
        EvaluationError: examples or metric are wrong.
    """
    return await blame_with(
        TrialRunner(system, metric, concurrency=concurrency, failure_score=failure_score, seed=seed),
        examples,
        oracles,
        budget,
        theta=theta,
        recorded=recorded,
        others=others,
        resamples=resamples,
        sure=sure,
        perfect_score=perfect_score,
        confidence=confidence,
    )


async def blame_with(
    runner: TrialRunner,
    examples: Sequence[Example],
    oracles: Mapping[str, Oracle] | None = None,
    budget: Budget | None = None,
    *,
    theta: Mapping[str, ThetaValue] | None = None,
    recorded: Iterable[Trial] = (),
    others: Iterable[Trial] = (),
    resamples: int = 0,
    sure: float = 0.99,
    perfect_score: float = 1.0,
    confidence: float = 0.95,
) -> Blame:
    """:func:`assign_blame` with a runner that is there; its evaluations are counted there too."""
    if resamples < 0 or not sure > 0:
        raise ConfigurationError(f"expected resamples ≥ 0 and sure > 0, got {resamples} and {sure}")
    known = {trial.example.id: trial for trial in recorded if len(trial.tape)}
    best: dict[str, Trial] = {}
    for trial in others:
        if trial.example.id not in best or trial.score > best[trial.example.id].score:
            best[trial.example.id] = trial
    search = _Search(runner, as_examples(examples), oracles or {}, known, best, resamples, perfect_score, confidence)
    program, scope = runner.system.program(theta), current_scope()
    with enter_scope(
        budget=scope.budget if budget is None else budget,
        store=MemoryCallStore() if scope.store is None else scope.store,
        evaluating=True,
    ):
        reason = await search.go_through(program, sure)
    blame = search.result(reason)
    runner.evaluations += blame.evaluations
    return blame


class _Search:
    """The state of one :func:`assign_blame`."""

    def __init__(
        self,
        runner: TrialRunner,
        examples: Sequence[Example],
        oracles: Mapping[str, Oracle],
        recorded: Mapping[str, Trial],
        better: Mapping[str, Trial],
        resamples: int,
        perfect_score: float,
        confidence: float,
    ) -> None:
        self._runner, self._examples, self._oracles = runner, examples, oracles
        self._recorded, self._better, self._resamples = recorded, better, resamples
        self._perfect_score, self._confidence = perfect_score, confidence
        self._found: dict[int, Attribution] = {}  # by position of the example
        self._base = Attribution({}, 0.0, 0.0)  # what the examples' own runs took
        self._looked_at = 0

    async def go_through(self, program: Program, sure: float) -> str:
        """All examples, a chunk at a time; returns why that ended."""
        for start in range(0, len(self._examples), _CHUNK):
            try:
                await self._chunk(program, range(start, min(start + _CHUNK, len(self._examples))))
            except BudgetExceededError as error:
                return f"budget:{error.limit}"
            if len(self._found) >= _CHUNK and max(self._gains()[2]) >= sure:
                return "sure"
        return "completed" if self._found else "no failures"

    async def _chunk(self, program: Program, positions: Sequence[int]) -> None:
        rerunners = {p: Rerunner(self._runner, program, self._examples[p], p) for p in positions}
        runs = await self._own_runs(rerunners)
        self._looked_at += len(positions)
        # For the whole chunk, so that it does not depend on which of its examples is done first.
        repeated = sum(found.repeated for found in self._found.values())
        differing = sum(found.differing for found in self._found.values())
        controlled = differing > 0 or repeated < _REPEATS_UNTIL_SURE
        waiting = [p for p in positions if runs[p][0] < self._perfect_score]
        while waiting:
            worst = [self._resamples + 2 * len(runs[p][1]) for p in waiting]
            count, reservation = _reserve(worst)
            now, waiting = waiting[:count], waiting[count:]
            found: dict[int, Attribution] = {}

            async def one(position: int, found: dict[int, Attribution] = found) -> None:
                found[position] = await self._attribute(rerunners[position], position, *runs[position], controlled)

            try:
                await self._together([functools.partial(one, position) for position in now])
            except BaseException:
                if reservation is not None:  # those that were interrupted may have used theirs
                    reservation.settle(Usage(evaluations=sum(worst[:count])))
                raise
            else:
                if reservation is not None:
                    reservation.settle(Usage(evaluations=sum(f.evaluations for f in found.values())))
            finally:
                self._found.update(sorted(found.items()))  # in the examples' order, whatever ended first

    async def _own_runs(self, rerunners: Mapping[int, Rerunner]) -> dict[int, tuple[float, Tape]]:
        """Score and tape of the examples as they are."""
        new = [p for p in rerunners if self._examples[p].id not in self._recorded]
        if new:
            _, reservation = _reserve([len(new)])
            if reservation is not None:
                reservation.settle(Usage(evaluations=len(new)))
        reruns = await self._together([functools.partial(rerunners[p].run, {}) for p in new])
        for rerun in reruns:
            self._base.count(rerun)
        runs = {p: (rerun.score, rerun.tape) for p, rerun in zip(new, reruns, strict=True)}
        for position, rerunner in rerunners.items():
            if position not in runs:
                trial = self._recorded[self._examples[position].id]
                rerunner.learn(trial.tape, output=trial.output, score=trial.score)
                runs[position] = (trial.score, trial.tape)
        return runs

    async def _attribute(
        self, rerunner: Rerunner, position: int, score: float, tape: Tape, controlled: bool
    ) -> Attribution:
        example = self._examples[position]
        known = self._better.get(example.id)
        better = known.tape if known is not None and known.score > score else None
        tried: list[Rerun] = []
        while better is None and len(tried) < self._resamples:
            tried.append(await rerunner.run({}, replay=frozenset(), repeat=len(tried) + 1))
            if tried[-1].score > score:
                better = tried[-1].tape
        functions = self._runner.system.registry.all_components()
        found = await attribute(
            rerunner,
            score,
            tape,
            RightOutputs(example, functions, self._oracles, better),
            perfect_score=self._perfect_score,
            control_from=self._resamples + 1 if controlled else None,
        )
        for rerun in tried:
            found.count(rerun)
        return found

    async def _together(self, work: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        gate = asyncio.Semaphore(self._runner.concurrency)

        async def gated(one: Callable[[], Awaitable[T]]) -> T:
            async with gate:
                return await one()

        return await run_together([gated(one) for one in work])

    def _gains(self) -> tuple[list[str], NDArray[np.float64], list[float]]:
        """Components in call order, gains ``[failing examples, components]``, and how often each comes first."""
        cases = list(self._found.values())
        names = list(dict.fromkeys(name for found in cases for name in found.components))
        gains = np.array([[found.gains.get(name, 0.0) for name in names] for found in cases])
        generator = np.random.default_rng(abs(self._runner.seed))
        times = generator.multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=_DRAWS)  # [draws, failing]
        totals = times @ gains  # [draws, components]
        # Equal sums of floats added in another order differ in their last digits.
        leading = (totals >= totals.max(1, keepdims=True) - 1e-9) & (totals > 1e-9)
        return names, gains, (leading / np.maximum(leading.sum(1, keepdims=True), 1)).mean(0).tolist()

    def _table(self) -> list[ComponentBlame]:
        names, gains, first = self._gains()
        rows = [
            ComponentBlame(
                name,
                float(gains[:, column].mean()),
                bootstrap_interval(gains[:, column].tolist(), confidence=self._confidence, seed=self._runner.seed),
                first[column],
                sum(name in found.compared for found in self._found.values()),
            )
            for column, name in enumerate(names)
        ]
        return sorted(rows, key=lambda row: -round(row.effect, 9))  # stable: equal ones stay in call order

    def result(self, finish_reason: str) -> Blame:
        """What was found out so far."""
        cases = list(self._found.values())
        called = {name for found in cases for name in found.components}
        every = [self._base, *cases]
        keys = example_keys(self._examples)
        return Blame(
            table=tuple(self._table()) if cases else (),
            gains={keys[position]: dict(found.gains) for position, found in self._found.items()},
            score=sum(found.score for found in cases) / len(cases) if cases else math.nan,
            reached=sum(found.reached for found in cases) / len(cases) if cases else math.nan,
            examples=self._looked_at,
            evaluations=sum(found.evaluations for found in every),
            calls_made=sum(found.made for found in every),
            calls_replayed=sum(found.replayed for found in every),
            usage=sum((found.usage for found in every), Usage()),
            finish_reason=finish_reason,
            unused_oracles=tuple(sorted(self._oracles.keys() - called)) if cases else (),
        )


def _reserve(worst: Sequence[int]) -> tuple[int, Reservation | None]:
    """Room in the budget for as many of these as fit, in order; at least for the first.

    Raises:
        BudgetExceededError: not even that fits.
    """
    budget = current_scope().budget
    if budget is None:
        return len(worst), None
    for count in range(len(worst), 1, -1):
        try:
            return count, budget.reserve(Usage(evaluations=sum(worst[:count])))
        except BudgetExceededError:
            continue
    return 1, budget.reserve(Usage(evaluations=worst[0]))
