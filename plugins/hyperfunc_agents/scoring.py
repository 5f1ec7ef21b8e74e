"""Scores of conversations: every reply, the end, or both. Knows nothing of how a conversation was held."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from hyperfunc.errors import ConfigurationError, EvaluationError
from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scoring import Scorer
from hyperfunc_agents.conversation import ConversationResult

__all__ = ["ConversationScorer"]


class ConversationScorer:
    """Scores each reply with one scorer and the whole with another.

    The score is ``turn_weight · mean(turn scores) + (1 - turn_weight) · final score``; with one scorer alone, its part.
    ``expected`` is a mapping with ``replies`` (what each reply should be, for ``turn``; replies that are missing score
    as if they were empty) and ``final`` (for ``final``, which is given the whole :class:`ConversationResult`).

    Args:
        turn: scores one reply; its inputs are the user's message and the number of the turn.
        final: scores the conversation, such as a judge or any scorer of a transcript.
        turn_weight: 0 to 1; used when there are both.

    Raises:
        ConfigurationError: neither scorer is given, or the weight is out of range.
    """

    def __init__(self, turn: Scorer | None = None, final: Scorer | None = None, *, turn_weight: float = 0.5) -> None:
        if turn is None and final is None:
            raise ConfigurationError("ConversationScorer needs turn=, final= or both")
        if not 0.0 <= turn_weight <= 1.0:
            raise ConfigurationError(f"turn_weight must lie between 0 and 1, got {turn_weight}")
        self._turn = turn
        self._final = final
        self._turn_weight = 0.0 if turn is None else 1.0 if final is None else turn_weight

    async def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Score one conversation.

        Returns:
            ``details["turns"]`` are the scores of the replies, ``details["final"]`` the final score; the feedback names
            the turn that each remark is about.

        Raises:
            EvaluationError: ``output`` is no conversation, or ``expected`` lacks what a scorer needs.
        """
        if not isinstance(output, ConversationResult):
            raise EvaluationError(
                f"expected a ConversationResult, got {type(output).__name__}; is the agent type CHAT?"
            )
        if not isinstance(expected, Mapping):
            raise EvaluationError(f"expected a mapping with 'replies' and 'final', got {type(expected).__name__}")
        remarks: list[str] = []
        turns = await self._score_turns(output, expected, remarks) if self._turn is not None else []
        final: float | None = None
        total = self._turn_weight * (sum(turns) / len(turns)) if turns else 0.0
        if self._final is not None:
            result = await _scored(self._final, output, expected.get("final"), inputs)
            final = _value(result)
            total += (1.0 - self._turn_weight) * final
            if result.feedback:
                remarks.append(f"As a whole: {result.feedback}")
        return ScoreResult(total, "\n".join(remarks), {"turns": turns, "final": final})

    async def _score_turns(
        self, output: ConversationResult, expected: Mapping[str, Any], remarks: list[str]
    ) -> list[float]:
        assert self._turn is not None
        wanted = expected.get("replies")
        if isinstance(wanted, str) or not isinstance(wanted, Sequence) or not wanted:
            raise EvaluationError(f"expected['replies'] must list what each reply should be, got {wanted!r:.200}")
        said = [turn.content for turn in output.history if turn.role == "user"]
        replies = output.replies
        scores = []
        for number, reply in enumerate(wanted):
            inputs = {"message": said[number] if number < len(said) else "", "turn": number}
            result = await _scored(self._turn, replies[number] if number < len(replies) else "", reply, inputs)
            scores.append(_value(result))
            if result.feedback:
                remarks.append(f"Turn {number + 1}: {result.feedback}")
        return scores


async def _scored(scorer: Scorer, output: Any, expected: Any, inputs: Mapping[str, Any] | None) -> ScoreResult:
    result = scorer.score(output, expected, inputs)
    if inspect.isawaitable(result):
        return await result
    return result


def _value(result: ScoreResult) -> float:
    if result.score is None:
        raise EvaluationError("a part of a conversation's score could not be given (the scorer returned no score)")
    return float(result.score)
