"""What is taken away from a run: prompts as plain files, the diff, the front of score against cost.

Knows nothing of how a run went; files are read without hyperfunc as well as with it.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyperfunc.errors import ConfigurationError
from hyperfunc.files import write_atomically
from hyperfunc.parameters.files import save_theta
from hyperfunc.parameters.theta import JSONValue, Theta

__all__ = ["ParetoPoint", "diff_texts", "export_result", "pareto_front"]

_COSTS = ("usd", "tokens", "calls", "seconds")
_UNSAFE = re.compile(r"[^\w.-]")


class Scored(Protocol):
    """A candidate as prompt optimizers keep it."""

    id: int
    texts: Mapping[str, JSONValue]
    fitness: float

    @property
    def run_cost(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class ParetoPoint:
    """A candidate on the front.

    Attributes:
        score: mean on the validation examples.
        cost: of one run of the program, in the unit that was asked for.
        texts: its texts, by dotted name.
        candidate: its id in the pool.
    """

    score: float
    cost: float
    texts: Mapping[str, JSONValue]
    candidate: int


class Result(Protocol):
    """What :func:`export_result` needs of a run's result."""

    @property
    def theta(self) -> Theta: ...

    @property
    def best_fitness(self) -> float: ...

    @property
    def initial_fitness(self) -> float: ...

    @property
    def finish_reason(self) -> str: ...


def pareto_front(candidates: Iterable[Scored], cost: str = "usd") -> list[ParetoPoint]:
    """Candidates that no other one matches in score at no more cost, the cheapest first. One of equals is kept.

    Raises:
        ConfigurationError: there is no such cost.
    """
    if cost not in _COSTS:
        raise ConfigurationError(f"cost: expected one of {', '.join(map(repr, _COSTS))}, got {cost!r}")
    known = [c for c in candidates if math.isfinite(c.fitness) and cost in c.run_cost]
    front: list[ParetoPoint] = []
    for one in sorted(known, key=lambda c: (c.run_cost[cost], -c.fitness, c.id)):
        if not front or one.fitness > front[-1].score:
            front.append(ParetoPoint(one.fitness, one.run_cost[cost], dict(one.texts), one.id))
    return front


def diff_texts(
    before: Mapping[str, JSONValue], after: Mapping[str, JSONValue], labels: tuple[str, str] = ("before", "after")
) -> str:
    """A unified diff of every text that changed, by dotted name."""
    parts: list[str] = []
    for name, new in after.items():
        old = before.get(name, new)
        if old != new:
            parts += difflib.unified_diff(
                _lines(old), _lines(new), f"{name} ({labels[0]})", f"{name} ({labels[1]})", lineterm=""
            )
    return "\n".join(parts)


def export_result(result: Result, folder: str | Path) -> Path:
    """Write a result for production.

    ``prompts/NAME.txt`` holds a text as it is, ``texts.json`` all texts by dotted name (no hyperfunc is needed to read
    either), ``theta.safetensors`` and ``theta.json`` the whole θ for ``system.load(folder)``, ``result.json`` scores.
    Files are replaced one by one, each whole; ``result.json`` comes last.

    Returns:
        The folder.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    texts = result.theta.texts
    for name, value in texts.items():
        if isinstance(value, str):
            (target / "prompts").mkdir(exist_ok=True)
            write_atomically(target / "prompts" / f"{_UNSAFE.sub('_', name)}.txt", value.encode())
    write_atomically(target / "texts.json", _json(texts))
    save_theta(result.theta, target / "theta")
    summary = {
        "content_hash": result.theta.content_hash,
        "fitness": _finite(result.best_fitness),
        "initial_fitness": _finite(result.initial_fitness),
        "finish_reason": result.finish_reason,
    }
    write_atomically(target / "result.json", _json(summary))
    return target


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _lines(value: JSONValue) -> list[str]:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return text.splitlines()
