"""The run scope: what a call may need to know of the run around it, carried by a ContextVar.

The optimize loop, ``evaluate`` and batches enter a scope; paid calls deep inside read it. Tasks inherit it; a thread
sees it through ``contextvars.copy_context()`` (``asyncio.to_thread`` does that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hyperfunc.calls import CallStore
from hyperfunc.usage import Usage

__all__ = ["BudgetLike", "Reservation", "RunScope", "UsageLedger", "current_scope", "enter_scope"]


class Reservation(Protocol):
    """A part of a budget set aside before a call is made. Ends by exactly one of ``settle`` and ``release``."""

    def settle(self, actual: Usage) -> None:
        """Replace the reserved amount by what was really used."""
        ...

    def release(self) -> None:
        """Nothing was used: give the whole amount back."""
        ...


class BudgetLike(Protocol):
    """What a paid call needs of a budget.

    Attributes:
        unspent: what is left of each limited kind but time, reservations in flight not counted as spent.
    """

    @property
    def unspent(self) -> Mapping[str, float]: ...

    def charge(self, actual: Usage) -> None:
        """Count what has been used without a reservation."""
        ...

    def reserve(self, worst_case: Usage) -> Reservation:
        """Set ``worst_case`` aside in this budget and in all around it.

        Raises:
            BudgetExceededError: it does not fit; nothing was set aside.
        """
        ...

    async def reserve_when_free(self, worst_case: Usage, *, brief: bool = True) -> Reservation:
        """The same, but wait while other brief reservations may still give enough back.

        ``brief`` promises that this one will end without waiting for another.

        Raises:
            BudgetExceededError: waiting cannot help; nothing was set aside.
        """
        ...


class UsageLedger:
    """Adds up usage, also of failed and cancelled calls. Safe from several threads (one addition per entry)."""

    def __init__(self, on_record: Callable[[str, Usage], None] | None = None) -> None:
        self._entries: dict[str, Usage] = {}
        self._on_record = on_record

    def record(self, component: str, usage: Usage) -> None:
        """Add ``usage`` to the account of ``component``."""
        self._entries[component] = self._entries.get(component, Usage()) + usage
        if self._on_record is not None:
            self._on_record(component, usage)

    @property
    def total(self) -> Usage:
        return sum(self._entries.values(), Usage())

    def by_component(self) -> dict[str, Usage]:
        return dict(self._entries)


@dataclass(frozen=True, slots=True)
class RunScope:
    """What surrounds a call.

    Attributes:
        budget: reserve here before paying; ``None`` means no ceiling.
        store: look here before paying; ``None`` means every call is made.
        ledger: report usage here.
        seed: the run's seed; with ``example`` and ``repeat`` it makes random choices reproducible.
        example: index or id of the example being run, if any.
        repeat: how manieth run of the same example this is; part of the key of a paid call.
        evaluating: inside evaluate or optimize (streaming is off, no default θ).
        replaying: what happens here happened before, in a run that is being resumed; it is not reported again.
    """

    budget: BudgetLike | None = None
    store: CallStore | None = None
    ledger: UsageLedger | None = None
    seed: int = 0
    example: int | str | None = None
    repeat: int = 0
    evaluating: bool = False
    replaying: bool = False


_NOWHERE = RunScope()
_scope: ContextVar[RunScope] = ContextVar("hyperfunc_scope", default=_NOWHERE)


def current_scope() -> RunScope:
    """The scope around the caller; an empty one outside every run."""
    return _scope.get()


@contextmanager
def enter_scope(scope: RunScope | None = None, **changes: Any) -> Iterator[RunScope]:
    """Run the block under ``scope`` (default: the current one) with ``changes`` applied."""
    new = replace(scope if scope is not None else _scope.get(), **changes)
    token = _scope.set(new)
    try:
        yield new
    finally:
        _scope.reset(token)
