"""A part of a budget set aside before a call, and the exact arithmetic of amounts.

Knows nothing of limits: what a reservation is taken from, and what its end means there, is the budget's business.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType

from hyperfunc.errors import BudgetError, BudgetExceededError
from hyperfunc.usage import Usage

__all__ = ["COUNTED", "PICO", "BudgetReservation", "Waiter", "amounts_of", "picodollars", "readable"]

PICO = 10**12
COUNTED = ("usd", "tokens", "calls", "evaluations")  # added up; "seconds" is read from the clock


def picodollars(usd: float) -> int:
    """``usd`` in whole 10⁻¹² dollars."""
    # repr() gives the decimal number that was meant, 0.1 and not 0.1000000000000000055.
    return int((Decimal(repr(float(usd))) * PICO).to_integral_value())


def amounts_of(usage: Usage) -> dict[str, int]:
    """What ``usage`` takes of each counted kind.

    Raises:
        BudgetError: a negative or non-finite number.
    """
    for name in ("usd", "seconds"):
        value = getattr(usage, name)
        if not math.isfinite(value) or value < 0:
            raise BudgetError(f"usage.{name}: expected a finite number of at least 0, got {value!r}")
    amounts = {
        "usd": picodollars(usage.usd),
        "tokens": usage.total_tokens,
        "calls": usage.calls,
        "evaluations": usage.evaluations,
    }
    for name, amount in amounts.items():
        if amount < 0:
            raise BudgetError(f"usage.{name}: expected at least 0, got {amount}")
    return amounts


def readable(kind: str, amount: int) -> str:
    """``amount`` for an error message."""
    return f"{Decimal(amount) / PICO:f} USD" if kind == "usd" else f"{amount} {kind}"


End = Callable[["BudgetReservation", dict[str, int] | None, Usage | None], None]
"""Told when a reservation ends: with what was used, as amounts and in full, or twice ``None`` if nothing was."""


class BudgetReservation:
    """A part of a budget set aside before a call. Ends by exactly one of :meth:`settle` and :meth:`release`.

    As a context manager it releases itself at the end of the block unless it was settled inside.

    Attributes:
        amounts: what is set aside, by kind.
        brief: it will end without waiting for another reservation.
        open: it has not ended.
    """

    __slots__ = ("_end", "amounts", "brief", "open")

    def __init__(self, end: End, amounts: dict[str, int], brief: bool) -> None:
        self._end = end
        self.amounts = amounts
        self.brief = brief
        self.open = True

    def settle(self, actual: Usage) -> None:
        """Replace the reserved amounts by what was really used, also where that is more.

        Raises:
            BudgetError: the reservation has already ended, or ``actual`` has negative or non-finite numbers.
        """
        amounts = amounts_of(actual)
        self._end(self, amounts, actual)

    def release(self) -> None:
        """Nothing was used: give the whole amount back.

        Raises:
            BudgetError: the reservation has already ended.
        """
        self._end(self, None, None)

    def __enter__(self) -> BudgetReservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.open:
            self.release()


@dataclass(slots=True, eq=False)
class Waiter:
    """One caller in a budget's line; ``reservation`` is set, under the lock, before he hears of it."""

    amounts: dict[str, int]
    brief: bool
    answer: asyncio.Future[BudgetReservation]
    reservation: BudgetReservation | None = None

    def hear(self, error: BudgetExceededError | None) -> bool:
        """Tell the caller, in his own event loop; whether there still is one."""

        def tell() -> None:
            if self.answer.done():
                return
            if error is not None:
                self.answer.set_exception(error)
            elif self.reservation is not None:
                self.answer.set_result(self.reservation)

        try:
            self.answer.get_loop().call_soon_threadsafe(tell)
        except RuntimeError:  # the loop is closed
            return False
        return True
