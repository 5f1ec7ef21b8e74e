"""Sampling: the distribution that comes out is the one that was asked for, and nothing outside of it."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from hyperfunc.parameters.protocol import HyperParam, get_hp_bounds, hp_tensor_spec
from hyperfunc_local.errors import GrammarError, SamplingError
from hyperfunc_local.sampling import filters
from hyperfunc_local.sampling.grammar import GrammarCompiler
from hyperfunc_local.sampling.parameters import DecodingParameters, resolve
from hyperfunc_local.sampling.penalties import LogitBias, OccurrencePenalty
from hyperfunc_local.sampling.sampler import SamplerRow, sample
from hyperfunc_serve.demo_model import demo_tokenizer

DRAWS = 20_000
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0])
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def exact(parameters: DecodingParameters) -> list[float]:
    """The distribution by the definitions, in plain Python."""
    scaled = [v / parameters.temperature for v in LOGITS.tolist()]
    total = sum(math.exp(v) for v in scaled)
    ranked = sorted(((math.exp(v) / total, i) for i, v in enumerate(scaled)), reverse=True)
    if parameters.top_k:
        ranked = ranked[: parameters.top_k]
    mass = sum(p for p, _ in ranked)
    nucleus, below = [], 0.0
    for p, i in ranked:
        if below / mass >= parameters.top_p and nucleus:
            break
        nucleus.append((p, i))
        below += p
    ranked = [(p, i) for p, i in nucleus if p >= parameters.min_p * nucleus[0][0]]
    mass = sum(p for p, _ in ranked)
    kept = {i: p / mass for p, i in ranked}
    return [kept.get(i, 0.0) for i in range(len(LOGITS))]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 1.7},
        {"top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
    ],
    ids=str,
)
def test_draws_follow_the_exact_distribution(changes: dict[str, Any]) -> None:
    parameters = DecodingParameters(**{**PLAIN, **changes})
    row = SamplerRow(parameters, seed=1)
    uniform = torch.tensor([row.uniform() for _ in range(DRAWS)], dtype=torch.float64)
    tokens = filters.draw(_filtered(parameters).expand(DRAWS, -1), uniform)
    counts = tokens.bincount(minlength=8).tolist()
    expected = exact(parameters)
    assert all(count == 0 for count, p in zip(counts, expected, strict=True) if p == 0)
    statistic = sum((c - DRAWS * p) ** 2 / (DRAWS * p) for c, p in zip(counts, expected, strict=True) if p)
    assert statistic < chi2.ppf(0.999, sum(p > 0 for p in expected) - 1)
    # The control: the same draws do not fit a distribution that is slightly warmer.
    warmer = exact(DecodingParameters(**{**PLAIN, **changes, "temperature": parameters.temperature * 1.15}))
    if sum(p > 0 for p in warmer) == sum(p > 0 for p in expected):
        off = sum((c - DRAWS * p) ** 2 / (DRAWS * p) for c, p in zip(counts, warmer, strict=True) if p)
        assert off > chi2.ppf(0.999, sum(p > 0 for p in warmer) - 1)


def _filtered(p: DecodingParameters) -> Tensor:
    from hyperfunc_local.sampling.sampler import _filter

    return _filter(LOGITS.unsqueeze(0).clone(), [SamplerRow(p)])


def test_rows_do_not_disturb_each_other() -> None:
    settings = [
        DecodingParameters(temperature=0),
        DecodingParameters(**PLAIN),
        DecodingParameters(temperature=1.3, top_k=4, top_p=0.7),
        DecodingParameters(**{**PLAIN, "repetition_penalty": 1.5}),
        DecodingParameters(temperature=0, repetition_penalty=3.0),
    ]
    logits = torch.randn(len(settings), 50, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    together, alone = [], []
    rows = [SamplerRow(p, prompt=(1, 2, 3), seed=i) for i, p in enumerate(settings)]
    for _ in range(20):
        together.append(sample(logits, rows).tolist())
    single = [SamplerRow(p, prompt=(1, 2, 3), seed=i) for i, p in enumerate(settings)]
    for _ in range(20):
        alone.append([int(sample(logits[i : i + 1], [row])[0]) for i, row in enumerate(single)])
    assert together == alone
    assert torch.equal(logits, before)
    assert len({tuple(t) for t in together}) > 5


def test_a_seed_is_reproducible_and_zero_is_one() -> None:
    def tokens(seed: int) -> list[int]:
        row = SamplerRow(DecodingParameters(**PLAIN), seed=seed)
        return [int(sample(LOGITS.unsqueeze(0), [row])[0]) for _ in range(80)]

    assert tokens(0) == tokens(0)
    assert len({tuple(tokens(s)) for s in range(4)}) == 4


def test_greedy_takes_the_largest_and_temperature_zero_is_set() -> None:
    row = SamplerRow(DecodingParameters(temperature=0.0, top_k=5, top_p=0.1))
    assert int(sample(LOGITS.unsqueeze(0), [row])[0]) == 0


def test_repetition_penalty_counts_prompt_and_answer() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0, -1.05]])
    seen = torch.tensor([[True, False, True, False]])
    out = filters.penalise_repetition(logits, seen, torch.tensor([2.0]))
    assert torch.allclose(out, torch.tensor([[1.0, 1.9, -2.0, -1.05]]))
    row = SamplerRow(DecodingParameters(temperature=0, repetition_penalty=2.0), prompt=(0,))
    assert int(sample(logits, [row])[0]) == 1
    row.answer.append(1)
    assert int(sample(logits, [row])[0]) == 0


def test_penalties_and_bias() -> None:
    logits = torch.zeros(5)
    assert OccurrencePenalty(0.5, 0.25)([1, 1, 3], logits.clone()).tolist() == [0, -1.0, 0, -0.75, 0]
    assert LogitBias({2: 5.0}, 5)([], logits.clone()).tolist() == [0, 0, 5.0, 0, 0]
    for wrong in (lambda: OccurrencePenalty(3.0), lambda: LogitBias({9: 1.0}, 5), lambda: LogitBias({1: 101.0}, 5)):
        with pytest.raises(SamplingError):
            wrong()


@given(st.floats(-50, 50), st.floats(0, 0.999), st.integers(2, 60))
def test_a_draw_never_takes_a_forbidden_token(shift: float, uniform: float, size: int) -> None:
    logits = torch.full((1, size), -torch.inf)
    logits[0, size // 2] = shift
    assert int(filters.draw(logits, torch.tensor([uniform]))[0]) == size // 2


# --- decoding parameters
# -------------------------------------------------------------------------------------------------


def test_resolution_by_all_presence_combinations() -> None:
    """Request over model over default, for every field and every combination; 0 and 0.0 are values like any other."""
    fields = {
        "temperature": (0.0, 0.4),
        "top_k": (0, 9),
        "top_p": (0.0, 0.3),
        "min_p": (0.0, 0.2),
        "repetition_penalty": (0.5, 2.0),
        "max_tokens": (1, 3),
        "stop": ((), ("x",)),
        "ignore_end": (False, True),
    }
    defaults = DecodingParameters(min_p=0.05, stop=("d",))
    for name, (asked, own) in fields.items():
        for in_request, in_model, in_default in itertools.product((True, False), repeat=3):
            base = defaults if in_default else None
            resolved = resolve({name: asked if in_request else None}, {name: own if in_model else None}, base)
            fallback = getattr(defaults if in_default else DecodingParameters(), name)
            expected = asked if in_request else own if in_model else fallback
            source = "request" if in_request else "model" if in_model else "default"
            assert (getattr(resolved.values, name), resolved.source[name]) == (expected, source)
            others = {s for n, s in resolved.source.items() if n != name}
            assert others == {"default"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("max_tokens", 0),
        ("stop", ("",)),
        ("stop", (1,)),
        ("unknown", 1),
    ],
)
def test_values_out_of_range_name_their_owner(field: str, value: Any) -> None:
    with pytest.raises(SamplingError, match=f"request: .*{field}"):
        resolve({field: value})
    with pytest.raises(SamplingError, match=f"model: .*{field}"):
        resolve(None, {field: value})


def test_decoding_parameters_are_a_parameter_type() -> None:
    assert isinstance(DecodingParameters(), HyperParam)
    spec = hp_tensor_spec(DecodingParameters, trainable=True)
    assert spec.shape == (5,)
    assert spec.initial is not None
    assert DecodingParameters.from_tensor(spec.initial) == DecodingParameters()
    low, high = get_hp_bounds(DecodingParameters) or (torch.zeros(5), torch.zeros(5))
    for corner in (low, high, low - 100, high + 100, (low + high) / 2):
        again = DecodingParameters.from_tensor(corner)
        assert DecodingParameters.from_tensor(again.to_tensor()) == again
    with pytest.raises(SamplingError):
        DecodingParameters.from_tensor(torch.full((5,), float("nan")))


@given(st.floats(0, 2), st.integers(0, 1000), st.floats(0.01, 1), st.floats(0, 0.5), st.floats(0.5, 2))
def test_the_tensor_form_round_trips(t: float, k: int, p: float, m: float, r: float) -> None:
    one = DecodingParameters(temperature=t, top_k=k, top_p=p, min_p=m, repetition_penalty=r)
    two = DecodingParameters.from_tensor(one.to_tensor())
    assert two.top_k == one.top_k
    for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), abs=2e-4)


# --- grammars
# ------------------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"k": {"type": "integer", "minimum": 0, "maximum": 99}, "s": {"type": "string", "maxLength": 5}},
    "required": ["k", "s"],
    "additionalProperties": False,
}


def _answers(constrained: bool, count: int) -> list[str]:
    """Answers of a "model" of random logits at temperature 1."""
    pytest.importorskip("llguidance")
    tokenizer = demo_tokenizer()
    compiler = GrammarCompiler(tokenizer, tokenizer.size, 1)
    generator = torch.Generator().manual_seed(0)
    texts = []
    for seed in range(count):
        processors = [compiler.json_schema(SCHEMA)] if constrained else []
        row = SamplerRow(DecodingParameters(**PLAIN), seed=seed, processors=processors)
        for _ in range(60):
            token = int(sample(torch.randn(1, tokenizer.size, generator=generator), [row])[0])
            if token == 1:
                break
            row.answer.append(token)
        texts.append(tokenizer.decode(row.answer))
    return texts


def test_constrained_answers_all_fit_the_schema_and_free_ones_do_not() -> None:
    for text in _answers(True, 200):
        value = json.loads(text)
        assert set(value) == {"k", "s"}
        assert isinstance(value["k"], int)
        assert 0 <= value["k"] <= 99
        assert len(value["s"]) <= 5
    free = 0
    for text in _answers(False, 100):
        try:
            free += isinstance(json.loads(text), dict)
        except ValueError:
            continue
    assert free == 0


def test_schemas_that_cannot_be_enforced_are_refused() -> None:
    pytest.importorskip("llguidance")
    compiler = GrammarCompiler(demo_tokenizer(), demo_tokenizer().size, 1)
    for schema in ({"type": "nonsense"}, {"$ref": "#/nowhere"}):
        with pytest.raises(GrammarError):
            compiler.json_schema(schema)
    with pytest.raises(GrammarError):
        compiler.lark("start: (")
