"""What differs between two runs, for a reader. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hyperfunc.journal.history import JournalHistory
from hyperfunc.journal.records import RunRecord
from hyperfunc.parameters.theta import Theta
from hyperfunc.usage import Usage

__all__ = ["Comparison", "compare_runs", "total_spend"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        config: keys that differ, with both values; ``None`` where one run does not set it.
        same_program, same_data: whether their hashes agree.
        fitness: the last recorded value of each statistic, both runs.
        spend: the sum over generations.
        texts: parameters whose best text differs, with both.
        tensor_distances: the Euclidean distance between the best tensors, where both have them in one shape.
    """

    runs: tuple[RunRecord, RunRecord]
    config: dict[str, tuple[Any, Any]]
    same_program: bool
    same_data: bool
    fitness: dict[str, tuple[float | None, float | None]]
    spend: tuple[Usage, Usage]
    texts: dict[str, tuple[Any, Any]]
    tensor_distances: dict[str, float]


def total_spend(history: JournalHistory, name: str) -> Usage:
    """What a run used, summed over its generations and components."""
    return sum((usage for g in history.generations(name) for usage in g.spend.values()), Usage())


def compare_runs(history: JournalHistory, first: str, second: str) -> Comparison:
    """Compare two runs of one journal.

    Raises:
        JournalError: one of them does not exist.
    """
    runs = (history.run(first), history.run(second))
    configs = (runs[0].config, runs[1].config)
    last = tuple(dict(g[-1].fitness) if (g := history.generations(run.name)) else {} for run in runs)
    thetas = tuple(history.best_theta(run.name) if run.generations or run.best_theta else Theta() for run in runs)
    texts = (thetas[0].texts, thetas[1].texts)
    tensors = (thetas[0].tensors, thetas[1].tensors)
    return Comparison(
        runs=runs,
        config=_differing(*configs),
        same_program=runs[0].program_hash == runs[1].program_hash,
        same_data=runs[0].data_hash == runs[1].data_hash,
        fitness={name: (last[0].get(name), last[1].get(name)) for name in sorted({*last[0], *last[1]})},
        spend=(total_spend(history, first), total_spend(history, second)),
        texts=_differing(*texts),
        tensor_distances={
            name: float((tensors[0][name].double() - tensors[1][name].double()).norm())
            for name in sorted(tensors[0].keys() & tensors[1].keys())
            if tensors[0][name].shape == tensors[1][name].shape
        },
    )


def _differing(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    names = sorted({*one, *other})
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
