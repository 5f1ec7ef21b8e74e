"""Tokenizers against the packages that define them; text that comes token by token; chat templates."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfunc_local.errors import TokenizerError
from hyperfunc_local.loading import load_model, save_model
from hyperfunc_local.sampling.stops import StopStrings
from hyperfunc_local.tokenizers.base import Tokenizer
from hyperfunc_local.tokenizers.chat import ChatTemplate
from hyperfunc_local.tokenizers.gguf_vocabulary import tokenizer_from_gguf
from hyperfunc_local.tokenizers.hf_tokenizer import HFTokenizer
from hyperfunc_local.tokenizers.incremental import IncrementalDecoder
from hyperfunc_local.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer

tokenizers = pytest.importorskip("tokenizers")
sentencepiece = pytest.importorskip("sentencepiece")

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Don't we'll they're 1234 tokens!",
    "Größe, naïve, 東京 は 大きい, привет мир, 🙂🙃 emoji and tabs\tand\nlines  two spaces",
    'def f(x):\n    return {"a": [1, 2, 3]}  # a comment',
] * 20
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


def byte_level_bpe() -> Any:
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>", "<|turn|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS, trainer)
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return inner


def sentencepiece_proto(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=buffer,
        vocab_size=330,
        model_type=kind,
        byte_fallback=True,
        character_coverage=0.98,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return buffer.getvalue()


INNER = byte_level_bpe()
PROTOS = {
    kind: sentencepiece_proto(kind, normalization_rule_name="identity", remove_extra_whitespaces=False)
    for kind in ("unigram", "bpe")
}
ALL: dict[str, Tokenizer] = {
    "byte_level": HFTokenizer(INNER),
    "unigram": SentencePieceTokenizer(PROTOS["unigram"]),
    "sentencepiece_bpe": SentencePieceTokenizer(PROTOS["bpe"]),
}


@given(TEXTS)
def test_byte_level_ids_are_those_of_the_package(text: str) -> None:
    assert ALL["byte_level"].encode(text) == INNER.encode(text).ids
    assert ALL["byte_level"].encode(text, special=False) == INNER.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@given(text=TEXTS.filter(lambda text: "<s>" not in text and "</s>" not in text))
def test_sentencepiece_ids_are_those_of_the_package(kind: str, text: str) -> None:
    """Of texts without special tokens written out: the package spells those, Llama's own code does not."""
    oracle = sentencepiece.SentencePieceProcessor(model_proto=PROTOS[kind])
    ours = SentencePieceTokenizer(PROTOS[kind])
    assert ours.encode(text, special=False) == oracle.encode(text)
    assert ours.encode(text) == [oracle.bos_id(), *oracle.encode(text)]


@pytest.mark.parametrize("name", sorted(ALL))
def test_special_tokens_that_are_written_out_are_special(name: str) -> None:
    tokenizer = ALL[name]
    end = tokenizer.token_id("</s>")
    assert end in tokenizer.special_ids
    ids = tokenizer.encode("one</s>two", special=False)
    assert ids.count(end) == 1
    assert ids[: ids.index(end)] == tokenizer.encode("one", special=False)


@pytest.mark.parametrize("name", sorted(ALL))
@given(text=TEXTS)
def test_text_survives_the_round_trip(name: str, text: str) -> None:
    tokenizer = ALL[name]
    if name != "byte_level":  # its alphabet writes spaces as U+2581; that character itself comes back as a space
        text = text.replace("▁", "_").replace("\x00", "")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", sorted(ALL))
@settings(max_examples=60)
@given(data=st.data())
def test_streamed_text_is_the_full_decode(name: str, data: st.DataObject) -> None:
    """For ids of real text, and for any ids at all: half characters, special tokens, invalid bytes."""
    tokenizer = ALL[name]
    ids = data.draw(
        st.one_of(TEXTS.map(lambda t: tokenizer.encode(t)), st.lists(st.integers(0, tokenizer.size - 1), max_size=30))
    )
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(ids)


def test_a_split_character_waits_for_its_last_byte() -> None:
    tokenizer = ALL["byte_level"]
    ids = tokenizer.encode("é🙂", special=False)
    naive = "".join(tokenizer.decode([i]) for i in ids)
    assert "\ufffd" in naive
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.push(i) for i in ids]
    assert "".join(pieces) == "é🙂"
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("name", sorted(ALL))
def test_token_bytes_spell_the_text(name: str) -> None:
    tokenizer = ALL[name]
    text = "Größe 東京 🙂 dog 12"
    spelled = b"".join(tokenizer.token_bytes()[i] for i in tokenizer.encode(text, special=False))
    assert spelled.decode().removeprefix(" ") == text
    assert all(tokenizer.token_bytes()[i] == b"" for i in tokenizer.special_ids)


def test_special_tokens_in_a_text_become_their_ids() -> None:
    tokenizer = SentencePieceTokenizer(PROTOS["bpe"], added={"<|turn|>": 330})
    ids = tokenizer.encode("dog<|turn|>dog</s>")
    assert (ids.count(330), ids[-1], tokenizer.size) == (1, tokenizer.token_id("</s>"), 331)
    assert tokenizer.decode(ids) in ("dogdog", "dog dog")  # each part begins a text of its own
    assert "<|turn|>" in tokenizer.decode(ids, keep_special=True)
    assert tokenizer.token_id("no such piece") is None


def test_a_lone_surrogate_is_refused() -> None:
    for tokenizer in ALL.values():
        with pytest.raises(TokenizerError):
            tokenizer.encode("a\ud800b")


# --- vocabularies in GGUF files
# ----------------------------------------------------------------------------------------


@given(TEXTS)
def test_a_gguf_piece_vocabulary_tokenizes_like_its_source(text: str) -> None:
    oracle = sentencepiece.SentencePieceProcessor(model_proto=PROTOS["bpe"])
    size = oracle.get_piece_size()
    kinds = [
        2 if oracle.is_unknown(i) else 3 if oracle.is_control(i) else 6 if oracle.is_byte(i) else 1 for i in range(size)
    ]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [oracle.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": [oracle.get_score(i) for i in range(size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer is not None
    assert tokenizer.encode(text) == [1, *oracle.encode(text)]
    assert tokenizer.decode(tokenizer.encode(text)) == oracle.decode(oracle.encode(text))


def _gpt2_metadata() -> dict[str, Any]:
    model = json.loads(INNER.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


@given(TEXTS)
def test_a_gguf_byte_level_vocabulary_tokenizes_like_its_source(text: str) -> None:
    tokenizer = tokenizer_from_gguf(_gpt2_metadata())
    assert tokenizer is not None
    assert tokenizer.encode(text) == INNER.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer.ggml.model": "rwkv"},
        {"tokenizer.ggml.pre": "no-such-pattern"},
        {"tokenizer.ggml.tokens": []},
        {"tokenizer.ggml.merges": ["a"]},
        {"tokenizer.ggml.merges": ["zz zz"]},
        {"tokenizer.ggml.token_type": [1]},
        {"tokenizer.ggml.model": "llama"},
    ],
)
def test_broken_gguf_vocabularies_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError):
        tokenizer_from_gguf({**_gpt2_metadata(), **change})
    assert tokenizer_from_gguf({}) is None


# --- files, stops, templates
# -------------------------------------------------------------------------------------------


def test_a_directory_brings_its_tokenizer_and_template(tmp_path: Path) -> None:
    import torch

    from hyperfunc_local.model import LocalModel
    from hyperfunc_local.models.configuration import LlamaConfig

    config = LlamaConfig("llama", 420, 16, 16, 1, 2, 1, 8, 64, stop_ids=(1,))
    weights = {n: torch.zeros(s) for n, s in config.shapes().items()}
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<s>"})
    save_model(LocalModel(config, weights, HFTokenizer(INNER), template), tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.tokenizer is not None
    assert loaded.template is not None
    assert loaded.encode("dog") == INNER.encode("dog").ids
    assert loaded.template.render([{"role": "user", "content": "hi"}]) == "<s>hi"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError):
        load_model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(PROTOS["unigram"])
    assert isinstance(load_model(tmp_path).tokenizer, SentencePieceTokenizer)
    (tmp_path / "tokenizer.model").write_bytes(b"noise")
    with pytest.raises(TokenizerError):
        load_model(tmp_path)


@given(st.lists(st.text("ab<>", max_size=4), max_size=8), st.lists(st.text("ab<>", min_size=1, max_size=3), max_size=3))
def test_stop_strings_cut_at_the_first_one(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    matcher = StopStrings(stops)
    text = "".join(matcher.push(p) for p in pieces) + matcher.flush()
    places = [whole.find(s) for s in stops if s in whole]
    assert matcher.found is None or places
    # Pieces are looked at one after another, so a stop string that begins later may end earlier.
    expected = {whole[:p] for p in places} | ({whole} if not places else set())
    assert text in expected
    assert not any(s in text for s in stops)


def test_template_errors_are_ours() -> None:
    with pytest.raises(TokenizerError, match="no valid Jinja"):
        ChatTemplate("{% if %}")
    with pytest.raises(TokenizerError, match="roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render([])
    for attack in (
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
        "{{ messages.append(1) }}",
    ):
        with pytest.raises(TokenizerError):
            print(ChatTemplate(attack).render([{"role": "user", "content": "x"}]))
    rendered = ChatTemplate("{{ messages | tojson }}{% for m in messages %}{{ m.role }}{% break %}{% endfor %}")
    assert rendered.render([{"role": "user", "content": "é"}]) == '[{"role": "user", "content": "é"}]user'
