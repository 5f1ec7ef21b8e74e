"""Did a program call the right tools? Metrics of a sequence of calls, which may come from a tape."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.content import content_digest
from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.tape import Call as RecordedCall
from hyperfunc.tape import Tape

__all__ = ["Call", "Trajectory", "TrajectoryMetrics", "TrajectoryScorer", "trajectory_metrics"]


class HasSignature(Protocol):
    """A component, as far as its arguments' names go."""

    @property
    def signature(self) -> inspect.Signature: ...


class Call(NamedTuple):
    """One call: the function's name and its arguments by name."""

    name: str
    arguments: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Trajectory:
    """The calls of one run, in the order in which they began.

    Attributes:
        calls: may be given as names, as pairs ``(name, arguments)``, or as :class:`Call`.
    """

    calls: tuple[Call, ...] = field(default=())

    def __init__(self, calls: Iterable[Call | str | tuple[str, Mapping[str, Any]]] = ()) -> None:
        object.__setattr__(self, "calls", tuple(_as_call(call) for call in calls))

    @classmethod
    def from_tape(
        cls, tape: Tape, components: Mapping[str, HasSignature] | None = None, *, only: Container[str] | None = None
    ) -> Trajectory:
        """The calls of a recorded run, those made inside calls and those that failed included.

        Args:
            tape: from ``await system.record(inputs)``.
            components: by dotted name, to name positional arguments (``system.registry.all_components()``). Of a call
                whose component is not among them, these are named by their position: ``"0"``, ``"1"``, ….
            only: dotted names of the components that count (the tools); all without it.
        """
        return cls(
            (call.function, _inputs(call, components or {})) for call in tape if only is None or call.function in only
        )

    @property
    def names(self) -> list[str]:
        """The names of the calls."""
        return [call.name for call in self.calls]

    def __len__(self) -> int:
        return len(self.calls)


@dataclass(frozen=True)
class TrajectoryMetrics:
    """How a trajectory compares with the expected one; each figure lies in [0, 1].

    With E expected calls, A actual ones, M in common (a call counts as often as both have it) and L the longest common
    subsequence:

    Attributes:
        exact_match: 1 for the same calls in the same order, else 0.
        in_order: ``L / E``: expected calls made, in the expected order.
        precision: ``M / A``: calls made that were expected.
        recall: ``M / E``: expected calls that were made.
        f1: harmonic mean of precision and recall.
        tool_efficiency: ``recall × min(1, E / A)``: 1 for all that was needed in no more calls than needed, half of
            that for twice as many; 0 for a run that does nothing of use.

    Where nothing is expected, doing nothing is perfect; every call is then superfluous. A run without calls has no
    wrong ones: its precision is 1, its recall 0.
    """

    exact_match: float
    in_order: float
    precision: float
    recall: float
    f1: float
    tool_efficiency: float

    def to_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


def trajectory_metrics(
    actual: Trajectory, expected: Trajectory, *, match: Literal["name", "arguments"] = "name"
) -> TrajectoryMetrics:
    """Compare two trajectories.

    Args:
        actual: what a run called.
        expected: what it should have called.
        match: whether calls are equal by name alone, or by name and content of their arguments.
    """
    made, wanted = _keys(actual, match), _keys(expected, match)
    common = sum((Counter(made) & Counter(wanted)).values())
    precision = common / len(made) if made else 1.0
    recall = common / len(wanted) if wanted else 1.0
    if not wanted:
        precision = in_order = efficiency = 0.0 if made else 1.0
        recall = 1.0
    else:
        in_order = _longest_common(made, wanted) / len(wanted)
        efficiency = recall * min(1.0, len(wanted) / len(made)) if made else 0.0
    return TrajectoryMetrics(
        exact_match=float(made == wanted),
        in_order=in_order,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        tool_efficiency=efficiency,
    )


@dataclass(frozen=True)
class TrajectoryScorer:
    """One of the figures as a score, all of them as objectives; outputs and expected values are trajectories.

    Args:
        metric: which figure is the score.
        match: as in :func:`trajectory_metrics`.
    """

    metric: Literal["exact_match", "in_order", "precision", "recall", "f1", "tool_efficiency"] = "exact_match"
    match: Literal["name", "arguments"] = "name"

    def __post_init__(self) -> None:
        if self.metric not in TrajectoryMetrics.__dataclass_fields__:
            known = ", ".join(TrajectoryMetrics.__dataclass_fields__)
            raise EvaluationError(f"unknown trajectory metric {self.metric!r}; known: {known}")

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Compare the calls of one run; both sides are a :class:`Trajectory`, or what makes one."""
        actual, wanted = _as_trajectory(output), _as_trajectory(expected)
        figures = trajectory_metrics(actual, wanted, match=self.match).to_dict()
        missing = Counter(_keys(wanted, self.match)) - Counter(_keys(actual, self.match))
        extra = Counter(_keys(actual, self.match)) - Counter(_keys(wanted, self.match))
        words = [
            *(f"missing {count} × {name}" for (name, _), count in missing.items()),
            *(f"superfluous {count} × {name}" for (name, _), count in extra.items()),
        ]
        if not words and not figures["exact_match"]:
            words = [f"right calls in another order: {', '.join(actual.names)}; expected {', '.join(wanted.names)}"]
        return ScoreResult(figures[self.metric], "; ".join(words), objectives=figures)


def _inputs(call: RecordedCall, components: Mapping[str, HasSignature]) -> dict[str, Any]:
    component = components.get(call.function)
    if component is None:
        return {**{str(position): value for position, value in enumerate(call.args)}, **call.kwargs}
    return call.inputs(component.signature)


def _as_trajectory(value: Any) -> Trajectory:
    if isinstance(value, Trajectory):
        return value
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        return Trajectory(value)
    raise EvaluationError(f"expected a Trajectory or a list of calls, got {type(value).__qualname__}")


def _as_call(call: Any) -> Call:
    if isinstance(call, str):
        return Call(call, {})
    if isinstance(call, Sequence) and len(call) == 2 and isinstance(call[0], str) and isinstance(call[1], Mapping):
        return Call(call[0], dict(call[1]))
    raise EvaluationError(f"a call is a name or a pair (name, arguments), got {call!r}")


def _keys(trajectory: Trajectory, match: str) -> list[tuple[str, str]]:
    if match not in ("name", "arguments"):
        raise EvaluationError(f"match must be 'name' or 'arguments', got {match!r}")
    with_arguments = match == "arguments"
    return [(call.name, content_digest(call.arguments) if with_arguments else "") for call in trajectory.calls]


def _longest_common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Length of the longest common subsequence, by the row-by-row table."""
    row = [0] * (len(b) + 1)
    for item in a:
        diagonal = 0
        for column, other in enumerate(b, start=1):
            above = row[column]
            row[column] = diagonal + 1 if item == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]
