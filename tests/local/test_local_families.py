"""Models beyond our own family, and the model as a component of a system."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperfunc import HyperSystem, hyperfunction
from hyperfunc.errors import FactoredOperationError
from hyperfunc.hookspecs import hookimpl
from hyperfunc.plugins import Plugins, use_plugins
from hyperfunc.population.members import DenseMembers, FactoredMembers
from hyperfunc.testing.contracts import ModelFamilyCase, ModelFamilyContract
from hyperfunc_local.errors import UnsupportedArchitectureError
from hyperfunc_local.loading import load_model, save_model
from hyperfunc_local.model import LocalModel
from hyperfunc_local.models import fallback
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.models.weights import BoundWeights
from hyperfunc_local.module import LlamaModule
from hyperfunc_local.sampling.parameters import DecodingParameters
from hyperfunc_serve.demo_model import demo_model

transformers = pytest.importorskip("transformers")
GREEDY = DecodingParameters(temperature=0, max_tokens=8, ignore_end=True)
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]


def saved(kind: str, directory: Path) -> Any:
    torch.manual_seed(0)
    if kind == "GPT2":
        config = transformers.GPT2Config(
            vocab_size=61, n_positions=64, n_embd=24, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
        oracle = transformers.GPT2LMHeadModel(config)
    else:
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=61,
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            eos_token_id=0,
        )
        oracle = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    oracle.eval().save_pretrained(directory)
    return oracle


def block_of(model: Any, names: list[str], members: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        n: FactoredMembers(
            model.weights[n],
            torch.randn(members, model.weights[n].shape[0], 1, generator=generator),
            torch.randn(members, model.weights[n].shape[1], 1, generator=generator),
            0.1,
        )
        for n in names
    }


@pytest.mark.parametrize("kind", ["GPT2", "GPTNeoX", "Phi", "Bloom"])
@pytest.mark.parametrize("max_rows", [None, 4])
def test_other_architectures_run_through_the_fallback(tmp_path: Path, kind: str, max_rows: int | None) -> None:
    oracle = saved(kind, tmp_path)
    with pytest.raises(UnsupportedArchitectureError, match="fallback"):
        load_model(tmp_path)
    model = load_model(tmp_path, fallback=True)
    matrices = [n for n, w in model.weights.items() if w.dim() == 2]
    block = block_of(model, matrices, 3)
    answers = model.generate(PROMPTS, GREEDY, members=block, max_rows=max_rows)
    scored = model.score(PROMPTS, [[4, 5]] * 3, members=block)
    assert len({str([a.tokens for a in own]) for own in answers}) == 3
    for member in range(3):
        oracle.load_state_dict({n: v.dense(member) for n, v in block.items()}, strict=False)
        for prompt, answer, total in zip(PROMPTS, answers[member], scored.total[member], strict=True):
            ids = torch.tensor([prompt])
            with torch.no_grad():
                for _ in range(8):
                    ids = torch.cat((ids, oracle(ids).logits[:, -1].argmax(-1, keepdim=True)), 1)
                table = oracle(torch.tensor([[*prompt, 4, 5]])).logits[0].log_softmax(-1)
            assert answer.tokens == ids[0, len(prompt) :].tolist()
            expected = table[len(prompt) - 1, 4] + table[len(prompt), 5]
            assert float(total) == pytest.approx(float(expected), abs=1e-3)


def test_the_fallback_reads_a_text_once_while_its_rows_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("GPTNeoX", tmp_path)
    model = load_model(tmp_path, fallback=True)
    read: list[int] = []
    run = fallback.TransformersModel._run

    def counting(self: Any, weights: Any, ids: torch.Tensor, *rest: Any, **options: Any) -> Any:
        read.append(ids.numel())
        return run(self, weights, ids, *rest, **options)

    monkeypatch.setattr(fallback.TransformersModel, "_run", counting)
    together = model.generate(PROMPTS, GREEDY)
    assert read == [15] + [3] * 7
    monkeypatch.setattr(fallback, "_covering", lambda answer, length: None)
    read.clear()
    again = model.generate(PROMPTS, GREEDY)
    assert read == [3 * n for n in range(5, 13)]
    assert [a.tokens for a in again[0]] == [a.tokens for a in together[0]]


def test_the_fallback_ignores_no_perturbation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("GPT2", tmp_path)
    model = load_model(tmp_path, fallback=True)
    with pytest.raises(UnsupportedArchitectureError, match="matrices only"):
        model.generate(PROMPTS, GREEDY, members={"transformer.ln_f.weight": DenseMembers(torch.ones(2, 24))})
    name = "transformer.h.0.attn.c_attn.weight"
    monkeypatch.setattr(fallback, "_reads_only", lambda func: True)  # the module would then see the bare weight
    with pytest.raises(FactoredOperationError, match="took no part"):
        model.generate(PROMPTS, GREEDY, members=block_of(model, [name], 2))


def test_a_plugin_may_bring_a_family(tmp_path: Path) -> None:
    saved("GPT2", tmp_path)
    seen = []

    class Family:
        @hookimpl
        def hyperfunc_register_model_families(self, register: Any) -> None:
            def build(config: Any) -> Any:
                seen.append(config["model_type"])
                raise UnsupportedArchitectureError("reached")

            register("GPT2LMHeadModel", build)

    plugins = Plugins()
    plugins.add(Family(), "family")
    with use_plugins(plugins), pytest.raises(UnsupportedArchitectureError, match="reached"):
        load_model(tmp_path)
    assert seen == ["gpt2"]


def test_our_families_register_through_the_same_hook(tmp_path: Path) -> None:
    from hyperfunc_local import plugin

    plugins = Plugins()
    plugins.add(plugin, "local")
    save_model(demo_model(hidden=32), tmp_path)
    with use_plugins(plugins):
        assert "Qwen3ForCausalLM" in plugins.registry("model_families").names()
        assert load_model(tmp_path).config.family == "llama"


async def test_a_model_is_a_component_of_a_system() -> None:
    model = demo_model(hidden=32)
    component = hyperfunction(evolve=lambda name, weight: "mlp" in name, name="writer")(LlamaModule(model))

    class Writer(HyperSystem):
        async def run(self, ids: torch.Tensor) -> torch.Tensor:
            return await component(ids, new_tokens=5)

    system = Writer()
    ids = torch.tensor(model.encode("hello"))
    got = await system.run(ids)
    expected = model.generate([model.encode("hello")], DecodingParameters(temperature=0, max_tokens=5))[0][0].tokens
    assert got.tolist() == expected
    assert sorted(component.tensor_specs, key=lambda s: s.name)[0].name == "model.layers.0.mlp.down_proj.weight"


def test_a_module_under_vmap_equals_the_population() -> None:
    model = demo_model(hidden=32)
    module = LlamaModule(model)
    names = [n for n in model.weights if "mlp" in n or "q_proj" in n]
    block = block_of(model, names, 3)
    ids = torch.tensor([model.encode("abc"), model.encode("xyz")])
    stacked = {n: torch.stack([v.dense(m) for m in range(3)]) for n, v in block.items()}

    def one(own: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(module, own, (ids, 6))  # type: ignore[no-any-return]

    got = torch.vmap(one)(stacked)
    greedy = DecodingParameters(temperature=0, max_tokens=6, ignore_end=True)
    expected = [[a.tokens for a in own] for own in model.generate(ids.tolist(), greedy, members=block)]
    assert got.tolist() == expected


class TestLlamaFamily(ModelFamilyContract):
    """What every family promises, of ours, built the way a plugin's is: by the registered ``(config) -> model``."""

    @pytest.fixture(params=["llama", "mistral", "qwen2", "qwen3"])
    def family_case(self, request: pytest.FixtureRequest, tmp_path: Path) -> ModelFamilyCase:
        from hyperfunc_local import plugin

        changes: dict[str, Any] = {
            "mistral": {"windows": (3, 3)},
            "qwen2": {"qkv_bias": True},
            "qwen3": {"query_key_norm": True},
        }
        demo = demo_model(hidden=32).config
        assert isinstance(demo, LlamaConfig)
        config = replace(demo, family=request.param, **changes.get(request.param, {}))
        save_model(LocalModel(config, random_weights(config.shapes())), tmp_path)
        data = json.loads((tmp_path / "config.json").read_text())
        plugins = Plugins()
        plugins.add(plugin, "local")
        build = plugins.registry("model_families").get(data["architectures"][0])
        assert build(data).config.family == request.param
        weights = BoundWeights(random_weights(config.shapes()))
        return ModelFamilyCase(build, data, config.vocabulary, lambda model, ids: model.forward(weights, ids[None])[0])


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator) * 0.2 + (len(s) == 1) for n, s in shapes.items()}


def test_other_architectures_are_described_and_served(tmp_path: Path) -> None:
    import httpx
    import typer
    from typer.testing import CliRunner

    from hyperfunc_serve.cli import info
    from hyperfunc_serve.running import server_in_thread

    saved("GPTNeoX", tmp_path / "neox")
    app = typer.Typer()
    app.command()(info)
    assert CliRunner().invoke(app, [str(tmp_path / "neox")]).exit_code == 1
    described = CliRunner().invoke(app, [str(tmp_path / "neox"), "--fallback", "--json"])
    facts = json.loads(described.stdout)  # transformers draws its progress on stderr
    assert (facts["vocabulary"], facts["context"]) == (61, 64)
    model = load_model(tmp_path / "neox", fallback=True)
    body = {"prompt": PROMPTS, "max_tokens": 8, "temperature": 0, "logprobs": 0, "ignore_eos": True}
    with server_in_thread({"neox": lambda: model}) as (url, _):
        choices = httpx.post(f"{url}/v1/completions", json=body, timeout=30).json()["choices"]
    expected = [[str(t) for t in a.tokens] for a in model.generate(PROMPTS, GREEDY)[0]]
    assert [c["logprobs"]["tokens"] for c in choices] == expected
