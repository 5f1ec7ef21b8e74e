"""Ceilings on what a run may use, reserved before anything is paid for and settled afterwards.

A reservation sets the worst case aside in a budget and in every budget around it, in one step; what does not fit is
refused and nothing is set aside. So however many calls are in flight, from however many threads, what is spent stays
within the limit as long as no call uses more than it reserved; a call that does is recorded as it was, see
:attr:`Budget.overshoot`.

Money is counted in whole pico-dollars (10⁻¹² USD), so that a million sums are as exact as one. Wall-clock seconds are
no sum: a limit on ``seconds`` refuses new reservations once it has passed, and what was then in flight may end after
it. Who would rather wait than be refused joins a line, see :meth:`Budget.reserve_when_free`. Knows nothing of models,
prices or optimizers.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from hyperfunc.errors import BudgetError, BudgetExceededError
from hyperfunc.reservations import COUNTED, PICO, BudgetReservation, Waiter, amounts_of, picodollars, readable
from hyperfunc.usage import Usage

__all__ = ["Budget", "BudgetReservation"]


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

    KINDS: ClassVar[tuple[str, ...]] = (*COUNTED, "seconds")

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
                self._limits[kind] = picodollars(value)
            elif value != int(value):
                raise BudgetError(f"{name}: {kind} must be a whole number, got {value!r}")
            else:
                self._limits[kind] = int(value)
        self.name = name
        self.parent = parent
        self._clock = clock
        # One lock for a whole tree of budgets: a reservation is one step in all of its levels.
        self._lock: threading.Lock = parent._lock if parent is not None else threading.Lock()
        self._lines: dict[Budget, deque[Waiter]] = parent._lines if parent is not None else {}
        self._spent: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self._reserved: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self._brief: dict[str, int] = dict.fromkeys(COUNTED, 0)  # the part of it that will end by itself
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
        amounts = amounts_of(worst_case)
        with self._lock:
            blocking = self._blocking(amounts)
            if blocking is not None:
                raise self._refusal(amounts, *blocking)
            return self._take(amounts, brief=False)

    async def reserve_when_free(self, worst_case: Usage, *, brief: bool = True) -> BudgetReservation:
        """Like :meth:`reserve`, but wait while brief reservations in flight might still give enough back.

        Callers of one budget are served in the order of asking. Reservations made by :meth:`reserve` may be held as
        long as their owner likes, perhaps until this very call returns: nobody waits for those.

        Args:
            worst_case: what to set aside.
            brief: the promise to end the reservation without waiting for another one first; others wait for it.

        Raises:
            BudgetExceededError: it would not fit even if all brief ones in flight cost nothing, now or once they ended.
            BudgetError: ``worst_case`` has negative or non-finite numbers.
        """
        amounts = amounts_of(worst_case)
        with self._lock:
            line = self._lines.get(self)
            if line is None and self._blocking(amounts) is None:
                return self._take(amounts, brief)
            hopeless = self._blocking(amounts, but_brief=True)
            if hopeless is not None:
                raise self._refusal(amounts, *hopeless)
            waiter = Waiter(amounts, brief, asyncio.get_running_loop().create_future())
            self._lines.setdefault(self, deque()).append(waiter)
        try:
            return await waiter.answer
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def hold(self, paid: Usage) -> BudgetReservation:
        """Set aside what has been paid already and is to be counted later, also beyond the limits."""
        amounts = amounts_of(paid)
        with self._lock:
            return self._take(amounts, brief=False)

    def fits(self, worst_case: Usage) -> bool:
        """Whether :meth:`reserve` would succeed now. Another thread may change that at once."""
        amounts = amounts_of(worst_case)
        with self._lock:
            return self._blocking(amounts) is None

    def charge(self, actual: Usage) -> None:
        """Count what has been used without a reservation, here and around, also beyond the limits."""
        amounts = amounts_of(actual)
        with self._lock:
            self._add(amounts, actual)

    # -- looking ------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> dict[str, float]:
        """The ceilings of this level, by kind; kinds without one are absent."""
        limits: dict[str, float] = {k: v / PICO if k == "usd" else v for k, v in self._limits.items()}
        if self._seconds_limit is not None:
            limits["seconds"] = self._seconds_limit
        return limits

    @property
    def spent(self) -> Usage:
        """What has been settled at this level. ``usd`` is rounded once from the exact sum."""
        with self._lock:
            used = self._used.to_dict()
            used["usd"] = self._spent["usd"] / PICO
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
                    free = free / PICO if kind == "usd" else free
                    left[kind] = min(left.get(kind, free), free)
                if level._seconds_limit is not None:
                    free = max(0.0, level._seconds_limit - level.elapsed)
                    left["seconds"] = min(left.get("seconds", free), free)
        return left

    @property
    def unspent(self) -> dict[str, float]:
        """Like :attr:`remaining`, but reservations in flight do not count, and neither do seconds."""
        with self._lock:
            return {kind: free / PICO if kind == "usd" else free for kind, free in self._room().items()}

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
                    over[kind] = excess / PICO if kind == "usd" else excess
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
                "room": self._room(),
            }

    @classmethod
    def as_of(cls, state: Mapping[str, Any]) -> Budget:
        """A budget with what had been spent and what was left when ``state`` was taken; time does not count in it."""
        budget = cls(name="then")
        budget.restore(state)
        room = state.get("room", {})
        budget._limits = {kind: budget._spent[kind] + int(room[kind]) for kind in COUNTED if kind in room}
        return budget

    def restore(self, state: Mapping[str, Any], *, since: Usage | None = None) -> None:
        """Go on from :meth:`state`. The limits stay as constructed, so that a resumed run may have more.

        Args:
            since: what this budget has spent on the way here; that stays spent as well.

        Raises:
            BudgetError: ``state`` is not one that :meth:`state` returned, or this budget is already in use.
        """
        since = since or Usage()
        try:
            spent = {kind: int(state["spent"][kind]) for kind in COUNTED}
            used = Usage.from_dict(dict(state["used"]))
            elapsed = float(state["elapsed"])
            overruns = int(state["overruns"])
        except (KeyError, TypeError, ValueError) as error:
            raise BudgetError(f"{self.name}: expected a state made by Budget.state(), got {state!r:.200}") from error
        with self._lock:
            on_the_way = amounts_of(since)
            if self._spent != on_the_way or any(self._reserved.values()):
                raise BudgetError(f"{self.name}: going on needs a fresh budget, this one has been used; make a new one")
            self._spent = {kind: amount + on_the_way[kind] for kind, amount in spent.items()}
            self._used, self._elapsed_before, self._overruns = used + since, elapsed, overruns
            self._refused_by = None

    # -- inside -------------------------------------------------------------------------------------------------

    def _room(self) -> dict[str, int]:
        """What is not spent yet, here and in all budgets around: the smallest of each kind."""
        room: dict[str, int] = {}
        for level in self._levels():
            for kind, limit in level._limits.items():
                free = max(0, limit - level._spent[kind])
                room[kind] = min(room.get(kind, free), free)
        return room

    def _levels(self) -> list[Budget]:
        levels: list[Budget] = []
        level: Budget | None = self
        while level is not None:
            levels.append(level)
            level = level.parent
        return levels

    def _blocking(self, amounts: Mapping[str, int], *, but_brief: bool = False) -> tuple[Budget, str] | None:
        """The level and the kind that have no room for ``amounts``, if any; ``but_brief`` reservations may end."""
        for level in self._levels():
            for kind, limit in level._limits.items():
                taken = level._spent[kind] + level._reserved[kind] - (level._brief[kind] if but_brief else 0)
                # A call that needs nothing of a used-up kind may still be made.
                if amounts[kind] and taken + amounts[kind] > limit:
                    return level, kind
            if level._seconds_limit is not None and level.elapsed >= level._seconds_limit:
                return level, "seconds"
        return None

    def _take(self, amounts: dict[str, int], brief: bool) -> BudgetReservation:
        now = self._clock()
        for level in self._levels():
            level._refused_by = None
            if level._started_at is None:
                level._started_at = now
            for kind, amount in amounts.items():
                level._reserved[kind] += amount
                level._brief[kind] += amount if brief else 0
        return BudgetReservation(self._end, amounts, brief)

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
            f"{level.name}: a reservation of {readable(kind, amounts[kind])} does not fit: limit "
            f"{readable(kind, level._limits[kind])}, spent {readable(kind, level._spent[kind])}, in flight "
            f"{readable(kind, level._reserved[kind])}; raise {kind}=, or lower the worst case of the call",
            limit=kind,
        )

    def _add(self, amounts: Mapping[str, int], actual: Usage) -> None:
        for level in self._levels():
            for kind, amount in amounts.items():
                level._spent[kind] += amount
            level._used = level._used + actual

    def _end(self, reservation: BudgetReservation, amounts: dict[str, int] | None, actual: Usage | None) -> None:
        with self._lock:
            if not reservation.open:
                raise BudgetError(f"{self.name}: this reservation was already settled or released")
            reservation.open = False
            for level in self._levels():
                for kind, amount in reservation.amounts.items():
                    level._reserved[kind] -= amount
                    level._brief[kind] -= amount if reservation.brief else 0
            if amounts is not None and actual is not None:
                self._add(amounts, actual)
                if any(amounts[kind] > reservation.amounts[kind] for kind in COUNTED):
                    for level in self._levels():
                        level._overruns += 1
            heard = self._serve()
        self._tell(heard)

    def _leave(self, waiter: Waiter) -> None:
        """A caller in line was cancelled: what he was given goes back, and those behind him move up."""
        with self._lock:
            line = self._lines.get(self)
            if line is not None and waiter in line:
                line.remove(waiter)
            heard = self._serve()
        self._tell(heard)
        if waiter.reservation is not None:
            waiter.reservation.release()
        if waiter.answer.done() and not waiter.answer.cancelled():
            waiter.answer.exception()  # read, so that it is no unhandled one

    def _serve(self) -> list[tuple[Waiter, BudgetExceededError | None]]:
        """Give every line's first callers what has become free, or the refusal that has become certain."""
        heard: list[tuple[Waiter, BudgetExceededError | None]] = []
        for level, line in list(self._lines.items()):
            while line:
                waiter = line[0]
                if level._blocking(waiter.amounts) is None:
                    waiter.reservation = level._take(waiter.amounts, waiter.brief)
                    heard.append((waiter, None))
                elif (hopeless := level._blocking(waiter.amounts, but_brief=True)) is not None:
                    heard.append((waiter, level._refusal(waiter.amounts, *hopeless)))
                else:
                    break
                line.popleft()
            if not line:
                del self._lines[level]
        return heard

    def _tell(self, heard: list[tuple[Waiter, BudgetExceededError | None]]) -> None:
        """Outside the lock: an event loop's callbacks may come back here."""
        for waiter, error in heard:
            if not waiter.hear(error) and waiter.reservation is not None:
                waiter.reservation.release()
