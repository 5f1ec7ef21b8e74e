"""What a journal hands out: plain immutable records. Knows nothing of SQLite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hyperfunc.usage import Usage

if TYPE_CHECKING:  # reading a journal needs no torch
    from torch import Tensor

    from hyperfunc.parameters.theta import Theta

__all__ = [
    "CandidateRecord",
    "EventRecord",
    "GenerationRecord",
    "PaidCallRecord",
    "ResumePoint",
    "RunHandle",
    "RunRecord",
    "RunStatus",
    "ScoreRecord",
    "TraceRecord",
    "TracedCall",
]

RunStatus = Literal["running", "interrupted", "finished", "failed"]
"""``interrupted``: it was running, and the process that ran it is gone."""


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run that this process may write to, until it is finished or the journal is closed."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run.

    Attributes:
        created_at, updated_at: seconds since the epoch.
        environment: versions and platform that the run began with.
        best_theta: key of a snapshot.
        generations: how many are recorded, the initial one not counted.
    """

    id: int
    name: str
    status: RunStatus
    created_at: float
    updated_at: float
    seed: int
    config: Mapping[str, Any]
    program_hash: str
    data_hash: str
    git_revision: str | None
    environment: Mapping[str, Any]
    finish_reason: str | None
    best_score: float | None
    best_theta: str | None
    generations: int


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One generation: ``number`` 0 is the state before the first.

    Attributes:
        theta, state: keys of snapshots, ``None`` where none was kept.
        fitness: statistics by name (``best``, ``mean``, ``validation``, ``sigma``, …).
        budget: the budget's state after this generation.
        spend: usage of this generation alone, by component.
        call_sequence: paid calls up to this one were kept before.
    """

    number: int
    created_at: float
    theta: str | None
    state: str | None
    fitness: Mapping[str, float]
    budget: Mapping[str, Any] | None
    spend: Mapping[str, Usage]
    call_sequence: int = 0


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    """A proposed θ: where it came from, what it is, what became of it.

    Attributes:
        key: unique within its run; what parents are named by.
        verdict: ``seed``, ``accepted``, ``rejected``, ``failed`` or a word of the proposer's.
        reason: why, for a reader.
        texts: the texts that it changes, or all of them.
        theta: key of a snapshot, if one was kept.
        usage: what proposing it cost.
        detail: JSON values, free for the proposer.
    """

    key: str
    generation: int = 0
    parents: tuple[str, ...] = ()
    proposer: str = ""
    verdict: str = ""
    reason: str = ""
    texts: Mapping[str, Any] = field(default_factory=dict)
    theta: str | None = None
    usage: Usage = field(default_factory=Usage)
    detail: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoreRecord:
    """The score of one candidate on one example; ``None`` where the evaluation failed."""

    candidate: str
    example: str
    score: float | None
    split: str = "train"
    repeat: int = 0
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened in a run, in order."""

    sequence: int
    created_at: float
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PaidCallRecord:
    """A paid call as it is kept, without its result.

    Attributes:
        component: on whose account it is (an endpoint's alias, …); empty where an older hyperfunc kept it.
        times_paid: 1 unless equal calls were in flight together.
    """

    sequence: int
    key: str
    kind: str
    usage: Usage
    created_at: float
    result_bytes: int
    times_paid: int = 1
    component: str = ""


@dataclass(frozen=True, slots=True)
class TracedCall:
    """One call of a trace.

    Attributes:
        start: seconds after the first call of the trace began.
        seconds: how long it took; of an unfinished one, 0.
        inputs, output: previews; empty where content was not kept.
        error: the error's type and message, if it failed.
    """

    id: int
    function: str
    parent: int | None = None
    start: float = 0.0
    seconds: float = 0.0
    inputs: str = ""
    output: str = ""
    error: str | None = None
    attempts: int = 1
    usage: Usage = field(default_factory=Usage)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"usage": self.usage.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TracedCall:
        return cls(**{**data, "usage": Usage.from_dict(data["usage"])})


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """What one execution of the program called.

    Attributes:
        label: which program ran: ``"best"``, a candidate's key, …
        edges: (source id, target id, kind), see :class:`hyperfunc.tape.Edge`.
    """

    sequence: int
    generation: int
    example: str
    label: str
    created_at: float
    seconds: float
    calls: tuple[TracedCall, ...]
    edges: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What is needed to go on with a run.

    Attributes:
        run: the handle to record under.
        generation: how many generations are complete; go on with the next one.
        theta: θ after that generation; ``None`` if not even the initial one was recorded.
        strategy_tensors, strategy_meta: the strategy's state then.
        budget: the budget's state then.
        owed: what the calls cost that were paid after that record, by content key; they will now be answered from the
            journal, and the budget's state does not hold them (see :class:`hyperfunc.relived.RelivedCalls`).
        history: all complete generations, oldest first.
        finish_reason: set if the run had ended; it may still be continued.
    """

    run: RunHandle
    generation: int
    theta: Theta | None
    strategy_tensors: Mapping[str, Tensor]
    strategy_meta: Any
    budget: Mapping[str, Any] | None
    owed: Mapping[str, Usage]
    history: tuple[GenerationRecord, ...]
    finish_reason: str | None
