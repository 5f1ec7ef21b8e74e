"""Ceilings on what a run may use, reserved before anything is paid for and settled afterwards.

A reservation sets the worst case aside in a budget and in every budget around it, in one step; what does not fit is
refused and nothing is set aside. So however many calls are in flight, from however many threads, what is spent stays
within the limit as long as no call uses more than it reserved; a call that does is recorded as it was, see
:attr:`Budget.overshoot`.

Money is counted in whole pico-dollars (10⁻¹² USD), so that a million sums are as exact as one. Wall-clock seconds are
no sum: a limit on ``seconds`` refuses new reservations once it has passed, and what was then in flight may end after
it. Knows nothing of models, prices or optimizers.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, ClassVar

from hyperfunc.errors import BudgetError, BudgetExceededError
from hyperfunc.usage import Usage

__all__ = ["Budget", "BudgetReservation"]

_PICO = 10**12
_COUNTED = ("usd", "tokens", "calls", "evaluations")  # added up; "seconds" is read from the clock


def _picodollars(usd: float) -> int:
    # repr() gives the decimal number that was meant, 0.1 and not 0.1000000000000000055.
    return int((Decimal(repr(float(usd))) * _PICO).to_integral_value())


def _amounts(usage: Usage) -> dict[str, int]:
    for name in ("usd", "seconds"):
        value = getattr(usage, name)
        if not math.isfinite(value) or value < 0:
            raise BudgetError(f"usage.{name}: expected a finite number of at least 0, got {value!r}")
    amounts = {
        "usd": _picodollars(usage.usd),
        "tokens": usage.total_tokens,
        "calls": usage.calls,
        "evaluations": usage.evaluations,
    }
    for name, amount in amounts.items():
        if amount < 0:
            raise BudgetError(f"usage.{name}: expected at least 0, got {amount}")
    return amounts


def _readable(kind: str, amount: int) -> str:
    return f"{Decimal(amount) / _PICO:f} USD" if kind == "usd" else f"{amount} {kind}"


class BudgetReservation:
    """A part of a budget set aside before a call. Ends by exactly one of :meth:`settle` and :meth:`release`.

    As a context manager it releases itself at the end of the block unless it was settled inside.
    """

    __slots__ = ("_amounts", "_budget", "_open")

    def __init__(self, budget: Budget, amounts: dict[str, int]) -> None:
        self._budget = budget
        self._amounts = amounts
        self._open = True

    def settle(self, actual: Usage) -> None:
        """Replace the reserved amounts by what was really used, also where that is more.

        Raises:
            BudgetError: the reservation has already ended, or ``actual`` has negative or non-finite numbers.
        """
        amounts = _amounts(actual)
        self._budget._end(self, amounts, actual)

    def release(self) -> None:
        """Nothing was used: give the whole amount back.

        Raises:
            BudgetError: the reservation has already ended.
        """
        self._budget._end(self, None, None)

    def __enter__(self) -> BudgetReservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self.release()


class Budget:
    """Ceilings on money, tokens, calls, evaluations and wall-clock seconds; ``None`` means no ceiling.

    Args:
        usd: US dollars.
        tokens: tokens read and written, together.
        calls: requests sent, each attempt of a retried call included.
        evaluations: program runs, one per (member, example).
        seconds: wall-clock seconds from the first reservation (or :meth:`start`) on.
        parent: the budget around this one; a reservation here is made there too.
        name: how error messages call it.
        clock: seconds, never going back.

    Raises:
        BudgetError: a limit is negative, not finite, or not a number.
    """

    KINDS: ClassVar[tuple[str, ...]] = (*_COUNTED, "seconds")

    def __init__(
        self,
        usd: float | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        evaluations: int | None = None,
        seconds: float | None = None,
        *,
        parent: Budget | None = None,
        name: str = "budget",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given = {"usd": usd, "tokens": tokens, "calls": calls, "evaluations": evaluations, "seconds": seconds}
        self._limits: dict[str, int] = {}
        self._seconds_limit: float | None = None
        for kind, value in given.items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise BudgetError(f"{name}: {kind} must be a finite number of at least 0 or None, got {value!r}")
            if kind == "seconds":
                self._seconds_limit = float(value)
            elif kind == "usd":
                self._limits[kind] = _picodollars(value)
            elif value != int(value):
                raise BudgetError(f"{name}: {kind} must be a whole number, got {value!r}")
            else:
                self._limits[kind] = int(value)
        self.name = name
        self.parent = parent
        self._clock = clock
        # One lock for a whole tree of budgets: a reservation is one step in all of its levels.
        self._lock: threading.Lock = parent._lock if parent is not None else threading.Lock()
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = (
            parent._waiters if parent is not None else set()
        )
        self._spent: dict[str, int] = dict.fromkeys(_COUNTED, 0)
        self._reserved: dict[str, int] = dict.fromkeys(_COUNTED, 0)
        self._used = Usage()
        self._overruns = 0
        self._refused_by: str | None = None
        self._elapsed_before = 0.0
        self._started_at: float | None = None

    def child(self, name: str, **limits: Any) -> Budget:
        """A budget inside this one; ``limits`` as in the constructor."""
        return Budget(**limits, parent=self, name=name, clock=self._clock)

    # -- reserving ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the wall clock of this budget and of those around it; a second call changes nothing."""
        now = self._clock()
        with self._lock:
            for level in self._levels():
                if level._started_at is None:
                    level._started_at = now

    def reserve(self, worst_case: Usage) -> BudgetReservation:
        """Set ``worst_case`` aside here and in every budget around this one.

        Returns:
            The reservation; settle or release it.

        Raises:
            BudgetExceededError: it does not fit, ``error.limit`` names the kind; nothing was set aside.
            BudgetError: ``worst_case`` has negative or non-finite numbers.
        """
        amounts = _amounts(worst_case)
        with self._lock:
            blocking = self._blocking(amounts, count_reserved=True)
            if blocking is not None:
                raise self._refusal(amounts, *blocking)
            return self._take(amounts)

    async def reserve_when_free(self, worst_case: Usage) -> BudgetReservation:
        """Like :meth:`reserve`, but wait while reservations in flight might still give enough back.

        Raises:
            BudgetExceededError: it would not fit even if everything in flight cost nothing.
        """
        amounts = _amounts(worst_case)
        loop = asyncio.get_running_loop()
        while True:
            waiter = (loop, asyncio.Event())
            with self._lock:
                if self._blocking(amounts, count_reserved=True) is None:
                    return self._take(amounts)
                hopeless = self._blocking(amounts, count_reserved=False)
                if hopeless is not None:
                    raise self._refusal(amounts, *hopeless)
                self._waiters.add(waiter)
            try:
                await waiter[1].wait()
            finally:
                with self._lock:
                    self._waiters.discard(waiter)

    def fits(self, worst_case: Usage) -> bool:
        """Whether :meth:`reserve` would succeed now. Another thread may change that at once."""
        amounts = _amounts(worst_case)
        with self._lock:
            return self._blocking(amounts, count_reserved=True) is None

    def charge(self, actual: Usage) -> None:
        """Count what has been used without a reservation, here and around, also beyond the limits."""
        amounts = _amounts(actual)
        with self._lock:
            self._add(amounts, actual)

    # -- looking ------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> dict[str, float]:
        """The ceilings of this level, by kind; kinds without one are absent."""
        limits: dict[str, float] = {k: v / _PICO if k == "usd" else v for k, v in self._limits.items()}
        if self._seconds_limit is not None:
            limits["seconds"] = self._seconds_limit
        return limits

    @property
    def spent(self) -> Usage:
        """What has been settled at this level. ``usd`` is rounded once from the exact sum."""
        with self._lock:
            used = self._used.to_dict()
            used["usd"] = self._spent["usd"] / _PICO
            return Usage.from_dict(used)

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds since the start, those before a resume included."""
        running = 0.0 if self._started_at is None else self._clock() - self._started_at
        return self._elapsed_before + running

    @property
    def remaining(self) -> dict[str, float]:
        """What may still be reserved, by kind, here and in all budgets around: the smallest of each. Never negative."""
        left: dict[str, float] = {}
        with self._lock:
            for level in self._levels():
                for kind, limit in level._limits.items():
                    free: float = max(0, limit - level._spent[kind] - level._reserved[kind])
                    free = free / _PICO if kind == "usd" else free
                    left[kind] = min(left.get(kind, free), free)
                if level._seconds_limit is not None:
                    free = max(0.0, level._seconds_limit - level.elapsed)
                    left["seconds"] = min(left.get("seconds", free), free)
        return left

    @property
    def exhausted(self) -> str | None:
        """The kind that ended this budget: one of which nothing is left, or that refused a reservation, with none
        made since. ``None`` while there is something left."""
        with self._lock:
            for level in self._levels():
                for kind, limit in level._limits.items():
                    if level._spent[kind] >= limit:
                        return kind
                if level._seconds_limit is not None and level.elapsed >= level._seconds_limit:
                    return "seconds"
            return self._refused_by

    @property
    def overshoot(self) -> dict[str, float]:
        """By how much this level's limits were passed, by kind; empty unless a call used more than it reserved."""
        with self._lock:
            over: dict[str, float] = {}
            for kind, limit in self._limits.items():
                excess = self._spent[kind] - limit
                if excess > 0:
                    over[kind] = excess / _PICO if kind == "usd" else excess
            return over

    @property
    def overruns(self) -> int:
        """How many calls used more than they had reserved, whether or not a limit was passed."""
        return self._overruns

    def __repr__(self) -> str:
        limits = ", ".join(f"{k}={v:g}" for k, v in self.limits.items()) or "no limits"
        return f"<Budget {self.name!r}: {limits}; spent {self.spent}>"

    # -- resuming -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What has been spent, as JSON values; reservations in flight are not part of it."""
        with self._lock:
            return {
                "spent": dict(self._spent),
                "used": self._used.to_dict(),
                "elapsed": self.elapsed,
                "overruns": self._overruns,
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`. The limits stay as constructed, so that a resumed run may have more.

        Raises:
            BudgetError: ``state`` is not one that :meth:`state` returned, or this budget is already in use.
        """
        try:
            spent = {kind: int(state["spent"][kind]) for kind in _COUNTED}
            used = Usage.from_dict(dict(state["used"]))
            elapsed = float(state["elapsed"])
            overruns = int(state["overruns"])
        except (KeyError, TypeError, ValueError) as error:
            raise BudgetError(f"{self.name}: expected a state made by Budget.state(), got {state!r:.200}") from error
        with self._lock:
            if any(self._spent.values()) or any(self._reserved.values()):
                raise BudgetError(f"{self.name}: restore() needs a fresh budget, this one has been used")
            self._spent, self._used, self._elapsed_before, self._overruns = spent, used, elapsed, overruns
            self._refused_by = None

    # -- inside -------------------------------------------------------------------------------------------------

    def _levels(self) -> list[Budget]:
        levels: list[Budget] = []
        level: Budget | None = self
        while level is not None:
            levels.append(level)
            level = level.parent
        return levels

    def _blocking(self, amounts: Mapping[str, int], *, count_reserved: bool) -> tuple[Budget, str] | None:
        for level in self._levels():
            for kind, limit in level._limits.items():
                taken = level._spent[kind] + (level._reserved[kind] if count_reserved else 0)
                # A call that needs nothing of a used-up kind may still be made.
                if amounts[kind] and taken + amounts[kind] > limit:
                    return level, kind
            if level._seconds_limit is not None and level.elapsed >= level._seconds_limit:
                return level, "seconds"
        return None

    def _take(self, amounts: dict[str, int]) -> BudgetReservation:
        now = self._clock()
        for level in self._levels():
            level._refused_by = None
            if level._started_at is None:
                level._started_at = now
            for kind, amount in amounts.items():
                level._reserved[kind] += amount
        return BudgetReservation(self, amounts)

    def _refusal(self, amounts: Mapping[str, int], level: Budget, kind: str) -> BudgetExceededError:
        for below in self._levels():
            below._refused_by = kind
            if below is level:
                break
        if kind == "seconds":
            return BudgetExceededError(
                f"{level.name}: the limit of {level._seconds_limit:g} s has passed ({level.elapsed:.3f} s elapsed); "
                "raise seconds=, or take the best result so far",
                limit=kind,
            )
        return BudgetExceededError(
            f"{level.name}: a reservation of {_readable(kind, amounts[kind])} does not fit: limit "
            f"{_readable(kind, level._limits[kind])}, spent {_readable(kind, level._spent[kind])}, in flight "
            f"{_readable(kind, level._reserved[kind])}; raise {kind}=, or lower the worst case of the call",
            limit=kind,
        )

    def _add(self, amounts: Mapping[str, int], actual: Usage) -> None:
        for level in self._levels():
            for kind, amount in amounts.items():
                level._spent[kind] += amount
            level._used = level._used + actual

    def _end(self, reservation: BudgetReservation, amounts: dict[str, int] | None, actual: Usage | None) -> None:
        with self._lock:
            if not reservation._open:
                raise BudgetError(f"{self.name}: this reservation was already settled or released")
            reservation._open = False
            for level in self._levels():
                for kind, amount in reservation._amounts.items():
                    level._reserved[kind] -= amount
            if amounts is not None and actual is not None:
                self._add(amounts, actual)
                if any(amounts[kind] > reservation._amounts[kind] for kind in _COUNTED):
                    for level in self._levels():
                        level._overruns += 1
            waiters = list(self._waiters)
        for loop, freed in waiters:
            try:
                loop.call_soon_threadsafe(freed.set)
            except RuntimeError:  # its loop is closed, and nobody waits there any more
                continue
