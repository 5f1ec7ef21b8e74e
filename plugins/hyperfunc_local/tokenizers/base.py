"""What every tokenizer does. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Tokenizer"]


class Tokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        size: number of ids, special ones included.
        special_ids: ids that are no text (start, end, turn marks); :meth:`decode` leaves them out unless asked.
    """

    size: int
    special_ids: frozenset[int]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of ``text``.

        Args:
            special: add what the tokenizer adds around a text (a start token, say). Special tokens that are written out
                in ``text``
                become their ids either way.
        """
        ...

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """Text of ``ids``; bytes that are no UTF-8 become U+FFFD."""
        ...

    def token_id(self, token: str) -> int | None:
        """Id of one token as it is written in the vocabulary; ``None`` if there is none."""
        ...

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id adds to a text, by id; empty for special ones. For grammars."""
        ...
