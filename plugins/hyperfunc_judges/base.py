"""What all judges that ask a model share: how they ask, and how often. Their questions are their own.

Where ``model``, ``include_inputs`` and ``temperature`` stand in a constructor differs from judge to judge, so that each
declares these itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import ScoreResult, score_all
from hyperfunc_judges.completion import Answer, Complete, Message, ask, section

__all__ = ["ModelJudge", "ScoringJudge"]


class _Declared:
    """Declared by every judge in its own place."""

    model: str
    include_inputs: bool
    temperature: float


@dataclass
class ModelJudge(_Declared, ABC):
    """A judge that asks a model.

    Args:
        model: an alias of the LLM runtime (or a model), looked up at each call; or what ``complete`` is told.
        include_inputs: whether the judge sees the program's inputs.
        temperature: of the model.
        complete: asks the model instead of the LLM runtime; see :class:`hyperfunc_judges.Complete`.
        reasks: how often an unreadable reply is asked for again, ≥ 0.
        max_tokens: longest reply, ≥ 1.

    Raises:
        EvaluationError: a number is out of its range.
    """

    complete: Complete | None = field(default=None, repr=False, kw_only=True)
    reasks: int = field(default=1, kw_only=True)
    max_tokens: int = field(default=1000, kw_only=True)

    def __post_init__(self) -> None:
        if self.reasks < 0:
            raise EvaluationError(f"reasks must be ≥ 0, got {self.reasks}")
        if self.max_tokens < 1:
            raise EvaluationError(f"max_tokens must be ≥ 1, got {self.max_tokens}")

    async def _ask(self, messages: Sequence[Message], read: Callable[[str], Any]) -> Answer:
        return await ask(
            self.complete,
            messages,
            read,
            reasks=self.reasks,
            model=self.model,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
        )

    def _shown(self, criteria: str, inputs: Mapping[str, Any] | None) -> list[str]:
        """The sections that a question begins with."""
        shown = [section("criteria", criteria)]
        if inputs and self.include_inputs:
            shown.append(section("inputs", inputs))
        return shown


@dataclass
class ScoringJudge(ModelJudge):
    """A judge that is a scorer."""

    @abstractmethod
    async def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Judge one output."""

    async def score_batch(
        self,
        outputs: Sequence[Any],
        expected: Sequence[Any],
        inputs: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> list[ScoreResult]:
        """Judge all outputs concurrently; ``await`` it."""
        return await score_all(self, outputs, expected, inputs)
