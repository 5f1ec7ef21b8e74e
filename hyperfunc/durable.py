"""A run that survives: what the optimize loop keeps in the journal after every generation, and takes up again.

θ, the strategy's state, the generation number and the loop's own few numbers are all there is to a run; noise and
minibatches follow from them. Knows the journal and the loop's state; nothing of strategies or programs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperfunc.budget import Budget
from hyperfunc.errors import ConfigurationError
from hyperfunc.journal import CandidateRecord, Fingerprint, Journal, ResumePoint, RunHandle, ScoreRecord
from hyperfunc.journal.environment import describe_environment
from hyperfunc.parameters.theta import Theta
from hyperfunc.relived import EarlyCalls, RelivedBudget, RelivedCalls
from hyperfunc.scope import RunScope, UsageLedger
from hyperfunc.usage import Usage

__all__ = ["DEFAULT_JOURNAL", "DurableRun", "RunIdentity", "open_durable_run", "open_journal"]

DEFAULT_JOURNAL = Path(".hyperfunc/journal.db")
_NOT_ASKED_AGAIN = "calls that were not asked for again"


@dataclass(frozen=True)
class RunIdentity:
    """What may not change between a run and its resumption.

    Attributes:
        name: the run's name in its journal; ``None`` takes ``run-N``.
        config: how it optimizes, as JSON values.
        program, data: fingerprints of what is optimized, and on what.
        seed: of noise and minibatches.
        may_change: keys of ``config`` that may differ on resume.
    """

    name: str | None
    config: Mapping[str, Any]
    program: Fingerprint
    data: Fingerprint
    seed: int
    may_change: tuple[str, ...] = ("steps",)


class DurableRun:
    """One run in the journal, held by this process.

    Attributes:
        point: where to go on; ``None`` for a new run.
        calls: the run's paid calls; those of the step that a kill interrupted count when they are asked for again.
    """

    def __init__(self, journal: Journal, handle: RunHandle, point: ResumePoint | None, budget: Budget | None) -> None:
        self.journal = journal
        self.handle = handle
        self.point = point
        self.calls = RelivedCalls(journal.call_store(handle), {} if point is None else point.owed, budget)
        self._budget = budget
        history = () if point is None else point.history
        # What has been recorded as spent, for the generation that was kept last, and until the ones before it.
        self._last = (history[-1].number, dict(history[-1].spend)) if history else (0, {})
        self._counted: dict[str, Usage] = {}
        self._candidates: dict[str, tuple[str, str, dict[str, float]]] = {}

    @property
    def initial_theta(self) -> Theta | None:
        """The θ that the run began with, where an earlier part of it is taken up."""
        history = () if self.point is None else self.point.history
        return next((self.journal.load_theta(r.theta) for r in history if r.number == 0 and r.theta), None)

    @property
    def used_before(self) -> Usage:
        """What earlier processes used until the run was kept last."""
        history = () if self.point is None else self.point.history
        return sum((usage for record in history for usage in record.spend.values()), Usage())

    async def state_of_another_run(self) -> Any:
        """What another run of this program kept last, here or on a machine like this; ``None`` if there is none."""
        program_hash = self.journal.run(self.handle.name).program_hash
        return await asyncio.to_thread(self.journal.latest_state, program_hash, describe_environment(), self.handle.id)

    async def relive(self, number: int, scope: RunScope) -> RunScope:
        """``scope`` for step ``number`` (from 0), which is complete: the spending stands as it stood before that step,
        and what was paid for in it is owed."""
        assert self.point is not None
        before, after = [record for record in self.point.history if record.number >= number][:2]
        owed = await self.journal.paid_between(self.handle, before.call_sequence, after.call_sequence)
        then = Budget() if before.budget is None else Budget.as_of(before.budget)
        calls = RelivedCalls(self.journal.call_store(self.handle), owed, then)
        return replace(scope, budget=RelivedBudget(then, self._budget), store=calls, replaying=True)

    async def keep(
        self,
        generation: int,
        theta: Theta,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        fitness: Mapping[str, float],
        ledger: UsageLedger,
    ) -> None:
        """Keep the state after ``generation`` generations; when this returns, kill -9 loses nothing of it."""
        self._settle(ledger)
        spent = ledger.by_component()
        spend = {name: _minus(usage, self._counted.get(name, Usage())) for name, usage in spent.items()}
        if generation == self._last[0]:  # kept once more: the record is replaced
            recorded = self._last[1]
            spend = {name: spend.get(name, Usage()) + recorded.get(name, Usage()) for name in {*spend, *recorded}}
        await self.journal.record_generation(
            self.handle,
            generation,
            theta=theta,
            strategy_tensors=tensors,
            strategy_meta=dict(meta),
            fitness={name: value for name, value in fitness.items() if math.isfinite(value)},
            spend={name: usage for name, usage in sorted(spend.items()) if usage != Usage()},
            budget=None if self._budget is None else self._budget.state(),
        )
        self._last, self._counted = (generation, spend), spent

    async def keep_candidates(self, pool: Iterable[Any], generation: int, validation: Collection[str]) -> None:
        """Keep the proposals of ``pool`` that are new or have other scores than when they were kept last.

        Args:
            validation: ids of the examples that proposals are accepted on.
        """
        for candidate in pool:
            facts = candidate.to_dict()
            key, state = str(facts["id"]), (facts["verdict"], facts["reason"], facts["scores"])
            if self._candidates.get(key) == state:
                continue
            self._candidates[key] = state
            record = CandidateRecord(
                key,
                generation,
                tuple(map(str, facts["parents"])),
                facts["proposer"],
                facts["verdict"],
                facts["reason"],
                facts["texts"],
                usage=Usage.from_dict(facts["cost"]),
                detail=facts["evidence"],
            )
            await self.journal.record_candidate(self.handle, record)
            scores = [
                ScoreRecord(key, name, score, "validation" if name.partition("#")[0] in validation else "train")
                for name, score in facts["scores"].items()
            ]
            await self.journal.record_scores(self.handle, scores)

    def _settle(self, ledger: UsageLedger) -> None:
        unasked = self.calls.settle()
        if unasked != Usage():
            ledger.record(_NOT_ASKED_AGAIN, unasked)

    async def finish(self, reason: str, theta: Theta, score: float, ledger: UsageLedger) -> None:
        """The run has ended with ``theta``."""
        self._settle(ledger)
        await self.journal.finish_run(
            self.handle,
            reason,
            theta=theta,
            score=score if math.isfinite(score) else None,
            status="failed" if reason in ("error", "cancelled") else "finished",
        )


def _minus(a: Usage, b: Usage) -> Usage:
    return Usage(**{name: value - getattr(b, name) for name, value in a.to_dict().items()})


@asynccontextmanager
async def open_durable_run(
    journal: Journal,
    identity: RunIdentity,
    *,
    resume: bool,
    budget: Budget | None,
    early: EarlyCalls,
    used: Usage | None,
    ledger: UsageLedger,
) -> AsyncIterator[DurableRun]:
    """Begin a run in the journal, or with ``resume`` take it up where it was last kept (or begin it, if it never was).

    Args:
        early: calls that were made to find out what the program consists of. They are the run's, also where a process
            has paid for them that died before there was a run.
        used: what of ``budget`` was spent for them.
        ledger: the run's books, which have what was paid just now.

    Raises:
        ResumeError: program, data or configuration changed; says what.
        JournalError: the name is taken and ``resume`` was not asked for, or another process holds the run.
    """
    if identity.name == "" or (resume and identity.name is None):
        raise ConfigurationError("a run that can be resumed needs a name: optimize(..., run='name')")
    facts: dict[str, Any] = {"config": identity.config, "program": identity.program, "data": identity.data}
    if resume and any(record.name == identity.name for record in journal.runs()):
        point = await journal.resume_run(identity.name or "", **facts, may_change=identity.may_change)
        if budget is not None and point.budget is not None:
            budget.restore(point.budget, since=used)
        resumed = DurableRun(journal, point.run, point, budget)
        for key in early.asked:  # a process may have died before it kept anything of the run
            call = await resumed.calls.get(key)
            if call is not None and call.owed:
                ledger.record(call.component or call.kind, call.usage)
        yield resumed
    else:
        handle = await journal.start_run(identity.name, **facts, seed=identity.seed, adopt=early.asked)
        for paid in journal.paid_calls(handle.name):
            if paid.key not in early.paid:
                ledger.record(paid.component or paid.kind, paid.usage)
                if budget is not None:
                    budget.charge(paid.usage)
        yield DurableRun(journal, handle, None, budget)


@contextmanager
def open_journal(journal: Journal | str | Path | None) -> Iterator[Journal]:
    """``journal`` itself, or the one at its path (default: ``.hyperfunc/journal.db``), closed afterwards."""
    if isinstance(journal, Journal):
        yield journal
        return
    opened = Journal(journal if journal is not None else DEFAULT_JOURNAL)
    try:
        yield opened
    finally:
        opened.close()
