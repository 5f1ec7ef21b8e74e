"""Any function as a scorer."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.results import ScoreResult

__all__ = ["FunctionScorer"]


class FunctionScorer:
    """Scores with ``function(output, expected, inputs)``, plain or asynchronous.

    The function may take fewer arguments (``f(output)``, ``f(output, expected)``), and may return a number, a boolean,
    ``None`` (no score), a pair ``(score, feedback)``, or a :class:`ScoreResult`.

    Raises:
        EvaluationError: the function takes no, or more than three, required positional arguments; at a call, it
            returned something else.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        parameters = list(inspect.signature(function).parameters.values())
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        positional = [parameter for parameter in parameters if parameter.kind in kinds]
        takes_any = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
        required = sum(parameter.default is inspect.Parameter.empty for parameter in positional)
        self._argument_count = 3 if takes_any else min(3, len(positional))
        called = function if inspect.isroutine(function) else type(function).__call__
        self.asynchronous = inspect.iscoroutinefunction(inspect.unwrap(called))
        if self._argument_count == 0 or required > 3:
            raise EvaluationError(
                f"a scoring function takes (output), (output, expected) or (output, expected, inputs); "
                f"{getattr(function, '__qualname__', function)} takes {inspect.signature(function)}"
            )

    def score(
        self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None
    ) -> ScoreResult | Awaitable[ScoreResult]:
        """Call the function; awaitable when the function is asynchronous."""
        arguments = (output, expected, inputs)[: self._argument_count]
        if self.asynchronous:
            return self._score_later(arguments)
        answer = self.function(*arguments)
        return self._wait(answer) if inspect.isawaitable(answer) else _as_result(answer)

    async def _score_later(self, arguments: tuple[Any, ...]) -> ScoreResult:
        return _as_result(await self.function(*arguments))

    async def _wait(self, answer: Awaitable[Any]) -> ScoreResult:
        return _as_result(await answer)


def _as_result(answer: Any) -> ScoreResult:
    if isinstance(answer, ScoreResult):
        return answer
    if isinstance(answer, tuple):
        if len(answer) != 2:
            raise EvaluationError(f"a scoring function that returns a tuple returns (score, feedback), got {answer!r}")
        return ScoreResult(answer[0], answer[1])
    return ScoreResult(answer)
