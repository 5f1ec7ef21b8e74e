"""Tokenizers in the ``tokenizer.model`` format, run by the ``sentencepiece`` package (unigram and its BPE).

Special tokens that are written out in a text are cut out before the text reaches sentencepiece, which would spell them.
Knows nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperfunc.errors import MissingDependencyError
from hyperfunc_local.errors import TokenizerError

__all__ = ["SentencePieceTokenizer"]


class SentencePieceTokenizer:
    """A sentencepiece model as a :class:`~hyperfunc_local.tokenizers.base.Tokenizer`.

    Args:
        proto: contents of a ``tokenizer.model``.
        add_start, add_end: whether ``encode(special=True)`` puts the start and end token around the text.
        added: tokens beyond the model's own, text -> id.

    Raises:
        MissingDependencyError: the ``sentencepiece`` package is not installed.
        TokenizerError: ``proto`` cannot be read.
    """

    def __init__(
        self,
        proto: bytes,
        *,
        add_start: bool = True,
        add_end: bool = False,
        added: Mapping[str, int] | None = None,
    ) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise MissingDependencyError("sentencepiece", "local") from None
        self._model: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(proto)
        except (RuntimeError, OSError) as error:
            raise TokenizerError(f"not a readable sentencepiece model: {error}") from error
        own = self._model.get_piece_size()
        self._added = dict(added or {})
        self._added_text = {i: t for t, i in self._added.items()}
        self.size = max([own, *(i + 1 for i in self._added.values())])
        control = {i for i in range(own) if self._model.is_control(i) or self._model.is_unknown(i)}
        self.special_ids = frozenset(control | {i for i in self._added.values() if i >= own or i in control})
        self._own = own
        self._start = [self._model.bos_id()] if add_start and self._model.bos_id() >= 0 else []
        self._end = [self._model.eos_id()] if add_end and self._model.eos_id() >= 0 else []
        written = {self._model.id_to_piece(i): i for i in control if not self._model.is_unknown(i)} | self._added
        self._written = written
        longest_first = sorted(written, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if written else None

    @classmethod
    def from_file(cls, path: Path, **options: Any) -> SentencePieceTokenizer:
        """Read a ``tokenizer.model``."""
        try:
            proto = path.read_bytes()
        except OSError as error:
            raise TokenizerError(f"{path}: cannot be read: {error}") from error
        return cls(proto, **options)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"text cannot be encoded: {error}") from error
        ids: list[int] = []
        for part in self._split.split(text) if self._split else [text]:
            if part in self._written:
                ids.append(self._written[part])
            elif part:
                ids.extend(self._model.encode(part, out_type=int))
        return [*self._start, *ids, *self._end] if special else ids

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        parts: list[str] = []
        run: list[int] = []

        def flush() -> None:
            if run:
                parts.append(self._model.decode(run))
                run.clear()

        for token in ids:
            if not 0 <= token < self.size:
                raise TokenizerError(f"id {token} is not in this vocabulary of {self.size}")
            if token in self._added_text or token in self.special_ids:
                if keep_special or token not in self.special_ids:
                    flush()
                    parts.append(self._added_text.get(token) or self._model.id_to_piece(token))
                continue
            if token < self._own:
                run.append(token)
        flush()
        return "".join(parts)

    def token_id(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token]
        found: int = self._model.piece_to_id(token)
        return None if found == self._model.unk_id() and token != self._model.id_to_piece(found) else found

    def token_bytes(self) -> list[bytes]:
        result = []
        for i in range(self.size):
            if i in self.special_ids or (i >= self._own and i not in self._added_text):
                result.append(b"")
            elif i in self._added_text:
                result.append(self._added_text[i].encode())
            elif self._model.is_byte(i):
                result.append(bytes([int(self._model.id_to_piece(i)[3:5], 16)]))
            else:
                result.append(self._model.id_to_piece(i).replace("▁", " ").encode())
        return result
