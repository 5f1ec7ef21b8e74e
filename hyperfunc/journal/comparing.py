"""What differs between two runs, for a reader. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hyperfunc.journal.history import JournalHistory
from hyperfunc.journal.records import RunRecord
from hyperfunc.parameters.theta import Theta
from hyperfunc.usage import Usage

__all__ = ["Comparison", "compare_runs"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        program, data: what is different in the second run, in words; empty where nothing is.
        config: settings that differ, with both values; ``None`` where one run does not have it. What an optimizer or a
            metric is made of is compared part by part.
        fitness: the last recorded value of each statistic, both runs.
        spend: the sum over generations.
        texts: parameters whose best text differs, with both.
        tensor_distances: the Euclidean distance between the best tensors, where both have them in one shape.
        tensor_shapes: of the other tensors; ``None`` where a run does not have it.
    """

    runs: tuple[RunRecord, RunRecord]
    program: tuple[str, ...]
    data: tuple[str, ...]
    config: dict[str, tuple[Any, Any]]
    fitness: dict[str, tuple[float | None, float | None]]
    spend: tuple[Usage, Usage]
    texts: dict[str, tuple[Any, Any]]
    tensor_distances: dict[str, float]
    tensor_shapes: dict[str, tuple[Shape | None, Shape | None]]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {"runs": [asdict(run) for run in self.runs], "spend": [usage.to_dict() for usage in self.spend]}


def compare_runs(history: JournalHistory, first: str, second: str) -> Comparison:
    """Compare two runs of one journal.

    Raises:
        JournalError: one of them does not exist.
    """
    runs = (history.run(first), history.run(second))
    last = [dict(g[-1].fitness) if (g := history.generations(run.name)) else {} for run in runs]
    thetas = [history.best_theta(run.name) if history.describe_best(run.name) else Theta() for run in runs]
    (program_then, data_then), (program_now, data_now) = (history.fingerprints(run.name) for run in runs)
    one, other = thetas[0].tensors, thetas[1].tensors
    alike = [name for name in sorted(one.keys() & other.keys()) if one[name].shape == other[name].shape]
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (one, other)]
    return Comparison(
        runs=runs,
        program=tuple(program_then.diff(program_now)),
        data=tuple(data_then.diff(data_now)),
        config=_settings(runs[0].config, runs[1].config),
        fitness={name: (last[0].get(name), last[1].get(name)) for name in sorted({*last[0], *last[1]})},
        spend=(history.total_spend(first), history.total_spend(second)),
        texts=_differing(thetas[0].texts, thetas[1].texts),
        tensor_distances={name: float((one[name].double() - other[name].double()).norm()) for name in alike},
        tensor_shapes=_differing(*shapes),
    )


def _settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    differing: dict[str, tuple[Any, Any]] = {}
    for name, (first, second) in _differing(one, other).items():
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            differing |= {f"{name}: {part}": pair for part, pair in _differing(first, second).items()}
        else:
            differing[name] = (first, second)
    return differing


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted({*one, *other})
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
