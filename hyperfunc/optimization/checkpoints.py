"""What the next step of a run depends on: kept in the journal, and taken up from it again.

The strategy's state and θ are snapshots. A text search has no snapshot: it is brought to where it was by living through
its steps again, from the same θ, with stored replies, at the spending of then. Knows nothing of what comes next.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hyperfunc.durable import DurableRun
from hyperfunc.errors import ConfigurationError, ResumeError
from hyperfunc.optimization.members import MemberEvaluation
from hyperfunc.optimization.progress import RunProgress
from hyperfunc.optimization.tensors import TensorSearch
from hyperfunc.optimization.texts import TextLearning
from hyperfunc.scope import RunScope, UsageLedger, enter_scope

__all__ = ["Checkpoints"]


class Checkpoints:
    """A run's way into the journal and back.

    Args:
        durable: the run in the journal.
        progress: the run's numbers; :meth:`restore` replaces them.
        evaluation, tensors: as the run has them; ``None`` where only texts are improved.
        ledger: what the run uses.
    """

    def __init__(
        self,
        durable: DurableRun,
        progress: RunProgress,
        evaluation: MemberEvaluation | None,
        tensors: TensorSearch | None,
        ledger: UsageLedger,
    ) -> None:
        self._durable = durable
        self._progress = progress
        self._evaluation = evaluation
        self._tensors = tensors
        self._ledger = ledger
        self._kept: int | None = None

    @property
    def is_new(self) -> bool:
        """Whether nothing was kept by an earlier process."""
        return self._durable.point is None

    async def keep(self, texts: TextLearning | None) -> None:
        """Record everything that the next step depends on."""
        progress, completed = self._progress, len(self._progress.history)
        tensors, state = ({}, None) if self._tensors is None else self._tensors.dump()
        meta: dict[str, Any] = {"loop": progress.to_json(), "state": state}
        if self._evaluation is not None:
            meta["runner"] = self._evaluation.runner.decision()
            meta["minibatches"] = self._evaluation.minibatches.to_json()
        latest = progress.history[-1].numbers() if completed else {}
        await self.keep_candidates(texts)
        await self._durable.keep(completed, progress.best_theta, tensors, meta, latest, self._ledger)
        self._kept = completed

    async def keep_before_texts(self, texts: TextLearning) -> None:
        """The θ and the spending that a step of texts begins with: it can only be lived through again from there."""
        if self._kept != len(self._progress.history):
            await self.keep(texts)

    async def keep_candidates(self, texts: TextLearning | None) -> None:
        """Record the proposals, with what became of them."""
        if texts is not None:
            search, completed = texts.search, len(self._progress.history)
            pool, validation = search.result().pool, {example.id for example in search.validation}
            await self._durable.keep_candidates(pool, completed, validation)

    async def restore(self, scope: RunScope, texts: TextLearning | None) -> None:
        """Take up what was kept last, if anything.

        Raises:
            ResumeError: a step of texts came out otherwise when it was lived through again.
        """
        point, progress = self._durable.point, self._progress
        if point is None or point.theta is None:
            return
        meta = point.strategy_meta
        progress.restore(meta["loop"], point.theta)
        if self._evaluation is not None:
            self._evaluation.runner.restore_decision(meta["runner"])
            self._evaluation.minibatches.restore(meta["minibatches"])
            self._evaluation.set_program(point.theta)
        if self._tensors is not None:
            generations = sum(g.kind == "tensors" for g in progress.history)
            self._tensors.load(point.strategy_tensors, meta["state"], generations)
        self._kept = len(progress.history)
        if texts is not None and self._kept and not progress.texts_left:
            await self._relive_texts(scope, texts)

    async def _relive_texts(self, scope: RunScope, texts: TextLearning) -> None:
        """Bring the text search to where it was."""
        assert self._durable.point is not None
        snapshots = {record.number: record.theta for record in self._durable.point.history}
        then = await self._durable.relive(0, scope)
        with enter_scope(then):
            await texts.search.run_seed(self._progress.pretest_runs)  # later steps know these runs
        for step in self._progress.history:
            if step.kind != "texts":
                continue
            key = snapshots.get(step.index)
            if key is None:
                raise ConfigurationError(f"the journal no longer has θ before step {step.index}; it was thinned out")
            theta = await asyncio.to_thread(self._durable.journal.load_theta, key)
            if step.index > 0:
                then = await self._durable.relive(step.index, scope)
            with enter_scope(then):
                done = await texts.step(theta, defer=self._tensors is None)
            if done is None or done.accepted != step.accepted:
                raise ResumeError(
                    f"step {step.index} came out otherwise when it was repeated from its stored replies (accepted: "
                    f"{step.accepted} before, {done is not None and done.accepted} now); a component or the metric "
                    "depends on something that is not journaled, such as the time or an unseeded draw"
                )
