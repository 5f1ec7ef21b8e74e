"""Tokenizers in the ``tokenizer.json`` format, run by the ``tokenizers`` package. Knows nothing of models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperfunc.errors import MissingDependencyError
from hyperfunc_local.errors import TokenizerError
from hyperfunc_local.tokenizers.byte_level import bytes_of_token

if TYPE_CHECKING:
    import tokenizers

__all__ = ["HFTokenizer"]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HFTokenizer:
    """A ``tokenizers.Tokenizer`` as a :class:`~hyperfunc_local.tokenizers.base.Tokenizer`."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self.inner = inner
        self.size = inner.get_vocab_size(with_added_tokens=True)
        self.special_ids = frozenset(i for i, t in inner.get_added_tokens_decoder().items() if t.special)

    @classmethod
    def from_file(cls, path: Path) -> HFTokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            MissingDependencyError: the ``tokenizers`` package is not installed.
            TokenizerError: the file is not there or cannot be read.
        """
        try:
            import tokenizers
        except ImportError:
            raise MissingDependencyError("tokenizers", "local") from None
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:  # the package raises bare Exception, whatever is wrong
            raise TokenizerError(f"{path}: not a readable tokenizer.json: {error}") from error

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        try:
            ids: list[int] = self.inner.encode(text, add_special_tokens=special).ids
        except (TypeError, UnicodeEncodeError) as error:  # a lone surrogate is no text
            raise TokenizerError(f"text cannot be encoded: {error}") from error
        return ids

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        try:
            text: str = self.inner.decode(list(ids), skip_special_tokens=not keep_special)
        except (OverflowError, TypeError) as error:
            raise TokenizerError(f"these ids cannot be decoded: {error}") from error
        return text

    def token_id(self, token: str) -> int | None:
        found: int | None = self.inner.token_to_id(token)
        return found

    def token_bytes(self) -> list[bytes]:
        tokens = [self.inner.id_to_token(i) or "" for i in range(self.size)]
        byte_level = "ByteLevel" in self.inner.__getstate__().decode()[:200_000]
        added = self.inner.get_added_tokens_decoder()
        result = []
        for i, token in enumerate(tokens):
            if i in self.special_ids:
                result.append(b"")
            elif i in added:
                result.append(token.encode())
            elif byte_level:
                result.append(bytes_of_token(token) or token.encode())
            elif match := _BYTE.fullmatch(token):
                result.append(bytes([int(match[1], 16)]))
            else:
                result.append(token.replace("▁", " ").encode())
        return result
