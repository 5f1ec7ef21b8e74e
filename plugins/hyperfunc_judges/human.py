"""Judges of flesh and blood: feedback, rubric, preference and ranking asked on the terminal.

Questions wait for each other: one is on the screen at a time, however many examples are scored concurrently. An empty
answer skips (``score=None``), and so does the end of input, after which nothing is asked any more.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import ScoreResult
from hyperfunc_judges.completion import UnreadableReplyError
from hyperfunc_judges.ranking import scores_of_ranks
from hyperfunc_judges.replies import number_in, ranking_in
from hyperfunc_judges.rubric import Level, Rubric

__all__ = ["HumanFeedback", "HumanPreference", "HumanRanking", "HumanRubric", "Terminal"]

T = TypeVar("T")


class Terminal:
    """Where questions are shown and answers are read; share one between judges that share a screen.

    Questions are asked one after the other by one thread of the terminal's own, whatever event loop they come from, so
    that no loop stands still while a person thinks. A question that is cancelled before its turn is never asked; one
    that is on the screen stays there until a line is typed.

    Args:
        read: shows a prompt and returns a line; raises ``EOFError`` at the end.
        write: shows a text.
    """

    def __init__(self, read: Callable[[str], str] = input, write: Callable[[str], None] = print) -> None:
        self._read = read
        self._write = write
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hyperfunc-terminal")
        self._ended = False

    async def ask(self, text: str, prompt: str, read: Callable[[str], T]) -> T | None:
        """Show ``text``, then ask until ``read`` accepts the answer; ``None`` for an empty one or no more input."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._dialogue, text, prompt, read)

    def _dialogue(self, text: str, prompt: str, read: Callable[[str], T]) -> T | None:
        if self._ended:
            return None
        self._write(text)
        while True:
            try:
                line = self._read(prompt).strip()
            except EOFError:
                self._ended = True
                return None
            if not line:
                return None
            try:
                return read(line)
            except UnreadableReplyError as error:
                self._write(str(error))


_SKIPPED = ScoreResult(None, "skipped")


@dataclass
class HumanFeedback:
    """Asks for a mark on a scale, and for a remark in the same line: ``4 too long``.

    Args:
        scale: lowest and highest mark.
        terminal: where to ask.
    """

    scale: tuple[float, float] = (1, 5)
    terminal: Terminal = field(default_factory=Terminal, repr=False)

    def __post_init__(self) -> None:
        if not self.scale[0] < self.scale[1]:
            raise EvaluationError(f"scale must go from a lower to a higher mark, got {self.scale}")

    async def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Ask about one output."""
        low, high = self.scale
        prompt = f"mark from {low:g} to {high:g} and a remark (empty: skip): "
        answer = await self.terminal.ask(
            _page(inputs, expected, output=output), prompt, lambda line: _mark_and_remark(line, low, high)
        )
        if answer is None:
            return _SKIPPED
        mark, remark = answer
        return ScoreResult((mark - low) / (high - low), remark, {"raw_score": mark, "scale": self.scale})


@dataclass
class HumanRubric:
    """Asks for a level of a rubric, and for a remark in the same line.

    Args:
        rubric: the levels.
        terminal: where to ask.
    """

    rubric: Rubric
    terminal: Terminal = field(default_factory=Terminal, repr=False)

    async def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Ask about one output."""
        levels = self.rubric.levels

        def read(line: str) -> tuple[Level, str]:
            mark, remark = _mark_and_remark(line, levels[0].mark, levels[-1].mark)
            return self.rubric.level(mark), remark

        page = f"{_page(inputs, expected, output=output)}\n{self.rubric}"
        answer = await self.terminal.ask(page, "level and a remark (empty: skip): ", read)
        if answer is None:
            return _SKIPPED
        level, remark = answer
        return ScoreResult(self.rubric.score(level.mark), remark, {"raw_score": level.mark, "level": level.name})


@dataclass
class HumanPreference:
    """Asks whether the output (a) or what was expected (b) is better: 1, 0.5 for a tie, or 0.

    Args:
        terminal: where to ask.
    """

    terminal: Terminal = field(default_factory=Terminal, repr=False)

    async def score(self, output: Any, expected: Any, inputs: Mapping[str, Any] | None = None) -> ScoreResult:
        """Ask about one pair."""
        scores = {"a": 1.0, "b": 0.0, "tie": 0.5, "t": 0.5}

        def read(line: str) -> tuple[float, str]:
            word, _, remark = line.partition(" ")
            if word.lower() not in scores:
                raise UnreadableReplyError(f"expected a, b or tie, got {word!r}")
            return scores[word.lower()], remark.strip()

        page = _page(inputs, None, a=output, b=expected)
        answer = await self.terminal.ask(page, "better (a, b, tie) and a remark (empty: skip): ", read)
        return _SKIPPED if answer is None else ScoreResult(answer[0], answer[1])


@dataclass
class HumanRanking:
    """Asks for the order of several outputs, best first: ``2 1=3`` means that 1 and 3 are equally good.

    Args:
        terminal: where to ask.
    """

    terminal: Terminal = field(default_factory=Terminal, repr=False)

    async def rank(self, outputs: Sequence[Any], inputs: Mapping[str, Any] | None = None) -> list[ScoreResult]:
        """Ask about at least two outputs; one result for each, in order."""
        if len(outputs) < 2:
            raise EvaluationError(f"a ranking needs at least 2 outputs, got {len(outputs)}")

        def read(line: str) -> list[float]:
            groups = [re.split(r"\s*=\s*", group) for group in re.split(r"[\s,>]+", re.sub(r"\s*=\s*", "=", line))]
            return ranking_in({"ranking": [group for group in groups if group != [""]]}, "ranking", len(outputs))

        page = _page(inputs, None, **{str(number): output for number, output in enumerate(outputs, start=1)})
        ranks = await self.terminal.ask(page, "best first, = for ties (empty: skip): ", read)
        if ranks is None:
            return [_SKIPPED] * len(outputs)
        scores = scores_of_ranks(ranks)
        return [ScoreResult(score, details={"rank": rank}) for score, rank in zip(scores, ranks, strict=True)]


def _mark_and_remark(line: str, low: float, high: float) -> tuple[float, str]:
    mark, _, remark = line.partition(" ")
    return number_in({"mark": mark}, "mark", low, high), remark.strip()


def _page(inputs: Mapping[str, Any] | None, expected: Any, **outputs: Any) -> str:
    parts = [f"{name}: {value}" for name, value in (inputs or {}).items()]
    if expected is not None:
        parts.append(f"[expected]\n{expected}")
    parts += [f"[{name}]\n{value}" for name, value in outputs.items()]
    return "\n".join(["", *parts])
