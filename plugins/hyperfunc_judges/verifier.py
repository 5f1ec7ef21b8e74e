"""Checks written as functions: each passes or says what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import ScoreResult
from hyperfunc.evaluation.scoring import BaseScorer

__all__ = ["Verifier"]


class Verifier(BaseScorer):
    """The share of checks that an output passes, or 1 only when it passes all.

    A check takes ``(output)``, ``(output, expected)`` or ``(output, expected, inputs)``. It fails when it returns a
    false value, a pair ``(False, "what is wrong")``, or a text (what is wrong), or when it raises ``AssertionError``,
    ``ValueError``, ``TypeError`` or a ``LookupError``, as checks do on outputs that lack what they look at. It passes
    when it returns ``True``, ``(True, …)``, or ``None`` after its assertions held.

    Args:
        checks: name → function, or functions (their own names are used).
        all_or_nothing: score 0 unless every check passes.

    Raises:
        EvaluationError: no checks, two of one name, or one that takes no or more than three arguments.
    """

    def __init__(
        self,
        *checks: Callable[..., Any],
        all_or_nothing: bool = False,
        **named_checks: Callable[..., Any],
    ) -> None:
        pairs = [(check.__name__, check) for check in checks] + list(named_checks.items())
        self.checks = dict(pairs)
        self.all_or_nothing = all_or_nothing
        if not pairs or len(self.checks) < len(pairs):
            raise EvaluationError(f"a Verifier needs checks with different names, got {[name for name, _ in pairs]}")
        self._argument_counts = {name: _argument_count(name, check) for name, check in pairs}

    def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Run every check; ``details["failed"]`` names those that failed, ``feedback`` says what was wrong."""
        problems: dict[str, str] = {}
        for name, check in self.checks.items():
            problem = _problem(check, (output, expected, inputs)[: self._argument_counts[name]])
            if problem is not None:
                problems[name] = problem
        share = 1 - len(problems) / len(self.checks)
        return ScoreResult(
            float(share == 1) if self.all_or_nothing else share,
            "\n".join(f"{name}: {problem}" for name, problem in problems.items()),
            {"failed": list(problems)},
        )


def _problem(check: Callable[..., Any], arguments: tuple[Any, ...]) -> str | None:
    try:
        verdict = check(*arguments)
    except (AssertionError, ValueError, TypeError, LookupError) as error:
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(verdict, tuple) and len(verdict) == 2:
        passed, message = verdict
        return None if passed else str(message)
    if isinstance(verdict, str):
        return verdict
    return None if verdict is None or verdict else "failed"


def _argument_count(name: str, check: Callable[..., Any]) -> int:
    parameters = inspect.signature(check).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return 3
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in parameters if parameter.kind in kinds]
    required = sum(parameter.default is inspect.Parameter.empty for parameter in positional)
    if not positional or required > 3:
        raise EvaluationError(f"check {name!r} takes (output), (output, expected) or (output, expected, inputs)")
    return min(3, len(positional))
