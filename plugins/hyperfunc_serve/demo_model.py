"""A tiny model made on the spot, for ``hyperfunc serve --demo`` and for tests: random weights, byte-level
vocabulary."""

from __future__ import annotations

import torch

from hyperfunc.errors import MissingDependencyError
from hyperfunc_local.model import LocalModel
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.tokenizers.byte_level import BYTE_OF_CHARACTER
from hyperfunc_local.tokenizers.chat import ChatTemplate
from hyperfunc_local.tokenizers.hf_tokenizer import HFTokenizer

__all__ = ["demo_model", "demo_tokenizer"]

_SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role if message.role in ('user', 'assistant') else"
    " 'system' }}|>{{ message.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def demo_tokenizer() -> HFTokenizer:
    """Byte-level BPE without merges: one id per byte, after a start and an end token and three role marks."""
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    except ImportError:
        raise MissingDependencyError("tokenizers", "local") from None
    characters = sorted(BYTE_OF_CHARACTER, key=BYTE_OF_CHARACTER.__getitem__)
    vocabulary = {token: i for i, token in enumerate([*_SPECIAL, *characters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return HFTokenizer(inner)


def demo_model(
    name: str = "demo", *, hidden: int = 64, layers: int = 2, context: int = 1024, seed: int = 0
) -> LocalModel:
    """A Llama of random weights that writes random letters, the same ones for the same seed.

    One coordinate of the hidden state is a constant, and the output matrix turns it into a preference for letters and
    spaces: bytes drawn at random would be no text.
    """
    tokenizer = demo_tokenizer()
    heads = max(1, hidden // 16)
    config = LlamaConfig(
        family="llama",
        vocabulary=tokenizer.size,
        hidden=hidden,
        intermediate=2 * hidden,
        layers=layers,
        heads=heads,
        key_value_heads=max(1, heads // 2),
        head_size=16,
        context_length=context,
        start_id=0,
        stop_ids=(1,),
    )
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * shape[-1] ** -0.5
        for name, shape in config.shapes().items()
    }
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[0] = 0
    weights["model.embed_tokens.weight"][:, 0] = 1
    letters = [i for i, b in enumerate(tokenizer.token_bytes()) if b.islower() or b == b" "]
    weights["lm_head.weight"][:, 0] = -6
    weights["lm_head.weight"][letters, 0] = 6
    return LocalModel(
        config=config,
        weights=weights,
        tokenizer=tokenizer,
        template=ChatTemplate(_TEMPLATE, {"bos_token": "<s>"}),
        name=name,
    )
