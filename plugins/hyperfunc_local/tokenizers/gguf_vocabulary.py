"""Tokenizers from the vocabulary inside a GGUF file.

``gpt2`` vocabularies (byte-level BPE) become a ``tokenizers`` object. ``llama`` vocabularies (pieces with scores) are
written as a sentencepiece model and run by sentencepiece itself, so that nothing of its algorithm is repeated here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from hyperfunc.errors import MissingDependencyError
from hyperfunc_local.errors import TokenizerError
from hyperfunc_local.tokenizers.base import Tokenizer
from hyperfunc_local.tokenizers.hf_tokenizer import HFTokenizer
from hyperfunc_local.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer

__all__ = ["tokenizer_from_gguf"]

_NORMAL, _CONTROL, _USER = 1, 3, 4

# The pre-tokenizer patterns that llama.cpp knows by these names.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_PATTERNS = {"default": _GPT2, "gpt-2": _GPT2, "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _QWEN2}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer | None:
    """The embedded tokenizer; ``None`` if the file has none.

    Raises:
        TokenizerError: its kind or its pre-tokenizer is unknown, or its lists do not fit together.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        return None
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise TokenizerError("the GGUF file names a tokenizer but holds no tokens")
    types = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise TokenizerError(f"the GGUF file has {len(tokens)} tokens and {len(types)} token types")
    if kind == "gpt2":
        return _byte_level(metadata, tokens, types)
    if kind == "llama":
        return _pieces(metadata, tokens, types)
    raise TokenizerError(f"GGUF tokenizer {kind!r}: expected 'gpt2' (byte-level BPE) or 'llama' (sentencepiece)")


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> HFTokenizer:
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    except ImportError:
        raise MissingDependencyError("tokenizers", "local") from None
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in _PATTERNS:
        raise TokenizerError(f"GGUF pre-tokenizer {name!r}: known are {', '.join(sorted(_PATTERNS))}")
    merges = [tuple(m.split(" ", 1)) for m in metadata.get("tokenizer.ggml.merges") or []]
    if any(len(m) != 2 for m in merges):
        raise TokenizerError("a merge of the GGUF vocabulary is not a pair")
    ignore = name in ("llama-bpe", "llama3")
    try:
        inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, ignore_merges=ignore))
    except Exception as error:  # the package raises bare Exception, whatever is wrong
        raise TokenizerError(f"the merges of the GGUF vocabulary do not fit its tokens: {error}") from error
    split = pre_tokenizers.Split(Regex(_PATTERNS[name]), behavior="isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (_CONTROL, _USER)
        ]
    )
    start = metadata.get("tokenizer.ggml.bos_token_id")
    if start is not None and metadata.get("tokenizer.ggml.add_bos_token", False):
        inner.post_processor = processors.TemplateProcessing(
            single=f"{tokens[start]} $A", special_tokens=[(tokens[start], start)]
        )
    return HFTokenizer(inner)


def _pieces(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> SentencePieceTokenizer:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise TokenizerError("a 'llama' vocabulary in a GGUF file needs one score for each token")
    pieces = b"".join(
        _message(1, _text(1, token) + _float(2, score) + _number(3, kind))
        for token, score, kind in zip(tokens, scores, types, strict=True)
    )
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    trainer = (
        _number(3, 2)  # model type BPE: highest score merges first, which is how llama.cpp reads these vocabularies
        + _number(35, any(t == 6 for t in types))
        + _number(40, unknown)
        + _number(41, metadata.get("tokenizer.ggml.bos_token_id", 1))
        + _number(42, metadata.get("tokenizer.ggml.eos_token_id", 2))
        + _number(43, -1)
    )
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    normalizer = _text(1, "identity") + _number(3, prefix) + _number(4, 0) + _number(5, 1)
    return SentencePieceTokenizer(
        pieces + _message(2, trainer) + _message(3, normalizer),
        add_start=bool(metadata.get("tokenizer.ggml.add_bos_token", True)),
        add_end=bool(metadata.get("tokenizer.ggml.add_eos_token", False)),
    )


# The few protocol-buffer fields that a sentencepiece model needs.


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(int(value))


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())
