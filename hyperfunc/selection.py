"""From what a user hands over to what the loop works on: parameters to move, candidates, examples.

Parameters: the trainable ones, less what ``only=`` and ``freeze=`` leave out.

Patterns are shell-style and match a component (``"encoder"``), a parameter (``"encoder.hp"``) or several
(``"reader.*"``). Knows nothing of strategies beyond what they search (:class:`ParameterGroup`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from hyperfunc.errors import EvaluationError, UnknownParameterError
from hyperfunc.evaluation.example import Example
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec
from hyperfunc.parameters.theta import Theta
from hyperfunc.population.members import DenseMembers
from hyperfunc.registry import TensorEntry, TextEntry

__all__ = ["as_examples", "candidate_blocks", "parameter_group", "select_entries"]

Patterns = str | Iterable[str] | None


def _matcher(
    patterns: Patterns, entries: Sequence[TensorEntry | TextEntry]
) -> Callable[[TensorEntry | TextEntry], bool]:
    listed = [patterns] if isinstance(patterns, str) else list(patterns or ())
    names = {e.name for e in entries} | {e.component for e in entries}
    for pattern in listed:
        if not any(_matches(pattern, e) for e in entries):
            raise UnknownParameterError(pattern, names)

    def matches(entry: TensorEntry | TextEntry) -> bool:
        return any(_matches(p, entry) for p in listed)

    return matches


def _matches(pattern: str, entry: TensorEntry | TextEntry) -> bool:
    return (
        fnmatchcase(entry.name, pattern)
        or fnmatchcase(entry.component, pattern)
        or entry.name.startswith(f"{pattern}.")
    )


def select_entries(
    entries: Sequence[TensorEntry], *, only: Patterns = None, freeze: Patterns = None
) -> list[TensorEntry]:
    """The trainable entries that ``only`` names (all without it) and ``freeze`` does not.

    Raises:
        UnknownParameterError: a pattern matches nothing.
    """
    wanted = _matcher(only, entries)
    frozen = _matcher(freeze, entries)
    return [e for e in entries if e.spec.trainable and (only is None or wanted(e)) and not frozen(e)]


def parameter_group(entries: Iterable[TensorEntry]) -> ParameterGroup:
    """What a strategy searches, for these entries."""
    return ParameterGroup(
        {
            e.name: ParameterSpec(e.spec.shape, e.spec.dtype, e.spec.bounds, e.spec.noise_rank, e.spec.integer)
            for e in entries
        }
    )


def as_examples(data: Iterable[Example]) -> list[Example]:
    """``data`` as a list of examples.

    Raises:
        EvaluationError: it is empty, or something in it is no example.
    """
    examples = list(data)
    if not examples:
        raise EvaluationError("expected at least one example, got none")
    for position, example in enumerate(examples):
        if not isinstance(example, Example):
            raise EvaluationError(
                f"entry {position} of the examples is a {type(example).__name__}; write Example(inputs, expected)"
            )
    return examples


def candidate_blocks(
    theta: Theta, candidates: Sequence[Mapping[str, Tensor]], block_size: int = 64
) -> list[dict[str, DenseMembers]]:
    """Candidates as blocks of dense members; what a candidate does not name keeps its value of ``theta``.

    Raises:
        ShapeError, UnknownParameterError, ParameterTypeError: a candidate does not fit.
    """
    for candidate in candidates:
        theta.replace(candidate)  # checks names, shapes and types
    names = sorted({name for candidate in candidates for name in candidate})
    blocks = []
    for start in range(0, len(candidates), block_size):
        part = candidates[start : start + block_size]
        blocks.append({n: DenseMembers(torch.stack([c.get(n, theta.tensors[n]) for c in part])) for n in names})
    return blocks
