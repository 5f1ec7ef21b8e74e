"""Plain ``metric_fn(predictions, expected) -> float`` over one member and over a population.

Knows nothing of programs. A metric is the user's Python: it loops, calls ``float()`` on every prediction, may raise for
one member and not for the next. What it gets is real tensors: one bulk ``unbind`` per member makes them in under a
microsecond each, so that a metric over 64 members and 200 examples costs its own arithmetic and little more.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.errors import BudgetError, EvaluationError
from hyperfunc.evaluation.results import as_score, check_lengths

__all__ = ["MetricFn", "PopulationScores", "metric_over_population", "metric_score", "split_predictions"]

MetricFn = Callable[[list[Any], list[Any]], float]
"""``metric_fn(predictions, expected) -> float``: one entry per example in both lists; higher is better."""


@dataclass(frozen=True)
class PopulationScores:
    """One metric value per member.

    Attributes:
        values: float64 ``[members]``; NaN for a member whose metric raised or was NaN.
        errors: what the metric raised, one entry per member, ``None`` where it did not.
    """

    values: Tensor
    errors: tuple[Exception | None, ...]

    @property
    def failure_count(self) -> int:
        """How many members' metrics raised."""
        return sum(error is not None for error in self.errors)


def metric_score(metric_fn: MetricFn, predictions: Sequence[Any], expected: Sequence[Any]) -> float:
    """The metric of one member; both lists are the metric's own copies.

    Raises:
        EvaluationError: the lengths differ or are 0, or the metric returned no number; what the metric itself raises
            passes unchanged.
    """
    check_lengths(predictions=predictions, expected=expected)
    value: Any = metric_fn(list(predictions), list(expected))
    if inspect.iscoroutine(value):
        value.close()
        raise EvaluationError(
            f"{_name(metric_fn)} is asynchronous; a metric_fn returns a float. Give a scorer instead: FunctionScorer"
        )
    return as_score(value, f"the value of {_name(metric_fn)}(predictions, expected)")


def metric_over_population(
    metric_fn: MetricFn, predictions: Iterable[Sequence[Any]], expected: Sequence[Any]
) -> PopulationScores:
    """The metric of every member.

    Args:
        metric_fn: the user's metric.
        predictions: one list of predictions per member: :func:`split_predictions`, or what a gathered run returned.
        expected: one entry per example, the same for all members.

    Raises:
        EvaluationError: there is no member, a member's predictions and ``expected`` differ in length, or the metric
            failed for *all* members, which is then the metric's fault and no member's; the first error is the cause.
    """
    values: list[float] = []
    errors: list[Exception | None] = []
    for member_predictions in predictions:
        check_lengths(predictions=member_predictions, expected=expected)
        try:
            values.append(metric_score(metric_fn, member_predictions, expected))
            errors.append(None)
        except BudgetError:  # spent for every member alike: the evaluation ends
            raise
        except Exception as error:
            values.append(math.nan)
            errors.append(error)
    if not values:
        raise EvaluationError("a population needs at least one member, got no predictions")
    first = errors[0]
    if first is not None and all(error is not None for error in errors):
        members = "its only member" if len(errors) == 1 else f"all {len(errors)} members"
        raise EvaluationError(
            f"{_name(metric_fn)} failed for {members}, first with {type(first).__qualname__}: {first}"
        ) from first
    return PopulationScores(torch.tensor(values, dtype=torch.float64), tuple(errors))


def split_predictions(
    outputs: Any,  # tensors of [members, examples, *features], alone or in lists, tuples and dicts
    *,
    members: int,
    examples: int,
    expected: Sequence[Any] = (),
) -> Iterator[list[Any]]:
    """What a lifted run returned, as one list of predictions per member, made when that member's turn comes.

    Predictions are real, detached tensors ``[*features]`` (0-dimensional where an output is one number), so that
    ``float(p)``, ``p.item()``, ``p > 0.5`` and ``torch.stack(predictions)`` work. Leaves that are no tensors are
    constants: every prediction holds the same one. Outputs on an accelerator are brought to the CPU in one copy, or
    else each ``float()`` would wait for the device; they stay there when an ``expected`` tensor lives there too.

    Raises:
        EvaluationError: a tensor's first two axes are not ``[members, examples]``.
    """
    if members < 1 or examples < 1:
        raise EvaluationError(f"nothing to score: {members} members and {examples} examples")
    keep_device = any(isinstance(leaf, Tensor) and leaf.device.type != "cpu" for leaf in pytree.tree_leaves(expected))
    leaves, structure = pytree.tree_flatten(outputs)
    prepared: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if leaf.shape[:2] != (members, examples):
                raise EvaluationError(
                    f"outputs must be [members, examples, ...] = [{members}, {examples}, ...], got {list(leaf.shape)}"
                )
            leaf = leaf.detach()
            leaf = leaf if keep_device else leaf.cpu()
        prepared.append(leaf)
    return _members(prepared, structure, members, examples)


def _members(leaves: list[Any], structure: pytree.TreeSpec, members: int, examples: int) -> Iterator[list[Any]]:
    single_tensor = structure.is_leaf() and isinstance(leaves[0], Tensor)
    for member in range(members):
        columns = [list(leaf[member].unbind()) if isinstance(leaf, Tensor) else [leaf] * examples for leaf in leaves]
        if single_tensor:
            yield columns[0]
        else:
            yield (
                [structure.unflatten(row) for row in zip(*columns, strict=True)]
                if columns
                else ([structure.unflatten([]) for _ in range(examples)])
            )


def _name(metric_fn: MetricFn) -> str:
    return getattr(metric_fn, "__qualname__", type(metric_fn).__qualname__)
