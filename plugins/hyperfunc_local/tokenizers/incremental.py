"""Text of a growing list of ids, piece by piece, never half a character. Works for every tokenizer."""

from __future__ import annotations

from hyperfunc_local.tokenizers.base import Tokenizer

__all__ = ["IncrementalDecoder"]

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class IncrementalDecoder:
    """Turns ids into text as they come: the pieces joined are ``tokenizer.decode`` of all ids.

    A character's bytes can be spread over several tokens, and the text of a token depends on the one before it (a
    leading space is dropped at the start of a text). So a window of ids is decoded twice, with and without the new
    ones, and text that ends in a broken character waits.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._window = 0  # decoding begins here, so that the first new token has a neighbour
        self._done = 0  # ids before this one have been handed out

    def push(self, token: int) -> str:
        """The text that this id completes; often one word, sometimes nothing."""
        self._ids.append(token)
        return self._advance(final=False)

    def flush(self) -> str:
        """What was held back, at the end."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        decode = self._tokenizer.decode
        before = decode(self._ids[self._window : self._done])
        after = decode(self._ids[self._window :])
        if len(after) <= len(before) or (after.endswith(_BROKEN) and not final):
            return ""
        if decode(self._ids[self._done :]):
            self._window = self._done
        self._done = len(self._ids)
        return after[len(before) :]
