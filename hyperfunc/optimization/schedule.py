"""Which kind of parameter the next step is spent on, where a run improves tensors and texts.

A choice follows from what earlier steps gained and from the share of the limits that they used, never from a clock: a
resumed run chooses as the uninterrupted one did. Knows nothing of how steps are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hyperfunc.errors import ConfigurationError

__all__ = ["KINDS", "SCHEDULES", "Account", "Kind", "Schedule", "find_schedule"]

Kind = Literal["tensors", "texts"]
KINDS: tuple[Kind, ...] = ("tensors", "texts")

_HORIZON = 0.1  # share of the limits after which a gain counts for 1/e
_LEAST = 0.15  # share of what was spent that every kind gets, lest one that had bad luck is never tried again


@dataclass
class Account:
    """What one kind of step has cost and gained.

    Attributes:
        steps: how many there were.
        share: of the budget that they used, each step counted by the limit that it uses up most of.
        cost: the same, where a step costs at least its share of the most steps that its kind may make.
        recent_gain, recent_cost: the same with what is long past discounted, for the rate of today.
    """

    steps: int = 0
    share: float = 0.0
    cost: float = 0.0
    recent_gain: float = 0.0
    recent_cost: float = 0.0

    def book(self, gain: float, share: float, least: float = 0.0) -> None:
        """Enter one step, which used ``share`` of the budget and counts as ``least`` at least."""
        cost = max(share, least)
        kept = math.exp(-cost / _HORIZON)
        self.recent_gain = self.recent_gain * kept + max(0.0, gain)
        self.recent_cost = self.recent_cost * kept + cost
        self.share += share
        self.cost += cost
        self.steps += 1

    @property
    def rate(self) -> float:
        """Gain per share of the limits, of late."""
        return self.recent_gain / self.recent_cost if self.recent_cost > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Schedule = Callable[[Mapping[Kind, Account], Sequence[Kind]], Kind | None]
"""``(accounts, open kinds)`` to the kind of the next step, or ``None`` to end; at least one kind is open."""


def _joint(accounts: Mapping[Kind, Account], open_kinds: Sequence[Kind]) -> Kind | None:
    """A bandit: the kind that gains most per cost of late, and each a fixed share of the whole."""
    untried = [kind for kind in open_kinds if accounts[kind].steps == 0]
    if untried:
        return untried[0]
    total = sum(accounts[kind].cost for kind in open_kinds)
    starved = [kind for kind in open_kinds if accounts[kind].cost < _LEAST * total]
    if starved:
        return min(starved, key=lambda kind: accounts[kind].cost)
    return max(open_kinds, key=lambda kind: (accounts[kind].rate, -accounts[kind].cost))


def _alternate(accounts: Mapping[Kind, Account], open_kinds: Sequence[Kind]) -> Kind | None:
    """In turn, at equal cost."""
    return min(open_kinds, key=lambda kind: (accounts[kind].cost, open_kinds.index(kind)))


def _one_after_the_other(first: Kind, second: Kind) -> Schedule:
    """The first kind to its end, or until half of the budget is used up; then the other with all that is left."""

    def choose(accounts: Mapping[Kind, Account], open_kinds: Sequence[Kind]) -> Kind | None:
        halfway = accounts[first].share >= 0.5 or accounts[second].steps > 0
        if first in open_kinds and not (halfway and second in open_kinds):
            return first if accounts[second].steps == 0 else None
        return second

    return choose


SCHEDULES: Mapping[str, Schedule] = {
    "joint": _joint,
    "alternate": _alternate,
    "tensors then texts": _one_after_the_other("tensors", "texts"),
    "texts then tensors": _one_after_the_other("texts", "tensors"),
}


def find_schedule(name: str) -> Schedule:
    """The schedule of this name.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in SCHEDULES:
        raise ConfigurationError(f"schedule: expected one of {', '.join(map(repr, SCHEDULES))}, got {name!r}")
    return SCHEDULES[name]
