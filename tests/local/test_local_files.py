"""Model files: safetensors, GGUF of every type, and what is refused. ``transformers`` reads the same files as
oracle."""

from __future__ import annotations

import json
import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperfunc.errors import ShapeError
from hyperfunc_local.errors import (
    FileFormatError,
    FileVersionError,
    MissingTensorError,
    ModelFileError,
    SamplingError,
    TruncatedFileError,
    UnexpectedTensorError,
    UnsupportedArchitectureError,
    UnsupportedTensorTypeError,
)
from hyperfunc_local.files import gguf_files
from hyperfunc_local.files.gguf_files import read_gguf
from hyperfunc_local.loading import load_model, save_model
from hyperfunc_local.model import LocalModel
from hyperfunc_local.models.configuration import LlamaConfig, RopeConfig

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

CONFIG = LlamaConfig(
    family="llama",
    vocabulary=64,
    hidden=64,
    intermediate=96,
    layers=2,
    heads=4,
    key_value_heads=2,
    head_size=16,
    context_length=128,
    rope=RopeConfig(original_length=128),
    stop_ids=(2,),
    start_id=1,
)
IDS = torch.randint(3, 64, (1, 2, 9), generator=torch.Generator().manual_seed(0))


def model_of(config: LlamaConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> LocalModel:
    generator = torch.Generator().manual_seed(seed)
    weights = {
        n: (1.0 if len(s) == 1 else 0.0) + 0.3 * torch.randn(s, generator=generator) for n, s in config.shapes().items()
    }
    return LocalModel(config, {n: w.to(dtype) for n, w in weights.items()})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(model_of(CONFIG), tmp_path_factory.mktemp("model"))


@pytest.fixture
def copy_of(directory: Path, tmp_path: Path) -> Path:
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


# --- safetensors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard_bytes", [None, 20_000])
def test_a_saved_model_loads_unchanged(tmp_path: Path, dtype: torch.dtype, shard_bytes: int | None) -> None:
    model = model_of(CONFIG, dtype=dtype)
    save_model(model, tmp_path, shard_bytes=shard_bytes)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (shard_bytes is not None)
    loaded = load_model(tmp_path)
    assert loaded.config == CONFIG
    assert all(torch.equal(loaded.weights[n], w) and loaded.weights[n].dtype == dtype for n, w in model.weights.items())
    assert load_model(tmp_path, dtype=torch.float32).weights["model.norm.weight"].dtype == torch.float32


def test_transformers_reads_what_is_saved(directory: Path) -> None:
    oracle = transformers.LlamaForCausalLM.from_pretrained(directory, attn_implementation="eager")
    with torch.no_grad():
        expected = oracle(IDS[0]).logits
        assert (load_model(directory).forward(IDS)[0] - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3"])
def test_configurations_survive_the_file(tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {"family": name, "windows": (5, 5) if name == "mistral" else ()}
    if name == "qwen2":
        changes |= {"qkv_bias": True, "windows": (None, 7)}
    if name == "qwen3":
        changes |= {"query_key_norm": True, "tied": True}
    config = LlamaConfig(**{f: getattr(CONFIG, f) for f in CONFIG.__slots__} | changes)
    assert load_model(save_model(model_of(config), tmp_path)).config == config


@pytest.mark.parametrize("decoding", [{"temperature": 0.3, "top_k": 7, "max_tokens": 11}, {"temperature": 0.0}])
def test_decoding_parameters_survive_the_file(tmp_path: Path, decoding: dict[str, Any]) -> None:
    saved = save_model(replace(model_of(CONFIG), decoding=decoding), tmp_path)
    assert load_model(saved).decoding == decoding
    transformers.GenerationConfig.from_pretrained(saved).validate(strict=True)


def test_the_models_own_decoding_parameters_are_read(copy_of: Path) -> None:
    (copy_of / "generation_config.json").write_text(
        json.dumps({"temperature": 0.3, "top_k": 7, "max_new_tokens": 11, "do_sample": True, "eos_token_id": 2})
    )
    resolved = load_model(copy_of).resolve({"top_k": 3})
    assert (resolved.values.temperature, resolved.values.top_k, resolved.values.max_tokens) == (0.3, 3, 11)
    assert (resolved.source["temperature"], resolved.source["top_k"], resolved.source["top_p"]) == (
        "model",
        "request",
        "default",
    )
    (copy_of / "generation_config.json").write_text(json.dumps({"temperature": -1}))
    with pytest.raises(SamplingError, match="model: temperature"):
        load_model(copy_of)


def _cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def _edit_config(path: Path, **changes: Any) -> None:
    data = json.loads((path / "config.json").read_text())
    data.update(changes)
    (path / "config.json").write_text(json.dumps({k: v for k, v in data.items() if v != "DROP"}))


def _edit_weights(path: Path, change: Any) -> None:
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors")


BROKEN: dict[str, tuple[Any, type[Exception]]] = {
    "no config": (lambda p: (p / "config.json").unlink(), ModelFileError),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), ModelFileError),
    "config no json": (lambda p: (p / "config.json").write_text("{"), FileFormatError),
    "config a list": (lambda p: (p / "config.json").write_text("[]"), FileFormatError),
    "config without a size": (lambda p: _edit_config(p, hidden_size="DROP"), FileFormatError),
    "config with a text for a size": (lambda p: _edit_config(p, hidden_size="wide"), FileFormatError),
    "config with uneven heads": (lambda p: _edit_config(p, num_key_value_heads=3), FileFormatError),
    "another architecture": (
        lambda p: _edit_config(p, architectures=["GPT2LMHeadModel"]),
        UnsupportedArchitectureError,
    ),
    "another activation": (lambda p: _edit_config(p, hidden_act="gelu"), UnsupportedArchitectureError),
    "another rope": (
        lambda p: _edit_config(p, rope_parameters={"rope_type": "longrope", "rope_theta": 1e4}),
        UnsupportedArchitectureError,
    ),
    "weights cut in the data": (lambda p: _cut(p / "model.safetensors", 30_000), TruncatedFileError),
    "weights cut in the header": (lambda p: _cut(p / "model.safetensors", 100), TruncatedFileError),
    "weights cut at once": (lambda p: _cut(p / "model.safetensors", 5), TruncatedFileError),
    "weights are noise": (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 64), FileFormatError),
    "header no json": (
        lambda p: (p / "model.safetensors").write_bytes(struct.pack("<Q", 8) + b"notjson!"),
        FileFormatError,
    ),
    "a tensor is missing": (lambda p: _edit_weights(p, lambda w: w.pop("model.norm.weight")), MissingTensorError),
    "a tensor too many": (
        lambda p: _edit_weights(p, lambda w: w.update({"model.layers.9.x": torch.zeros(1)})),
        UnexpectedTensorError,
    ),
    "a tensor of another shape": (
        lambda p: _edit_weights(p, lambda w: w.update({"model.norm.weight": torch.zeros(3)})),
        ShapeError,
    ),
    "a tensor of whole numbers": (
        lambda p: _edit_weights(p, lambda w: w.update({"model.norm.weight": torch.zeros(64, dtype=torch.int8)})),
        UnsupportedTensorTypeError,
    ),
}


@pytest.mark.parametrize("fault", sorted(BROKEN))
def test_broken_directories_are_refused_by_name(copy_of: Path, fault: str) -> None:
    load_model(copy_of)  # the untouched copy loads
    damage, error = BROKEN[fault]
    damage(copy_of)
    with pytest.raises(error):
        load_model(copy_of)


@pytest.mark.parametrize("target", ["missing.safetensors", "../model.safetensors"])
def test_a_shard_index_may_not_point_elsewhere(tmp_path: Path, target: str) -> None:
    save_model(model_of(CONFIG), tmp_path, shard_bytes=20_000)
    index = tmp_path / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["model.norm.weight"] = target
    index.write_text(json.dumps(data))
    with pytest.raises(ModelFileError, match=r"no such file|not a plain file name"):
        load_model(tmp_path)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such model"):
        load_model(tmp_path / "nothing")


# --- GGUF ------------------------------------------------------------------------------------------------------------

QUANTISED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
_GGUF_NAMES = {v: k for k, v in gguf_files._NAMES.items()}


def _gguf_name(name: str) -> str:
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        stem, kind = rest.rsplit(".", 1)
        return f"blk.{layer}.{_GGUF_NAMES[stem]}.{kind}"
    stem, kind = name.rsplit(".", 1)
    return f"{_GGUF_NAMES[stem]}.{kind}"


def _permute(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """llama.cpp's own permutation, as its converter has it."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def write_gguf(path: Path, model: LocalModel, kind: str = "F32", *, change: Any = None) -> Path:
    config = model.config
    writer = gguf.GGUFWriter(path, config.family)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_vocab_size(config.vocabulary)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if change is not None:
        change(writer)
    target = gguf.GGMLQuantizationType[kind]
    for name, weight in model.weights.items():
        array = weight.numpy()
        if config.family == "llama" and "q_proj" in name:
            array = _permute(array, config.heads)
        elif config.family == "llama" and "k_proj" in name:
            array = _permute(array, config.key_value_heads)
        if array.ndim == 1 or kind == "F32":
            writer.add_tensor(_gguf_name(name), array)
        else:
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(array, target), raw_dtype=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", QUANTISED)
def test_every_gguf_type_equals_the_oracles_reading(tmp_path: Path, kind: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", model_of(CONFIG), kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = transformers.LlamaForCausalLM.from_pretrained(
            tmp_path, gguf_file="m.gguf", attn_implementation="eager", dtype=torch.float32
        )
    model = load_model(path)
    for name, parameter in oracle.named_parameters():
        assert torch.equal(model.weights[name], parameter.detach()), name
    with torch.no_grad():
        assert (model.forward(IDS)[0] - oracle(IDS[0]).logits).abs().max() <= 1e-4


def test_gguf_without_the_unpermutation_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "m.gguf", model_of(CONFIG))
    right = load_model(path).forward(IDS)
    assert (right - model_of(CONFIG).forward(IDS)).abs().max() <= 1e-5
    monkeypatch.setattr(gguf_files, "_unpermute", lambda array, heads: array)
    assert (load_model(path).forward(IDS) - right).abs().max() > 0.1


def test_gguf_of_qwen3_is_not_permuted(tmp_path: Path) -> None:
    config = LlamaConfig(
        **{f: getattr(CONFIG, f) for f in CONFIG.__slots__}
        | {"family": "qwen3", "query_key_norm": True, "tied": True, "norm_epsilon": 1e-5}
    )
    model = model_of(config)
    loaded = load_model(write_gguf(tmp_path / "m.gguf", model))
    assert (loaded.config.family, loaded.config.tied, loaded.config.query_key_norm) == ("qwen3", True, True)
    assert (loaded.forward(IDS) - model.forward(IDS)).abs().max() <= 1e-5


def test_gguf_rope_divisors_equal_llama3_scaling(tmp_path: Path) -> None:
    """llama.cpp writes Llama 3's stretching as one divisor for each frequency."""
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    from hyperfunc_local.models.rope import frequencies

    data = transformers.LlamaConfig(head_dim=16, rope_parameters=scaling).to_dict()
    rope = LlamaConfig.from_hf({**data, "architectures": ["LlamaForCausalLM"]}).rope
    plain = 1.0 / 500.0 ** (torch.arange(0, 16, 2).float() / 16)
    divisors = (plain / frequencies(rope, 16, 1)[0]).numpy().astype(np.float32)
    assert divisors.max() > 2

    def change(writer: Any) -> None:
        writer.add_tensor("rope_freqs.weight", divisors)
        writer.add_rope_freq_base(500.0)

    config = LlamaConfig(**{f: getattr(CONFIG, f) for f in CONFIG.__slots__} | {"rope": rope})
    model = model_of(config)
    path = write_gguf(tmp_path / "m.gguf", model, change=change)
    assert (load_model(path).forward(IDS) - model.forward(IDS)).abs().max() <= 1e-4
    with pytest.raises(UnsupportedArchitectureError, match="divisors"):
        save_model(load_model(path), tmp_path / "out")


# One block of 256 values of each K-quant. The bytes are arithmetic, the values were worked out from ggml's block
# layouts (ggml-common.h), not by the package under test: see _reference below.
K_QUANTS = {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}


def _block(kind: str) -> bytes:
    size = K_QUANTS[kind]
    body = bytearray((37 * i + 11) % 256 for i in range(size))
    half = np.array([0.0625, -0.03125], dtype=np.float16).tobytes()
    if kind == "Q2_K":
        body[80:84] = half
    elif kind in ("Q4_K", "Q5_K"):
        body[0:4] = half
    else:
        body[-2:] = half[:2]
    return bytes(body)


def _reference(kind: str, b: bytes) -> list[float]:
    """Scalar dequantisation, straight from the block layouts."""

    def f16(at: int) -> float:
        return float(np.frombuffer(b[at : at + 2], np.float16)[0])

    def signed(value: int) -> int:
        return value - 256 if value > 127 else value

    def scale_and_min(at: int, j: int) -> tuple[int, int]:
        q = b[at : at + 12]
        if j < 4:
            return q[j] & 63, q[j + 4] & 63
        return (q[j + 4] & 0xF) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4)

    out: list[float] = []
    if kind == "Q2_K":
        d, low = f16(80), f16(82)
        for i in range(256):
            half, within = divmod(i, 128)
            shift, place = divmod(within, 32)
            scale = b[i // 16]
            quant = (b[16 + half * 32 + place] >> (2 * shift)) & 3
            out.append(d * (scale & 0xF) * quant - low * (scale >> 4))
    elif kind == "Q3_K":
        d, raw = f16(108), b[96:108]
        for i in range(256):
            half, within = divmod(i, 128)
            shift, place = divmod(within, 32)
            j = i // 16
            low4 = raw[j] & 0xF if j < 8 else raw[j - 8] >> 4
            high2 = (raw[8 + j % 4] >> (2 * (j // 4))) & 3
            quant = (b[32 + half * 32 + place] >> (2 * shift)) & 3
            bit = (b[place] >> (i // 32)) & 1
            out.append(d * ((low4 | high2 << 4) - 32) * (quant - (0 if bit else 4)))
    elif kind in ("Q4_K", "Q5_K"):
        d, low = f16(0), f16(2)
        start = 16 if kind == "Q4_K" else 48
        for i in range(256):
            group, place = divmod(i, 32)
            scale, minimum = scale_and_min(4, group)
            byte = b[start + (group // 2) * 32 + place]
            quant = byte >> 4 if group % 2 else byte & 0xF
            if kind == "Q5_K":
                quant += 16 * ((b[16 + place] >> group) & 1)
            out.append(d * scale * quant - low * minimum)
    else:
        d = f16(208)
        for i in range(256):
            half, within = divmod(i, 128)
            quarter, place = divmod(within, 32)
            low4 = b[half * 64 + (quarter % 2) * 32 + place]
            low4 = low4 >> 4 if quarter >= 2 else low4 & 0xF
            high2 = (b[128 + half * 32 + place] >> (2 * quarter)) & 3
            out.append(d * signed(b[192 + i // 16]) * ((low4 | high2 << 4) - 32))
    return out


@pytest.mark.parametrize("kind", sorted(K_QUANTS))
def test_k_quants_equal_the_block_layout(tmp_path: Path, kind: str) -> None:
    expected = torch.tensor(_reference(kind, _block(kind)))
    assert expected.unique().numel() > 8
    config = LlamaConfig(
        **{f: getattr(CONFIG, f) for f in CONFIG.__slots__} | {"hidden": 256, "layers": 1, "windows": ()}
    )
    model = model_of(config)
    path = tmp_path / "m.gguf"
    original = gguf.quants.quantize

    def quantise(array: Any, target: Any) -> Any:
        blocks = np.frombuffer(_block(kind), np.uint8)
        return np.tile(blocks, (array.shape[0], array.shape[1] // 256))

    gguf.quants.quantize = quantise
    try:
        kept = {n: w for n, w in model.weights.items() if w.dim() == 1 or w.shape[1] == 256}
        write_gguf(path, LocalModel(config, kept), kind, change=lambda w: _plain(w, model, kept))
    finally:
        gguf.quants.quantize = original
    weight = read_gguf(path).weights["model.layers.0.mlp.up_proj.weight"]
    assert torch.allclose(weight, expected.expand_as(weight), rtol=1e-6, atol=1e-6)


def _plain(writer: Any, model: LocalModel, kept: dict[str, Any]) -> None:
    for name, weight in model.weights.items():
        if name not in kept:
            writer.add_tensor(_gguf_name(name), weight.numpy())


def test_broken_gguf_files_are_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model_of(CONFIG), "Q8_0")
    whole = path.read_bytes()

    def refused(data: bytes, error: type[Exception]) -> None:
        path.write_bytes(data)
        with pytest.raises(error):
            load_model(path)

    refused(b"GGML" + whole[4:], FileFormatError)
    refused(whole[:4] + struct.pack("<I", 1) + whole[8:], FileVersionError)
    refused(whole[:4] + struct.pack("<I", 99) + whole[8:], FileVersionError)
    refused(whole[:10], TruncatedFileError)
    for keep in (30, 200, len(whole) // 2, len(whole) - 40):
        refused(whole[:keep], TruncatedFileError)
    refused(whole[:16] + struct.pack("<Q", 1 << 60) + whole[24:], TruncatedFileError)
    refused(whole.replace(b"general.architecture", b"general.architecturf"), UnsupportedArchitectureError)
    refused(whole.replace(b"llama.block_count", b"llama.block_counu"), FileFormatError)
    refused(whole.replace(b"output_norm", b"output_normm"[:11].replace(b"m", b"n")), UnsupportedArchitectureError)
    path.write_bytes(whole)
    load_model(path)


def test_damaged_gguf_headers_never_escape_the_typed_errors(tmp_path: Path) -> None:
    """Any byte of the header may be wrong: the file loads, or one of our errors says why."""
    from hyperfunc.errors import HyperfuncError

    path = write_gguf(tmp_path / "m.gguf", model_of(CONFIG))
    whole = bytearray(path.read_bytes())
    source = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in source.integers(0, 1400, 2):
            damaged[place] = source.integers(0, 256)
        path.write_bytes(damaged)
        try:
            load_model(path)
        except HyperfuncError:
            refused += 1
    assert refused > 50
