"""The few numbers of a run that change while it goes on, and their JSON form. Knows nothing of how they come about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperfunc.history import Generation, History
from hyperfunc.optimization.schedule import KINDS, Account, Kind
from hyperfunc.parameters.theta import Theta

__all__ = ["RunProgress"]


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
        texts_left: why texts are not improved although they could be.
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
    texts_left: str = ""
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
            "texts_left": self.texts_left,
            "accounts": {kind: account.to_dict() for kind, account in self.accounts.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], best_theta: Theta) -> RunProgress:
        """What :meth:`to_json` gave."""
        generations = [Generation.from_dict(record) for record in data["history"]]
        return cls(
            best_theta,
            math.nan if data["best_fitness"] is None else data["best_fitness"],
            math.nan if data["initial_fitness"] is None else data["initial_fitness"],
            data["without_improvement"],
            data["evaluations"],
            data["dropped"],
            history=History(generations),
            texts_left=data["texts_left"],
            accounts={kind: Account(**data["accounts"][kind]) for kind in KINDS},
        )

    def note_errors(self, errors: Mapping[int, Exception]) -> None:
        self.dropped += len(errors)
        self.errors += list(errors.values())[: max(0, 10 - len(self.errors))]


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
