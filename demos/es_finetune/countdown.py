"""A small Countdown: three numbers and a target; write an expression that uses each number once and gives the target.

``3,5,8:23=`` is answered by ``3*5+8``. Checked by evaluation, so that any right answer counts, not only a remembered
one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["END", "CharacterTokenizer", "Puzzle", "demonstrations", "puzzles", "reward"]

END = "\n"
_ALPHABET = END + "0123456789+-*,:="
_ANSWER = re.compile(r"([1-9])([+\-*])([1-9])([+\-*])([1-9])")


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Numbers (1 to 9) and a target (0 to 99) that they can reach."""

    numbers: tuple[int, int, int]
    target: int

    @property
    def prompt(self) -> str:
        return f"{','.join(map(str, self.numbers))}:{self.target:02d}="


class CharacterTokenizer:
    """One id for each character of the task; id 0 ends an answer."""

    size = len(_ALPHABET)
    special_ids = frozenset({0})

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return [_ALPHABET.index(c) for c in text]

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        return "".join(_ALPHABET[i] for i in ids if i or keep_special)

    def token_id(self, token: str) -> int | None:
        return _ALPHABET.index(token) if len(token) == 1 and token in _ALPHABET else None

    def token_bytes(self) -> list[bytes]:
        return [b"", *(c.encode() for c in _ALPHABET[1:])]


def _evaluate(text: str) -> int | None:
    """Value of ``a∘b∘c`` with the usual precedence; ``None`` if it is not of that form."""
    match = _ANSWER.fullmatch(text)
    if match is None:
        return None
    a, first, b, second, c = int(match[1]), match[2], int(match[3]), match[4], int(match[5])

    def apply(left: int, sign: str, right: int) -> int:
        return left + right if sign == "+" else left - right if sign == "-" else left * right

    if second == "*" and first != "*":
        return apply(a, first, b * c)
    return apply(apply(a, first, b), second, c)


def reward(puzzle: Puzzle, answer: str) -> float:
    """1 for a right answer, 0.1 for one that uses exactly the given numbers, else 0."""
    value = _evaluate(answer)
    if value is None or sorted(int(d) for d in answer[::2]) != sorted(puzzle.numbers):
        return 0.0
    return 1.0 if value == puzzle.target else 0.1


def demonstrations(count: int, seed: int, *, careless: float = 0.0, held_out: bool = False) -> list[tuple[Puzzle, str]]:
    """Puzzles with one answer each, drawn at random.

    Args:
        careless: share of answers that just add the numbers, whatever the target; the others are right.
        held_out: draw from the fifth of all puzzles that is kept for validation, and else from the rest.
    """
    source = random.Random(seed)
    found: list[tuple[Puzzle, str]] = []
    while len(found) < count:
        numbers = (source.randint(1, 9), source.randint(1, 9), source.randint(1, 9))
        order = source.sample(numbers, 3)
        answer = f"{order[0]}{source.choice('+-*')}{order[1]}{source.choice('+-*')}{order[2]}"
        value = _evaluate(answer)
        if value is None or not 0 <= value <= 99:
            continue
        a, b, c = numbers
        if held_out != ((31 * a + 17 * b + 7 * c + value) % 5 == 0):
            continue
        if source.random() < careless:
            answer = "+".join(map(str, numbers))
        found.append((Puzzle(numbers, value), answer))
    return found


def puzzles(count: int, seed: int, *, held_out: bool = False) -> list[Puzzle]:
    """Puzzles alone."""
    return [puzzle for puzzle, _ in demonstrations(count, seed, held_out=held_out)]
