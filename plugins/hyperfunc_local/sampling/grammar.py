"""Answers that fit a JSON schema or a grammar: a logits processor on top of ``llguidance``.

The mask of allowed tokens is worked out by llguidance from the bytes of each token; nothing is validated after the
fact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfunc.errors import MissingDependencyError
from hyperfunc_local.errors import GrammarError
from hyperfunc_local.tokenizers.base import Tokenizer

__all__ = ["GrammarCompiler", "GrammarProcessor"]


class _Vocabulary:
    """The tokenizer in the form that ``llguidance.TokenizerWrapper`` wants."""

    def __init__(self, tokenizer: Tokenizer, size: int, end_id: int) -> None:
        self._tokenizer = tokenizer
        known = tokenizer.token_bytes()[:size]
        self.tokens = [*known, *([b""] * (size - len(known)))]
        self.eos_token_id = end_id
        self.bos_token_id = None
        self.special_token_ids = sorted(i for i in tokenizer.special_ids | {end_id} if i < size)
        for i in self.special_token_ids:
            self.tokens[i] = f"<special_{i}>".encode()

    def __call__(self, text: str | bytes) -> list[int]:
        # Only used to find a text's canonical tokens; bytes that are no text have none.
        return self._tokenizer.encode(text.decode(errors="replace") if isinstance(text, bytes) else text, special=False)


class GrammarCompiler:
    """Makes grammar processors for one vocabulary; the vocabulary is prepared once.

    Args:
        size: length of the model's logits.
        end_id: the token that ends an answer.

    Raises:
        MissingDependencyError: ``llguidance`` is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, end_id: int) -> None:
        try:
            import llguidance
        except ImportError:
            raise MissingDependencyError("llguidance", "local") from None
        self._library = llguidance
        self._size = size
        self._end_id = end_id
        wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, size, end_id))
        self._tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=size)

    def json_schema(self, schema: Mapping[str, Any] | None = None) -> GrammarProcessor:
        """Answers that are JSON of this schema; without one, any JSON object.

        Raises:
            GrammarError: the schema cannot be enforced.
        """
        source = json.dumps(schema if schema is not None else {"type": "object"})
        try:
            # No white space: a model that is unsure would otherwise write nothing else until its tokens run out.
            grammar = self._library.LLMatcher.grammar_from_json_schema(source, overrides={"whitespace_flexible": False})
        except ValueError as error:
            raise GrammarError(f"this JSON schema cannot be enforced: {error}") from error
        return self._processor(grammar, "this JSON schema")

    def lark(self, grammar: str) -> GrammarProcessor:
        """Answers of a context-free grammar in Lark syntax."""
        return self._processor(self._library.LLMatcher.grammar_from_lark(grammar), "this grammar")

    def _processor(self, grammar: str, what: str) -> GrammarProcessor:
        matcher = self._library.LLMatcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise GrammarError(f"{what} cannot be enforced: {matcher.get_error()}")
        return GrammarProcessor(matcher, self._size, self._end_id)


class GrammarProcessor:
    """Forbids every token that cannot continue the answer; after a complete answer only the end token is left."""

    def __init__(self, matcher: Any, size: int, end_id: int) -> None:
        self._matcher = matcher
        self._size = size
        self._end_id = end_id
        self._consumed = 0

    def __call__(self, answer: Sequence[int], logits: Tensor) -> Tensor:
        for token in answer[self._consumed :]:
            if not self._matcher.is_stopped() and not self._matcher.consume_token(token):
                raise GrammarError(f"token {token} does not fit the grammar: {self._matcher.get_error()}")
        self._consumed = len(answer)
        if self._matcher.is_stopped():
            allowed = torch.zeros(self._size, dtype=torch.bool)
            allowed[self._end_id] = True
        else:
            allowed = self._allowed()
        return logits.masked_fill_(~allowed.to(logits.device), -torch.inf)

    def _allowed(self) -> Tensor:
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        if self._matcher.is_error():
            raise GrammarError(f"the grammar came to a dead end: {self._matcher.get_error()}")
        shifts = torch.arange(8, dtype=torch.uint8)
        return ((bits.unsqueeze(1) >> shifts) & 1).flatten()[: self._size].bool()
