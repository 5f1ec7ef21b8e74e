"""The few numbers of a run that change while it goes on, and their JSON form. Knows nothing of how they come about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperfunc.budget import Budget
from hyperfunc.history import Generation, History
from hyperfunc.optimization.schedule import KINDS, Account, Kind
from hyperfunc.parameters.theta import Theta

__all__ = ["RunProgress"]

_ABOUT_TEXTS = ("texts_left", "texts_cut", "cut_at")


@dataclass
class RunProgress:
    """What changes while the loop runs.

    Attributes:
        best_theta, best_fitness: what is adopted, and its fitness on the selection data; NaN if never evaluated.
        initial_fitness: that of the θ that the run began with.
        without_improvement: evaluations on the selection data since the last improvement.
        evaluations: (member, example) runs.
        dropped: members without fitness.
        errors: the first few errors of runs.
        history: every step.
        pretest_runs: how many runs the pre-test made.
        texts_left: why texts are not improved although they could be.
        texts_cut, cut_at: the limit that ended a step of texts, ``""`` if none did, and what it was.
        accounts: what each kind of step has cost and gained.
    """

    best_theta: Theta
    best_fitness: float = math.nan
    initial_fitness: float = math.nan
    without_improvement: int = 0
    evaluations: int = 0
    dropped: int = 0
    errors: list[Exception] = field(default_factory=list)
    history: History = field(default_factory=History)
    pretest_runs: int = 0
    texts_left: str = ""
    texts_cut: str = ""
    cut_at: float | None = None
    accounts: dict[Kind, Account] = field(default_factory=lambda: {"tensors": Account(), "texts": Account()})

    def adopt(self, fitness: float, theta: Theta) -> None:
        """``theta`` was accepted by another test than its fitness alone, and ``fitness`` is what it has."""
        self.best_fitness, self.best_theta = fitness, theta
        self.without_improvement = 0

    def offer(self, fitness: float, theta: Theta) -> None:
        """Adopt ``theta`` if its fitness is the best so far; NaN and infinity never are."""
        if math.isnan(self.initial_fitness) and not self.history.generations:
            self.initial_fitness = fitness
        if math.isfinite(fitness) and not fitness <= self.best_fitness:
            self.best_fitness, self.best_theta = fitness, theta
            self.without_improvement = 0
        else:
            self.without_improvement += 1

    def to_json(self) -> dict[str, Any]:
        """Everything but θ and the errors, as JSON values (NaN becomes ``None``)."""
        return {
            "best_fitness": _json_number(self.best_fitness),
            "initial_fitness": _json_number(self.initial_fitness),
            "without_improvement": self.without_improvement,
            "evaluations": self.evaluations,
            "dropped": self.dropped,
            "history": [{k: _json_number(v) for k, v in g.to_dict().items()} for g in self.history],
            "pretest_runs": self.pretest_runs,
            "texts_left": self.texts_left,
            "texts_cut": self.texts_cut,
            "cut_at": self.cut_at,
            "accounts": {kind: account.to_dict() for kind, account in self.accounts.items()},
        }

    def restore(self, data: Mapping[str, Any], best_theta: Theta) -> None:
        """Become what :meth:`to_json` gave."""
        self.best_theta = best_theta
        self.best_fitness = math.nan if data["best_fitness"] is None else data["best_fitness"]
        self.initial_fitness = math.nan if data["initial_fitness"] is None else data["initial_fitness"]
        for name in ("without_improvement", "evaluations", "dropped", "pretest_runs", *_ABOUT_TEXTS):
            setattr(self, name, data[name])
        self.history = History([Generation.from_dict(record) for record in data["history"]])
        self.accounts = {kind: Account(**data["accounts"][kind]) for kind in KINDS}

    def cut_texts(self, limit: str, budget: Budget | None) -> None:
        """A step of texts did not fit into ``limit`` of ``budget``: there will be no other."""
        self.texts_cut = limit
        self.cut_at = None if budget is None else budget.limits.get(limit)

    def reopen_texts(self, budget: Budget | None) -> None:
        """Forget that texts were cut if ``budget`` has another limit now."""
        now = None if budget is None else budget.limits.get(self.texts_cut)
        if self.texts_cut and now != self.cut_at:
            self.texts_cut, self.cut_at = "", None

    def note_errors(self, errors: Mapping[int, Exception]) -> None:
        self.dropped += len(errors)
        self.errors += list(errors.values())[: max(0, 10 - len(self.errors))]


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
