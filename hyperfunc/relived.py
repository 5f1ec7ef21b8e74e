"""A part of a run that is lived through again, after a kill: what had been paid for in it counts where it is asked for.

Replies come from the call store. Were their cost booked at once, or not at all, whatever looks at the spending (how far
a pre-test goes, which kind of step has gained most for its cost, whether a test can wait) would see something else than
it saw the first time, and the run would go another way. Knows budgets and call stores; nothing of journals or steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hyperfunc.budget import Budget
from hyperfunc.calls import CallStore, StoredCall
from hyperfunc.scope import Reservation, current_scope
from hyperfunc.tape import add_usage
from hyperfunc.usage import Usage

__all__ = ["EarlyCalls", "RelivedBudget", "RelivedCalls", "count_reply"]


class RelivedCalls:
    """A call store in which some calls are owed: the first who asks for such a one counts it.

    Until then their cost is set aside, so that nobody else spends it.

    Args:
        store: where the calls are.
        owed: what they cost, by key.
        budget: where it is set aside.
    """

    def __init__(self, store: CallStore, owed: Mapping[str, Usage], budget: Budget | None) -> None:
        self._store = store
        self._owed = {key: (usage, None if budget is None else budget.hold(usage)) for key, usage in owed.items()}

    async def get(self, key: str) -> StoredCall | None:
        call = await self._store.get(key)
        if call is None or key not in self._owed:
            return call
        usage, held = self._owed.pop(key)
        if held is not None:
            held.settle(usage)
        return replace(call, usage=usage, owed=True)

    async def put(self, call: StoredCall) -> None:
        await self._store.put(call)

    def settle(self) -> Usage:
        """Count what nobody has asked for again: it was paid all the same. Returns its sum."""
        left, self._owed = self._owed, {}
        for usage, held in left.values():
            if held is not None:
                held.settle(usage)
        return sum((usage for usage, _ in left.values()), Usage())


class EarlyCalls:
    """A call store for what is asked before there is a run, to see what its program consists of.

    Args:
        store: where the calls are.

    Attributes:
        asked: keys that were asked for.
        paid: those of them that were paid for here.
    """

    def __init__(self, store: CallStore) -> None:
        self._store = store
        self.asked: list[str] = []
        self.paid: list[str] = []

    async def get(self, key: str) -> StoredCall | None:
        self.asked.append(key)
        return await self._store.get(key)

    async def put(self, call: StoredCall) -> None:
        await self._store.put(call)
        self.paid.append(call.key)


class RelivedBudget:
    """The budget of a step that was complete: it allows what it allowed then, and what it cost is in the books already.

    Only a call whose reply could not be kept, since it failed, has to be made and paid again.

    Args:
        then: as the budget was when the step began.
        now: as it is; ``None`` if there is none any more.
    """

    def __init__(self, then: Budget, now: Budget | None) -> None:
        self._then, self._now = then, now

    @property
    def unspent(self) -> dict[str, float]:
        return self._then.unspent

    def charge(self, actual: Usage) -> None:
        self._then.charge(actual)
        if self._now is not None:
            self._now.charge(replace(actual, evaluations=0))

    def reserve(self, worst_case: Usage) -> Reservation:
        then, calls = self._then.reserve(worst_case), replace(worst_case, evaluations=0)
        return _Reserved(then, None if self._now is None or calls == Usage() else self._now.reserve(calls))

    async def reserve_when_free(self, worst_case: Usage, *, brief: bool = True) -> Reservation:
        return self.reserve(worst_case)


class _Reserved:
    """A reservation in both; evaluations count only then."""

    __slots__ = ("_now", "_then")

    def __init__(self, then: Reservation, now: Reservation | None) -> None:
        self._then, self._now = then, now

    def settle(self, actual: Usage) -> None:
        self._then.settle(actual)
        if self._now is not None:
            self._now.settle(replace(actual, evaluations=0))

    def release(self) -> None:
        self._then.release()
        if self._now is not None:
            self._now.release()


def count_reply(component: str, call: StoredCall, **metadata: Any) -> None:
    """Enter a reply that came from a call store into the books of the call being recorded and of the run.

    Args:
        component: whose account it is, as when it was paid.
        call: what the store returned; it was free, unless it is owed.
        metadata: for the recorded call.
    """
    if not call.owed:
        add_usage(Usage(), replayed=call.usage, **metadata)
        return
    add_usage(call.usage, **metadata)
    scope = current_scope()
    if scope.ledger is not None and not scope.replaying:  # complete steps are in the books
        scope.ledger.record(component, call.usage)
