"""What a scorer is, and how many outputs are scored at once. Knows no particular scorer and no program.

Three ways lead to a score per example:

* :func:`score_batch`: synchronous scorers, one example after the other;
* :func:`score_all`: any scorer; asynchronous ones (judges) run concurrently;
* :func:`score_members`: scorers that read tensors score ``[members, examples, …]`` in one call, without a Python loop.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hyperfunc.errors import EvaluationError, HyperfuncError
from hyperfunc.evaluation.concurrency import run_together
from hyperfunc.evaluation.results import ScoreResult, check_lengths

__all__ = [
    "BaseScorer",
    "MaybeAsynchronous",
    "Scorer",
    "TensorScorer",
    "as_tensor_scorer",
    "is_asynchronous",
    "score_all",
    "score_batch",
    "score_members",
]

Inputs = Mapping[str, Any]


@runtime_checkable
class Scorer(Protocol):
    """Anything with ``score(output, expected, inputs=None)``; it may be a plain or an ``async`` method."""

    def score(self, output: Any, expected: Any, inputs: Inputs | None = None) -> ScoreResult | Awaitable[ScoreResult]:
        """Score one output against what was expected; higher is better."""
        ...


@runtime_checkable
class TensorScorer(Protocol):
    """A scorer that also scores whole tensors.

    ``supports_tensors`` may be false on an instance whose settings or parts forbid it (a composite with a text part).
    """

    @property
    def supports_tensors(self) -> bool:
        """Whether this instance can score tensors."""
        ...

    def score_tensor(
        self,
        outputs: Tensor,  # [members, examples, *features]
        expected: Tensor,  # [examples, *features]
    ) -> Tensor:  # [members, examples], floating
        """Scores of every output against its example; no Python loop, no broadcasting over features."""
        ...


@runtime_checkable
class MaybeAsynchronous(Protocol):
    """A scorer of which ``score`` is a plain method that returns an awaitable when ``asynchronous`` is true."""

    @property
    def asynchronous(self) -> bool:
        """Whether this instance's answers have to be awaited."""
        ...


class BaseScorer(ABC):
    """Base of the synchronous built-in scorers: ``score`` is theirs, ``score_batch`` follows from it."""

    @abstractmethod
    def score(self, output: Any, expected: Any, inputs: Inputs | None = None) -> ScoreResult:
        """Score one output against what was expected."""

    def score_batch(
        self, outputs: Sequence[Any], expected: Sequence[Any], inputs: Sequence[Inputs | None] | None = None
    ) -> list[ScoreResult]:
        """:meth:`score` for every pair, in order."""
        return score_batch(self, outputs, expected, inputs)


def score_batch(
    scorer: Scorer,
    outputs: Sequence[Any],
    expected: Sequence[Any],
    inputs: Sequence[Inputs | None] | None = None,
) -> list[ScoreResult]:
    """Score every output with a synchronous scorer, in order.

    Raises:
        EvaluationError: the lengths differ, nothing is given, the scorer is asynchronous, it raised (its error is the
            cause), or it returned something else than a :class:`ScoreResult`. Errors of hyperfunc itself (a budget that
            is spent, …) pass unchanged.
    """
    count = check_lengths(outputs=outputs, expected=expected, inputs=inputs)
    results = []
    for position in range(count):
        example_inputs = None if inputs is None else inputs[position]
        try:
            result = scorer.score(outputs[position], expected[position], example_inputs)
        except HyperfuncError:
            raise
        except Exception as error:
            raise _blame(scorer, position, error) from error
        if inspect.isawaitable(result):
            _discard(result)
            raise EvaluationError(f"{_name(scorer)} is asynchronous; await score_all(...) instead of score_batch(...)")
        results.append(_checked(scorer, position, result))
    return results


async def score_all(
    scorer: Scorer,
    outputs: Sequence[Any],
    expected: Sequence[Any],
    inputs: Sequence[Inputs | None] | None = None,
    *,
    concurrency: int | None = None,
) -> list[ScoreResult]:
    """Score every output; results come in the order of the outputs, whatever finished first.

    A synchronous scorer is called in order. An asynchronous one is called for all outputs at once, or for
    ``concurrency`` of them at a time; when one call fails the others are cancelled and awaited, and its error is
    raised.

    Raises:
        EvaluationError: as :func:`score_batch`.
    """
    if concurrency is not None and concurrency < 1:
        raise EvaluationError(f"concurrency must be at least 1 or None, got {concurrency}")
    count = check_lengths(outputs=outputs, expected=expected, inputs=inputs)
    results: dict[int, ScoreResult] = {}
    positions = iter(range(count))

    def start(position: int) -> ScoreResult | Awaitable[ScoreResult]:
        try:
            return scorer.score(outputs[position], expected[position], None if inputs is None else inputs[position])
        except HyperfuncError:
            raise
        except Exception as error:
            raise _blame(scorer, position, error) from error

    async def finish(position: int, pending: Awaitable[ScoreResult]) -> None:
        try:
            result = await pending
        except HyperfuncError:
            raise
        except Exception as error:
            raise _blame(scorer, position, error) from error
        results[position] = _checked(scorer, position, result)

    async def work(first: tuple[int, Awaitable[ScoreResult]] | None) -> None:
        if first is not None:
            await finish(*first)
        for position in positions:
            result = start(position)
            if inspect.isawaitable(result):
                await finish(position, result)
            else:
                results[position] = _checked(scorer, position, result)

    for position in positions:
        result = start(position)
        if inspect.isawaitable(result):
            # From here on answers are waited for. A synchronous scorer never comes here and pays for no task.
            worker_count = count - position if concurrency is None else min(concurrency, count - position)
            await run_together([work((position, result)), *(work(None) for _ in range(worker_count - 1))])
            break
        results[position] = _checked(scorer, position, result)
    return [results[position] for position in range(count)]


def is_asynchronous(scorer: Scorer) -> bool:
    """Whether answers of ``scorer`` may have to be awaited.

    True for an ``async def score``, and for a scorer that says so itself: a composite of judges is asynchronous though
    its ``score`` is a plain method (:class:`MaybeAsynchronous`).
    """
    if isinstance(scorer, MaybeAsynchronous):
        return scorer.asynchronous
    return inspect.iscoroutinefunction(scorer.score)


def as_tensor_scorer(scorer: object) -> TensorScorer | None:
    """``scorer`` if it can score tensors as it is configured, else ``None``."""
    return scorer if isinstance(scorer, TensorScorer) and scorer.supports_tensors else None


def score_members(
    scorer: TensorScorer,
    outputs: Tensor,  # [members, examples, *features]
    expected: Tensor,  # [examples, *features]
) -> Tensor:  # [members, examples], floating
    """Score a whole population in one call.

    Trailing features of size 1 are dropped on either side first (a program that answers ``[1]`` where ``0.0`` was
    expected is an everyday case); nothing else is ever broadcast.

    Raises:
        EvaluationError: shapes that do not belong together (both are named), an empty axis, or a scorer that did not
            return ``[members, examples]``.
    """
    if outputs.ndim < 2 or expected.ndim < 1 or outputs.shape[1] != expected.shape[0]:
        raise EvaluationError(
            "outputs must be [members, examples, ...] and expected [examples, ...] with equally many examples, got "
            f"{list(outputs.shape)} and {list(expected.shape)}"
        )
    members, examples = outputs.shape[:2]
    if members == 0 or examples == 0:
        raise EvaluationError(f"nothing to score: outputs have shape {list(outputs.shape)}")
    expected = expected.to(outputs.device)
    scores = scorer.score_tensor(_without_trailing_ones(outputs, 2), _without_trailing_ones(expected, 1))
    if scores.shape != (members, examples):
        raise EvaluationError(
            f"{_name(scorer)}.score_tensor must return [members, examples] = {[members, examples]}, got "
            f"{list(scores.shape)} for outputs {list(outputs.shape)} and expected {list(expected.shape)}"
        )
    if not scores.is_floating_point():
        scores = scores.to(torch.get_default_dtype())
    return scores.detach()


def _without_trailing_ones(values: Tensor, kept: int) -> Tensor:
    while values.ndim > kept and values.shape[-1] == 1:
        values = values.squeeze(-1)
    return values


def _checked(scorer: Scorer, position: int, result: object) -> ScoreResult:
    if not isinstance(result, ScoreResult):
        raise EvaluationError(
            f"{_name(scorer)}.score must return a ScoreResult, got {type(result).__qualname__} for example {position}"
        )
    return result


def _blame(scorer: Scorer, position: int, error: Exception) -> EvaluationError:
    return EvaluationError(f"{_name(scorer)} failed on example {position}: {type(error).__qualname__}: {error}")


def _discard(pending: Awaitable[Any]) -> None:
    if inspect.iscoroutine(pending):
        pending.close()  # else Python warns that it was never awaited


def _name(scorer: object) -> str:
    return type(scorer).__qualname__
