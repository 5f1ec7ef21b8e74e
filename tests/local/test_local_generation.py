"""Generation: equal to the oracle, and to itself however the batch is laid out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from hyperfunc.errors import ConfigurationError, ShapeError, UnknownParameterError
from hyperfunc.population.members import DenseMembers, FactoredMembers
from hyperfunc_local.adapters import FactoredAdapter
from hyperfunc_local.engine import Engine, GenerationRequest
from hyperfunc_local.errors import ContextLengthError, TokenizerError
from hyperfunc_local.model import LocalModel
from hyperfunc_local.models.cache import KeyValueCache
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.sampling.parameters import DecodingParameters
from hyperfunc_serve.demo_model import demo_model

GREEDY = DecodingParameters(temperature=0, max_tokens=14)
WARM = DecodingParameters(temperature=1.0, top_k=20, top_p=0.95, max_tokens=14)
LENGTHS = (3, 7, 5, 12, 4, 9, 6, 8)


def oracle_and_model(window: int | None = None) -> tuple[Any, LocalModel]:
    transformers = pytest.importorskip("transformers")
    family = "Llama" if window is None else "Mistral"
    config = getattr(transformers, f"{family}Config")(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        attn_implementation="eager",
        **({} if window is None else {"sliding_window": window}),
    )
    torch.manual_seed(0)
    oracle = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.mul_(4)
    ours = LlamaConfig.from_hf({**config.to_dict(), "architectures": [f"{family}ForCausalLM"]})
    return oracle, LocalModel(ours, {n: p.detach().clone() for n, p in oracle.named_parameters()})


def prompts(count: int = 8) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, 97, (n,), generator=generator).tolist() for n in LENGTHS[:count]]


def members_of(model: LocalModel, count: int, sigma: float = 0.1) -> dict[str, FactoredMembers]:
    generator = torch.Generator().manual_seed(9)
    return {
        n: FactoredMembers(
            w,
            torch.randn((count, w.shape[0], 1), generator=generator),
            torch.randn((count, w.shape[1], 1), generator=generator),
            sigma,
        )
        for n, w in model.weights.items()
        if w.dim() == 2
    }


def tokens(answers: Any) -> list[list[list[int]]]:
    return [[a.tokens for a in own] for own in answers]


@pytest.mark.parametrize("window", [None, 6])
def test_greedy_tokens_equal_the_oracles(window: int | None) -> None:
    oracle, model = oracle_and_model(window)
    answers = model.generate(prompts(), GREEDY)[0]
    lengths = set()
    for prompt, answer in zip(prompts(), answers, strict=True):
        ids = torch.tensor([prompt])
        expected = oracle.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=14, do_sample=False)
        expected = expected[0, len(prompt) :].tolist()
        ended = 2 in expected
        assert answer.tokens == (expected[: expected.index(2)] if ended else expected)
        assert answer.finish == ("stop" if ended else "length")
        lengths.add(len(answer.tokens))
    assert 14 in lengths


@pytest.mark.parametrize("decoding", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("max_rows", [None, 1, 3, 5])
def test_a_batch_equals_singles_however_it_is_refilled(decoding: DecodingParameters, max_rows: int | None) -> None:
    _, model = oracle_and_model()
    batch = tokens(model.generate(prompts(), decoding, seed=3, max_rows=max_rows))[0]
    engine_seeds = [3 * 1_000_003 + i for i in range(8)]
    for prompt, seed, got in zip(prompts(), engine_seeds, batch, strict=True):
        engine = Engine(model.config, model.bind())
        answer = engine.submit(GenerationRequest(tuple(prompt), decoding, seed=seed))
        while engine.busy:
            engine.step()
        assert answer.tokens == got


@pytest.mark.parametrize("max_rows", [None, 4, 8, 12])
def test_every_member_answers_as_if_alone(max_rows: int | None) -> None:
    _, model = oracle_and_model()
    block = members_of(model, 4)
    population = tokens(model.generate(prompts(), WARM, members=block, seed=1, max_rows=max_rows))
    for member in range(4):
        alone = model.with_weights({n: v.dense(member) for n, v in block.items()})
        assert tokens(alone.generate(prompts(), WARM, seed=1))[0] == population[member]
    assert len({str(p) for p in population}) == 4


def test_members_may_have_prompts_of_their_own() -> None:
    _, model = oracle_and_model()
    block = members_of(model, 3)
    own = [prompts()[i : i + 2] for i in range(3)]
    answers = tokens(model.generate(own, GREEDY, members=block))
    for member in range(3):
        alone = model.with_weights({n: v.dense(member) for n, v in block.items()})
        assert tokens(alone.generate(own[member], GREEDY))[0] == answers[member]
    with pytest.raises(ConfigurationError, match="each of 3 members"):
        model.generate(own[:2], GREEDY, members=block)


def test_members_share_their_draws() -> None:
    """Without perturbation, all members give the same sampled answer: common random numbers."""
    _, model = oracle_and_model()
    block = members_of(model, 3, sigma=0.0)
    answers = tokens(model.generate(prompts(), WARM, members=block, seed=4))
    assert answers[0] == answers[1] == answers[2]
    assert tokens(model.generate(prompts(), WARM, seed=5))[0] != answers[0]


def test_generations_leave_nothing_behind() -> None:
    _, model = oracle_and_model()
    first = tokens(model.generate(prompts(), GREEDY))
    block = members_of(model, 2)
    model.generate(prompts(), GREEDY, members=block)
    assert tokens(model.generate(prompts(), GREEDY)) == first


def test_short_answers_do_not_wait_for_long_ones() -> None:
    """16 short and one long request in 4 slots: the batch is refilled, so that the long one sets the number of
    steps."""
    _, model = oracle_and_model()
    engine = Engine(model.config, model.bind(), slots=4)
    long = engine.submit(GenerationRequest((5, 6), DecodingParameters(temperature=0, max_tokens=40, ignore_end=True)))
    short = [
        engine.submit(GenerationRequest((7, i + 3), DecodingParameters(temperature=0, max_tokens=5, ignore_end=True)))
        for i in range(9)
    ]
    while not all(s.finish for s in short):
        engine.step()
    assert long.finish is None
    steps = engine.steps
    while engine.busy:
        engine.step()
    assert len(long.tokens) == 40
    # Waiting for the longest of each batch of 4 would take 40 + 5 + 5 steps.
    assert engine.steps <= 40 + 3
    assert steps < 30


def test_a_cancelled_answer_frees_its_slot() -> None:
    _, model = oracle_and_model()
    engine = Engine(model.config, model.bind(), slots=1)
    endless = DecodingParameters(temperature=0, max_tokens=100, ignore_end=True)
    first, second, third = (engine.submit(GenerationRequest((i, 4), endless)) for i in (3, 4, 5))
    for _ in range(5):
        engine.step()
    engine.finish(first, "cancelled")
    engine.finish(third, "cancelled")  # it never had a slot
    assert (engine.active, engine.waiting) == (0, 1)
    while engine.busy:
        engine.step()
    assert (len(first.tokens), len(second.tokens), len(third.tokens)) == (5, 100, 0)
    assert second.finish == "length"


def test_the_cache_stays_within_the_longest_text() -> None:
    """Many requests through few slots: columns that no running text needs are given back."""
    _, model = oracle_and_model()
    engine = Engine(model.config, model.bind(), slots=3)
    lengths = itertools.cycle((3, 17, 6, 11))
    for i in range(40):
        decoding = DecodingParameters(temperature=0, max_tokens=next(lengths), ignore_end=True)
        engine.submit(GenerationRequest(tuple(range(3, 6 + i % 9)), decoding))
    most = 0
    while engine.busy:
        engine.step()
        if engine._cache is not None:
            most = max(most, engine._cache.length)
    assert most <= 2 * (11 + 17)


def test_what_does_not_fit_is_refused() -> None:
    _, model = oracle_and_model()
    engine = Engine(model.config, model.bind(), max_context=10)
    with pytest.raises(ContextLengthError):
        engine.submit(GenerationRequest(tuple(range(3, 13))))
    with pytest.raises(ConfigurationError):
        engine.submit(GenerationRequest(()))
    with pytest.raises(ConfigurationError):
        engine.submit(GenerationRequest((3,), member=1))
    answer = engine.submit(GenerationRequest((3, 4, 5), DecodingParameters(temperature=0, ignore_end=True)))
    while engine.busy:
        engine.step()
    assert (len(answer.tokens), answer.finish) == (7, "length")
    with pytest.raises(TokenizerError):
        model.generate(["text without a tokenizer"])
    with pytest.raises(TokenizerError):
        model.generate([[97]])


def test_stop_strings_end_an_answer_in_the_text() -> None:
    model = demo_model()
    free = model.generate(["abc"], GREEDY)[0][0]
    stop = free.text[4:6]
    cut = model.generate(["abc"], DecodingParameters(temperature=0, max_tokens=14, stop=(stop,)))[0][0]
    assert (cut.text, cut.finish) == (free.text[: free.text.index(stop)], "stop")
    assert len(cut.tokens) < len(free.tokens)
    none = model.generate(["abc"], DecodingParameters(temperature=0, max_tokens=14, stop=("\x00never",)))[0][0]
    assert (none.text, none.finish) == (free.text, "length")


# --- scoring
# -------------------------------------------------------------------------------------------------------------


def test_scores_are_the_log_probabilities_of_the_oracle() -> None:
    oracle, model = oracle_and_model()
    block = members_of(model, 3)
    starts, ends = prompts(5), [[4, 5], [6], [7, 8, 9], [10, 11], [3]]
    for max_rows in (256, 4):
        scored = model.score(starts, ends, members=block, max_rows=max_rows)
        for member in range(3):
            weights = {n: v.dense(member) for n, v in block.items()}
            oracle.load_state_dict(weights, strict=False)
            for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
                with torch.no_grad():
                    table = oracle(torch.tensor([start + end])).logits[0].log_softmax(-1)
                expected = [float(table[len(start) - 1 + j, t]) for j, t in enumerate(end)]
                assert scored.tokens[member, i, : len(end)].tolist() == pytest.approx(expected, abs=2e-3)
                assert float(scored.total[member, i]) == pytest.approx(sum(expected), abs=4e-3)
    assert (scored.tokens[:, 1, 1:] == 0).all()


def test_a_generated_answer_scores_as_greedy() -> None:
    _, model = oracle_and_model()
    decoding = DecodingParameters(temperature=0, max_tokens=6, ignore_end=True)
    answers = [a.tokens for a in model.generate(prompts(), decoding)[0]]
    scored = model.score(prompts(), answers)
    assert scored.greedy.all()
    other = [[(t + 1) % 97 for t in a] for a in answers]
    worse = model.score(prompts(), other)
    assert not worse.greedy.any()
    assert (worse.total < scored.total).all()
    with pytest.raises(ConfigurationError):
        model.score([[3]], [[]])
    with pytest.raises(ConfigurationError):
        model.score([[3]], [])


def test_log_probabilities_of_tokens_are_reported_before_any_filter() -> None:
    _, model = oracle_and_model()
    engine = Engine(model.config, model.bind())
    decoding = DecodingParameters(temperature=1.5, top_k=3, max_tokens=5, ignore_end=True)
    answer = engine.submit(GenerationRequest((5, 6, 7), decoding, top_logprobs=4))
    while engine.busy:
        engine.step()
    scored = model.score([[5, 6, 7]], [answer.tokens])
    assert answer.logprobs == pytest.approx(scored.tokens[0, 0].tolist(), abs=1e-4)
    assert all(len(top) == 4 and top[0][1] >= top[1][1] for top in answer.top)


# --- the adapter seam
# ----------------------------------------------------------------------------------------------------


def test_any_adapter_takes_part_through_the_same_seam() -> None:
    _, model = oracle_and_model()
    name = "model.layers.0.mlp.up_proj.weight"
    calls = []

    class Halving:
        """Output times one half, as an IA3 adapter would have it."""

        def apply(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            calls.append(x.shape)
            return torch.nn.functional.linear(x, weight, bias) * 0.5

        def select(self, members: torch.Tensor) -> Halving:
            return self

    ids = torch.tensor([[prompts()[0]]])
    from hyperfunc_local.models import llama

    got = llama.forward(model.config, model.bind(adapters={name: Halving()}), ids)
    expected = model.with_weights({name: model.weights[name] * 0.5}).forward(ids)
    assert (got - expected).abs().max() <= 1e-5
    assert len(calls) == 1
    own = DenseMembers(torch.zeros_like(model.weights[name])[None])
    placed = model.bind({name: own}, {name: Halving()})
    assert torch.equal(llama.forward(model.config, placed, ids), got)  # the adapter is in place of members' values
    with pytest.raises(UnknownParameterError, match=r"up_porj"):
        model.bind(adapters={name.replace("proj", "porj"): Halving()})
    with pytest.raises(ShapeError, match=r"model.norm.weight: an adapter changes a linear's matrix, this is \["):
        model.bind(adapters={"model.norm.weight": Halving()})


def test_a_factored_adapter_checks_the_number_of_members() -> None:
    adapter = FactoredAdapter(torch.zeros(3, 4, 1), torch.zeros(3, 5, 1))
    with pytest.raises(ShapeError):
        adapter.apply(torch.zeros(2, 1, 5), torch.zeros(4, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_populations_generate_and_score(dtype: torch.dtype) -> None:
    _, model = oracle_and_model()
    half = LocalModel(model.config, {n: w.to(dtype) for n, w in model.weights.items()})
    block = members_of(half, 3)
    answers = half.generate(prompts(4), GREEDY, members=block, max_rows=6)
    assert all(a.finish in ("stop", "length") for own in answers for a in own)
    assert max(len(a.tokens) for own in answers for a in own) > 3
    exact = model.score(prompts(4), [[4, 5]] * 4, members=members_of(model, 3)).total
    rough = half.score(prompts(4), [[4, 5]] * 4, members=block).total
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() <= 0.1 * exact.abs().mean()
    assert all(w.dtype == dtype for w in half.weights.values())


@pytest.mark.parametrize("fault", ["forgets where texts begin", "writes into the column before"])
def test_the_tests_of_generation_notice_a_broken_cache(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: each fault contaminates a text with another one, and the tokens show it."""
    _, model = oracle_and_model()
    expected = tokens(model.generate(prompts(), GREEDY))[0]
    if fault == "forgets where texts begin":
        original = KeyValueCache.place

        def place(cache: KeyValueCache, rows: torch.Tensor, other: KeyValueCache) -> None:
            original(cache, rows, other)
            assert cache.padding is not None
            cache.padding[rows] = 0

        monkeypatch.setattr(KeyValueCache, "place", place)
    else:
        write = KeyValueCache.write

        def late(cache: KeyValueCache, layer: int, keys: torch.Tensor, values: torch.Tensor) -> Any:
            if cache.length == 0:
                return write(cache, layer, keys, values)
            cache.length -= 1
            write(cache, layer, keys, values)
            cache.length += 1
            return write(cache, layer, keys, values)

        monkeypatch.setattr(KeyValueCache, "write", late)
    assert tokens(model.generate(prompts(), GREEDY, max_rows=3))[0] != expected
