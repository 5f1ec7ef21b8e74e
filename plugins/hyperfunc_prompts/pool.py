"""The candidate pool: every set of texts that was proposed, where it came from, what it scored, what became of it.

One pool serves all proposers. Nothing is forgotten: a proposal that was rejected is recognised when it comes again and
is not paid for twice. Knows nothing of how proposals are made, run or judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hyperfunc.export import diff_texts
from hyperfunc.parameters.theta import JSONValue, Theta
from hyperfunc.usage import Usage

__all__ = ["Candidate", "CandidatePool", "Verdict"]

Verdict = Literal["pending", "seed", "accepted", "rejected", "refused"]
"""``rejected`` by its scores; ``refused`` before it was run (slots, types, seen before)."""


@dataclass
class Candidate:
    """One set of texts.

    Attributes:
        id: position in the pool; 0 is the seed.
        texts: the learned texts by dotted name.
        parents: ids; two for a merge.
        proposer: who made it.
        changed: names that differ from the first parent.
        evidence: what the proposer was shown and what the tests said, as JSON values.
        scores: score by example id, of every example that it was run on.
        cost: what making and testing it used.
        fitness: mean score on the validation examples when it was judged last; NaN if it never came so far.
        run_cost: what one run of the program uses under it, on average over its runs and without a call store.
        runs: how many runs that is the average of.
        verdict, reason: what became of it, and why in words.
    """

    id: int
    texts: Mapping[str, JSONValue]
    parents: tuple[int, ...] = ()
    proposer: str = "seed"
    changed: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    cost: Usage = field(default_factory=Usage)
    fitness: float = math.nan
    runs: int = 0
    verdict: Verdict = "pending"
    reason: str = ""
    _used: Usage = field(default_factory=Usage)

    def note_run(self, used: Usage) -> None:
        """One more run of the program was made under these texts."""
        self.runs += 1
        self._used += used

    @property
    def run_cost(self) -> dict[str, float]:
        """See the class; by kind: ``usd``, ``tokens``, ``calls``, ``seconds``. Empty before the first run."""
        used = {
            "usd": self._used.usd,
            "tokens": self._used.total_tokens,
            "calls": self._used.calls,
            "seconds": self._used.seconds,
        }
        return {kind: value / self.runs for kind, value in used.items()} if self.runs else {}

    def mean(self, examples: list[str]) -> float:
        """Mean score on these example ids; all must have been run."""
        return sum(self.scores[name] for name in examples) / len(examples)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return {
            "id": self.id,
            "texts": dict(self.texts),
            "parents": list(self.parents),
            "proposer": self.proposer,
            "changed": list(self.changed),
            "evidence": self.evidence,
            "scores": dict(self.scores),
            "cost": self.cost.to_dict(),
            "fitness": None if math.isnan(self.fitness) else self.fitness,
            "run_cost": self.run_cost,
            "runs": self.runs,
            "verdict": self.verdict,
            "reason": self.reason,
        }


class CandidatePool:
    """All candidates of one run, the seed first.

    Args:
        texts: the seed's texts.
    """

    def __init__(self, texts: Mapping[str, JSONValue]) -> None:
        self._candidates = [Candidate(0, dict(texts), verdict="seed", reason="where the run began")]
        self._by_content = {_key(texts): 0}

    @property
    def seed(self) -> Candidate:
        return self._candidates[0]

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates)

    def __getitem__(self, id: int) -> Candidate:
        return self._candidates[id]

    def find(self, texts: Mapping[str, JSONValue]) -> Candidate | None:
        """The candidate with exactly these texts, if there was one; those refused for their form are no candidates."""
        position = self._by_content.get(_key(texts))
        return None if position is None else self._candidates[position]

    def reopen(self) -> None:
        """Texts that were rejected may be proposed again: their scores are no longer those of this program."""
        self._by_content = {_key(c.texts): c.id for c in self if c.verdict in ("seed", "accepted")}

    def add(
        self, texts: Mapping[str, JSONValue], parents: tuple[Candidate, ...], proposer: str, **evidence: Any
    ) -> Candidate:
        """A new candidate. Texts that were there before give a candidate that is already refused, with the reason."""
        before = parents[0].texts
        changed = tuple(name for name in texts if texts[name] != before[name])
        ids = tuple(parent.id for parent in parents)
        candidate = Candidate(len(self), dict(texts), ids, proposer, changed, dict(evidence))
        known = self.find(texts)
        if known is None:
            self._by_content[_key(texts)] = candidate.id
        else:
            candidate.verdict = "refused"
            candidate.reason = f"the same texts as candidate {known.id} ({known.verdict})"
        self._candidates.append(candidate)
        return candidate

    def turned_down(self, name: str, limit: int) -> list[Candidate]:
        """The latest candidates that changed ``name`` and lost by their scores, newest last."""
        lost = [c for c in self if c.verdict == "rejected" and name in c.changed]
        return lost[-limit:] if limit else []

    def lineage(self, candidate: Candidate) -> list[Candidate]:
        """From the seed to ``candidate``, by first parents."""
        line = [candidate]
        while line[-1].parents:
            line.append(self[line[-1].parents[0]])
        return line[::-1]

    def ancestors(self, candidate: Candidate) -> set[int]:
        """Ids of all ancestors, by all parents."""
        found: set[int] = set()
        open_ids = list(candidate.parents)
        while open_ids:
            id = open_ids.pop()
            if id not in found:
                found.add(id)
                open_ids += self[id].parents
        return found

    def diff(self, candidate: Candidate, against: Candidate | None = None) -> str:
        """A unified diff of every changed text, against the first parent unless told; ``""`` for the seed."""
        if against is None:
            if not candidate.parents:
                return ""
            against = self[candidate.parents[0]]
        return diff_texts(against.texts, candidate.texts, (str(against.id), str(candidate.id)))

    def to_dict(self) -> dict[str, Any]:
        """All candidates as JSON values."""
        return {"candidates": [candidate.to_dict() for candidate in self]}


def _key(texts: Mapping[str, JSONValue]) -> str:
    return Theta(texts).content_hash
