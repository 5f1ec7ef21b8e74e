"""The text of a generation while it grows: whole characters, up to the first stop string."""

from __future__ import annotations

from hyperfunc_local.engine import Generation
from hyperfunc_local.sampling.stops import StopStrings
from hyperfunc_local.tokenizers.base import Tokenizer
from hyperfunc_local.tokenizers.incremental import IncrementalDecoder

__all__ = ["TextStream"]


class TextStream:
    """Turns a generation's tokens into pieces of text.

    Attributes:
        stopped: a stop string was found; the generation should end.
    """

    def __init__(self, tokenizer: Tokenizer, generation: Generation) -> None:
        self._generation = generation
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = StopStrings(generation.request.decoding.stop)

    @property
    def stopped(self) -> bool:
        return self._stops.found is not None

    def push(self, token: int | None) -> str:
        """The text that this token (``None``: the end) adds; it is appended to the generation's text."""
        piece = "" if token is None else self._stops.push(self._decoder.push(token))
        if token is None or self._generation.finish is not None:
            piece += self._stops.push(self._decoder.flush()) + self._stops.flush()
        self._generation.text += piece
        return piece
