"""The loop of a run: step after step, what is adopted, kept and reported, and when it ends.

θ, the strategy's state and the steps made are all there is to a run; everything else follows from them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import torch

from hyperfunc.budget import Budget
from hyperfunc.durable import DurableRun
from hyperfunc.errors import BudgetExceededError
from hyperfunc.history import Generation, OptimizeResult
from hyperfunc.observability.spans import span
from hyperfunc.optimization.checkpoints import Checkpoints
from hyperfunc.optimization.members import MemberEvaluation
from hyperfunc.optimization.options import GenerationView, LoopOptions
from hyperfunc.optimization.progress import RunProgress
from hyperfunc.optimization.schedule import Kind, find_schedule
from hyperfunc.optimization.tensors import AllMembersFailedError, TensorSearch
from hyperfunc.optimization.texts import TextLearning
from hyperfunc.parameters.theta import Theta
from hyperfunc.plugins import current_plugins
from hyperfunc.population.factored_report import collect_materialisations
from hyperfunc.progress import ProgressBar
from hyperfunc.scope import RunScope, UsageLedger, current_scope, enter_scope
from hyperfunc.settings import Settings
from hyperfunc.usage import Usage

__all__ = ["OptimizationRun"]

_PRETEST_SHARE = 0.05


class OptimizationRun:
    """One run, from its first step to its last.

    Args:
        progress: the run's numbers, with the θ that it begins with.
        evaluation: gives fitness to tensors; ``None`` where only texts are improved.
        tensors, texts: what is improved; one of them may be ``None``.
        steps: most generations of tensors.
        options: when to end, what to tell.
        settings: for the progress bar.
        budget: evaluations and paid calls are reserved there; when it is spent the run ends with its best θ.
        durable: where the state is kept, and whence an earlier one is taken up.
        ledger: the books of the run, begun before its first step.
    """

    def __init__(
        self,
        progress: RunProgress,
        evaluation: MemberEvaluation | None,
        tensors: TensorSearch | None,
        texts: TextLearning | None,
        steps: int,
        *,
        options: LoopOptions,
        settings: Settings,
        budget: Budget | None = None,
        durable: DurableRun | None = None,
        ledger: UsageLedger,
    ) -> None:
        self.progress = progress
        self.evaluation = evaluation
        self.tensors = tensors
        self.texts = texts
        self.steps = steps
        self.options = options
        self.settings = settings
        self.budget = budget
        self.durable = durable
        self.ledger = ledger
        self.notes: list[str] = []
        self._initial_theta = progress.best_theta
        self._schedule = find_schedule(options.schedule)
        self._started = time.perf_counter()
        self._why = ""
        self._checkpoints = (
            None if durable is None else Checkpoints(durable, progress, evaluation, tensors, self.ledger)
        )

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def usage(self) -> Usage:
        """What the run used, in this process and in earlier ones."""
        return self.ledger.total if self.durable is None else self.durable.used_before + self.ledger.total

    @property
    def completed(self) -> int:
        """Steps so far, of both kinds."""
        return len(self.progress.history)

    async def optimize(self) -> OptimizeResult:
        """Make all steps; see :class:`OptimizeResult`.

        Raises:
            EvaluationError: a broken metric, or every run of the first generation raised.
            ResumeError: the steps of an earlier run came out otherwise when they were repeated from its journal.
        """
        plugins, options = current_plugins(), self.options
        store = current_scope().store if self.durable is None else self.durable.calls
        scope = RunScope(self.budget, store, self.ledger, seed=options.seed, evaluating=True)
        if self._checkpoints is not None:
            await self._restore(self._checkpoints, scope)
        configuration = self._configuration()
        plugins.emit("run_started", run=options.run, configuration=configuration)
        reason = "error"
        total = (self.steps if self.tensors else 0) + (self.texts.search.most_steps if self.texts else 0)
        try:
            with (
                enter_scope(scope),
                collect_materialisations() as materialised,
                ProgressBar(total, self.settings.progress) as bar,
                span("run", options.run, **configuration),
            ):
                reason = await self._run(bar)
        except asyncio.CancelledError:
            reason = "cancelled"
            raise
        finally:
            progress = self.progress
            if self.durable is not None:
                await self.durable.finish(reason, progress.best_theta, progress.best_fitness, self.ledger)
            summary: dict[str, Any] = {"best_fitness": progress.best_fitness, "generations": self.completed}
            summary |= {"evaluations": progress.evaluations, "seconds": self.seconds}
            plugins.emit(
                "run_ended",
                run=options.run,
                finish_reason=reason,
                summary={**summary, "usage": self.usage.to_dict()},
            )
        return self._result(reason, [f"materialised for {name}" for name in materialised.operations])

    def _configuration(self) -> dict[str, Any]:
        configuration: dict[str, Any] = {}
        if self.tensors is not None:
            strategy = self.tensors.strategy
            configuration |= {"strategy": strategy.name, "population_size": strategy.population_size}
            configuration["steps"] = self.steps
        if self.texts is not None:
            configuration |= {"schedule": self.options.schedule, "proposals": self.texts.search.most_steps}
        return configuration

    def _result(self, reason: str, notes: list[str]) -> OptimizeResult:
        progress, runner = self.progress, None if self.evaluation is None else self.evaluation.runner
        return OptimizeResult(
            theta=progress.best_theta,
            best_fitness=progress.best_fitness,
            initial_fitness=progress.initial_fitness,
            history=progress.history,
            finish_reason=reason,
            execution="" if runner is None else runner.execution,
            reason=self._why or ("" if runner is None else runner.reason),
            notes=(*([] if runner is None else runner.notes), *notes, *self.notes),
            errors=tuple(progress.errors),
            dropped=progress.dropped,
            evaluations=progress.evaluations,
            seconds=self.seconds,
            usage=self.usage,
            block_size=0 if self.tensors is None else self.tensors.strategy.block_size,
            initial_theta=self._initial_theta,
            texts=None if self.texts is None else self.texts.search.result(),
        )

    # --- steps ---------------------------------------------------------------------------------------------------

    async def _run(self, bar: ProgressBar) -> str:
        """All steps; returns the finish reason."""
        try:
            if self._checkpoints is not None and self._checkpoints.is_new:
                await self._checkpoints.keep(self.texts)
            if self.texts is not None and not self.completed:
                await self._begin_with_texts(self.texts)
                if self._why and not self._open_kinds():
                    return "no headroom"
            while open_kinds := self._open_kinds():
                index, kind = self.completed, self._schedule(self.progress.accounts, open_kinds)
                if kind is None:
                    break
                with span("generation", f"generation {index}") as traced:
                    done = await self._step(kind, index)
                    if done is None:
                        continue
                    await self._finish_step(done, bar)
                    if traced is not None:
                        traced.set(**done.numbers())
                stop = self._stop_reason() or await self._ask_callbacks()
                if stop:
                    return stop
        except BudgetExceededError as spent:
            return f"budget:{spent.limit}"
        except AllMembersFailedError:
            if self.tensors is None or self.tensors.completed == 0:
                raise
            return "all members failed"
        return f"budget:{self.progress.texts_cut}" if self.progress.texts_cut else "completed"

    def _open_kinds(self) -> list[Kind]:
        """What another step can be made of."""
        kinds: list[Kind] = []
        patience = self.options.patience
        stuck = patience is not None and self.progress.without_improvement >= patience
        if self.tensors is not None and self.tensors.completed < self.steps and not (stuck and self.texts is not None):
            kinds.append("tensors")
        if self.texts is not None and not self.texts.search.finish_reason and not self.progress.texts_cut:
            kinds.append("texts")
        return kinds

    async def _step(self, kind: Kind, index: int) -> Generation | None:
        """One step of ``kind``, entered into its account; ``None`` if it turned out that there is none."""
        before, spent = self.progress.best_fitness, self._spent()
        if kind == "texts":
            assert self.texts is not None
            done, most = await self._text_step(self.texts, index), self.texts.search.most_steps
        else:
            assert self.tensors is not None
            done, most = await self._tensor_step(self.tensors, index), self.steps
        after = self.progress.best_fitness
        gain = after - before if math.isfinite(before) and math.isfinite(after) else 0.0
        self.progress.accounts[kind].book(gain, self._share_since(spent), least=1 / max(1, most))
        return done

    async def _tensor_step(self, search: TensorSearch, index: int) -> Generation:
        fitness = await search.step()
        if search.completed == 1 and self.texts is None:  # only now is it known how to run
            await search.select(search.initial)
        count = search.completed
        due = count % self.options.validate_every == 0 or count == self.steps
        selected = await search.select() if due else math.nan
        finite = fitness.values[torch.isfinite(fitness.values)]
        return Generation(
            index=index,
            best=float(finite.max()),
            mean=float(finite.mean()),
            worst=float(finite.min()),
            center=selected,
            sigma=search.strategy.step_size(search.state),
            dropped=len(fitness.errors),
            evaluations=self.progress.evaluations,
            seconds=self.seconds,
        )

    async def _text_step(self, learning: TextLearning, index: int) -> Generation | None:
        if self._checkpoints is not None:
            await self._checkpoints.keep_before_texts(learning)
        progress, search = self.progress, learning.search
        done = await learning.step(progress.best_theta, defer=self.tensors is None)
        if done is None:
            return None
        progress.evaluations += done.usage.evaluations
        if search.finish_reason.startswith("budget:") and not done.accepted:
            await self._cut_texts(learning)
            return None
        if done.accepted:
            await self._adopt_texts(search.texts, search.fitness)
        elif self.evaluation is None and math.isnan(progress.initial_fitness):
            progress.initial_fitness = progress.best_fitness = search.seed_fitness
        return Generation(
            index=index,
            best=done.fitness,
            mean=done.fitness,
            worst=done.fitness,
            center=progress.best_fitness,
            sigma=math.nan,
            dropped=0,
            evaluations=progress.evaluations,
            seconds=self.seconds,
            kind="texts",
            accepted=done.accepted,
        )

    async def _cut_texts(self, learning: TextLearning) -> None:
        """The budget ended a step: it is none, and is made again should the run be resumed with more."""
        self.progress.cut_texts(learning.search.finish_reason.removeprefix("budget:"), self.budget)
        if self._checkpoints is not None:
            await self._checkpoints.keep_candidates(learning)

    async def _adopt_texts(self, texts: Mapping[str, Any], fitness: float) -> None:
        """``texts`` were accepted: they are part of what tensors are evaluated with from now on."""
        progress = self.progress
        theta = progress.best_theta.replace(dict(texts))
        if self.evaluation is not None and self.tensors is not None:
            self.evaluation.set_program(theta)
            fitness = await self._fitness_of(theta)
        elif math.isnan(progress.initial_fitness) and self.texts is not None:
            progress.initial_fitness = self.texts.search.seed_fitness
        progress.adopt(fitness, theta)

    async def _fitness_of(self, theta: Theta) -> float:
        """Fitness of ``theta`` on the selection data, by the same way that tensors are judged."""
        assert self.evaluation is not None
        assert self.tensors is not None
        names = self.tensors.strategy.mean(self.tensors.state)
        scored = await self.evaluation.single({name: theta.tensors[name] for name in names})
        self.progress.evaluations += scored.evaluations
        self.progress.note_errors(scored.members.errors)
        return float(scored.members.values[0])

    async def _begin_with_texts(self, learning: TextLearning) -> None:
        """Where a run with texts starts: the initial fitness, and whether there is anything to gain."""
        progress = self.progress
        if self.tensors is not None and math.isnan(progress.initial_fitness):
            progress.offer(await self._fitness_of(progress.best_theta), progress.best_theta)
            if self._checkpoints is not None:  # the search for texts begins here
                await self._checkpoints.keep(learning)
        if not self.options.pretest:
            return
        spent = self._spent()
        found = await learning.search.headroom(lambda: _PRETEST_SHARE - self._share_since(spent))
        progress.pretest_runs = learning.search.pretest_runs
        if found is None:
            return
        if found.nothing_to_gain or self.tensors is None:
            self._why, self.tensors, self.texts = found.reason, None, None
            if math.isnan(progress.initial_fitness):
                progress.initial_fitness = progress.best_fitness = learning.search.seed_fitness
        else:
            self._leave_texts(found.reason)

    def _leave_texts(self, reason: str) -> None:
        self.progress.texts_left = reason
        self.notes.append(f"texts were left as they are: {reason}")
        self.texts = None

    async def _restore(self, checkpoints: Checkpoints, scope: RunScope) -> None:
        """Go on where an earlier process was."""
        progress = self.progress
        await checkpoints.restore(scope, self.texts)
        progress.reopen_texts(self.budget)
        if progress.texts_left:
            self._leave_texts(progress.texts_left)
        # Earlier generations took their time too.
        self._started -= progress.history[-1].seconds if self.completed else 0.0

    # --- between steps -------------------------------------------------------------------------------------------

    async def _finish_step(self, done: Generation, bar: ProgressBar) -> None:
        self.progress.history.generations.append(done)
        bar.update(done)
        completed = self.completed
        if self._checkpoints is not None and (
            done.kind == "texts" or completed % self.options.checkpoint_every == 0 or not self._open_kinds()
        ):
            await self._checkpoints.keep(self.texts)
        current_plugins().emit(
            "generation_finished", run=self.options.run, generation=done.index, record=done.numbers()
        )

    def _stop_reason(self) -> str | None:
        options, progress = self.options, self.progress
        if options.target is not None and progress.best_fitness >= options.target:
            return "target"
        patience = options.patience
        if self.texts is None and patience is not None and progress.without_improvement >= patience:
            return "patience"
        return None

    async def _ask_callbacks(self) -> str | None:
        if not self.options.callbacks:
            return None
        center = {} if self.tensors is None else self.tensors.strategy.mean(self.tensors.state)
        view = GenerationView(self.progress.history[-1], center, self.progress.best_fitness)
        for callback in self.options.callbacks:
            answer = callback(view)
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return "callback"
        return None

    def _spent(self) -> Usage:
        return Usage() if self.budget is None else self.budget.spent

    def _share_since(self, spent: Usage) -> float:
        """The share of the limit that was used up most since ``spent``; time is no limit here."""
        if self.budget is None:
            return 0.0
        now = self.budget.spent
        used = {
            "usd": now.usd - spent.usd,
            "tokens": now.total_tokens - spent.total_tokens,
            "calls": now.calls - spent.calls,
            "evaluations": now.evaluations - spent.evaluations,
        }
        limits = self.budget.limits
        return max((used[kind] / limit for kind, limit in limits.items() if kind in used and limit > 0), default=0.0)
