"""The factored linear map: every layout of batch axes, gradients, narrow dtypes, autocast, bits and memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperfunc.population import factored_linear as kernel
from hyperfunc.population.factored import FactoredTensor
from hyperfunc.population.factored_linear import factored_linear
from hyperfunc.population.factored_report import collect_materialisations

ROWS, COLUMNS, SCALE = 4, 6, 0.3


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def factored(x: Tensor, base: Tensor, left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    return factored_linear(x, base, left, right, SCALE, bias)


def dense(x: Tensor, base: Tensor, left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, base + SCALE * left @ right.mT, bias)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    data=st.data(),
    rank=st.sampled_from([1, 2]),
    rows=st.sampled_from([(), (3,), (2, 3)]),
    outputs=st.sampled_from([1, ROWS]),
    depth=st.integers(0, 3),
)
def test_any_argument_may_be_batched_at_any_depth_over_any_axis(
    data: st.DataObject, rank: int, rows: tuple[int, ...], outputs: int, depth: int
) -> None:
    """Everything batched or not, level by level, axis by axis, against the dense formula under the same vmaps."""
    shapes: list[list[int]] = [[*rows, COLUMNS], [outputs, COLUMNS], [outputs, rank], [COLUMNS, rank], [outputs]]
    with_bias = data.draw(st.booleans())
    levels: list[tuple[int | None, ...]] = []
    for level in range(depth):
        axes: list[int | None] = []
        for position, shape in enumerate(shapes):
            batched = data.draw(st.booleans()) and (position < 4 or with_bias)
            axis = data.draw(st.integers(0, len(shape))) if batched else None
            if axis is not None:
                shape.insert(axis, 2 + level)
            axes.append(axis)
        if all(axis is None for axis in axes):
            shapes[0].insert(0, 2 + level)
            axes[0] = 0
        levels.append(tuple(axes))
    arguments = [randn(*shape, seed=i) for i, shape in enumerate(shapes)]
    x, base, left, right, bias = (*arguments[:4], arguments[4] if with_bias else None)

    def lifted(function: Callable[..., Tensor]) -> Tensor:
        for axes in levels:
            function = torch.vmap(function, in_dims=axes if with_bias else (*axes[:4], None))
        return function(x, base, left, right, bias)

    torch.testing.assert_close(lifted(factored), lifted(dense), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("outputs", [1, ROWS])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("bias", ["none", "shared", "own"])
@pytest.mark.parametrize("rows", ["shared", "own"])
def test_the_usual_layouts(outputs: int, rank: int, bias: str, rows: str) -> None:
    """Members, then members × examples: every branch of the fused kernel by name."""
    base, left, right = randn(outputs, COLUMNS), randn(5, outputs, rank, seed=1), randn(5, COLUMNS, rank, seed=2)
    x = randn(5, 3, COLUMNS, seed=3) if rows == "own" else randn(3, COLUMNS, seed=3)
    offset = {"none": None, "shared": randn(outputs, seed=4), "own": randn(5, outputs, seed=4)}[bias]
    axes = (0 if rows == "own" else None, None, 0, 0, 0 if bias == "own" else None)
    expected = torch.vmap(dense, axes)(x, base, left, right, offset)
    torch.testing.assert_close(torch.vmap(factored, axes)(x, base, left, right, offset), expected)
    nested = torch.vmap(torch.vmap(factored, (0, None, None, None, None)), axes)
    torch.testing.assert_close(nested(x, base, left, right, offset), expected)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_reach_every_part_as_through_the_dense_weight(rank: int, transposed: bool) -> None:
    parts = [randn(3, COLUMNS), randn(ROWS, COLUMNS, seed=1), randn(ROWS, rank, seed=2), randn(COLUMNS, rank, seed=3)]
    if transposed:
        parts[1] = parts[1].T.contiguous().T
    parts.append(randn(ROWS, seed=4))
    inputs = [part.requires_grad_() for part in parts]
    assert torch.autograd.gradcheck(factored, inputs)
    assert torch.autograd.gradgradcheck(factored, inputs)
    weight = FactoredTensor(*inputs[1:4], SCALE)
    assert weight.requires_grad
    assert not weight.detach().requires_grad


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # inside torch's own jvp
@pytest.mark.parametrize("rank", [1, 2])
def test_gradients_inside_and_around_a_population(rank: int) -> None:
    """``vmap(grad)``, ``grad(vmap)`` and ``jvp`` with respect to inputs and factors."""
    base, x = randn(ROWS, COLUMNS), randn(5, 3, COLUMNS, seed=1)
    left, right = randn(5, ROWS, rank, seed=2), randn(5, COLUMNS, rank, seed=3)

    def loss(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda rows, a, b: function(rows, base, a, b, None).tanh().square().sum()

    for transform in (
        lambda f: torch.vmap(torch.func.grad(f, argnums=(0, 1, 2))),
        lambda f: torch.func.grad(lambda *a: torch.vmap(f)(*a).sum(), argnums=(0, 1, 2)),
        lambda f: torch.vmap(torch.func.jacrev(torch.func.jacrev(f))),
        lambda f: lambda *a: torch.func.jvp(torch.vmap(f), a, a),
    ):
        torch.testing.assert_close(transform(loss(factored))(x, left, right), transform(loss(dense))(x, left, right))
    outer = x.clone().requires_grad_()
    torch.vmap(loss(factored))(outer, left, right).sum().backward()
    again = x.clone().requires_grad_()
    torch.vmap(loss(dense))(again, left, right).sum().backward()
    torch.testing.assert_close(outer.grad, again.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [1, 4])
def test_a_narrow_base_keeps_perturbations_below_its_own_rounding(dtype: torch.dtype, rank: int) -> None:
    """σ is a tenth of the weights' spacing: a dense copy rounds it away, the factored product keeps it."""
    members, examples, width = 4, 8, 64
    base = (randn(width, width) * 0.2).to(dtype)
    spacing = 0.125 * torch.finfo(dtype).eps
    scale = 0.1 * spacing
    left, right = randn(members, width, rank, seed=1).sign(), randn(members, width, rank, seed=2).sign()
    x = randn(members, examples, width, seed=3).to(dtype)
    exact_delta = scale * (x.double() @ right) @ left.mT
    exact = x.double() @ base.double().mT + exact_delta

    def member(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return F.linear(rows, FactoredTensor(base, a, b, scale))

    got = torch.vmap(member)(x, left, right)
    assert got.dtype == dtype
    # One rounding of the output, and little more: what float32 accumulation allows.
    assert float((got.double() - exact).norm() / exact.norm()) < torch.finfo(dtype).eps / 2
    # Without the shared part, the perturbation alone stands as float64 would have it.
    alone = torch.vmap(lambda r, a, b: F.linear(r, FactoredTensor(base * 0, a, b, scale)))(x, left, right)
    assert torch.cosine_similarity(alone.double().flatten(), exact_delta.flatten(), dim=0) >= 0.9999
    rounded = (base.double() + scale * left @ right.mT).to(dtype)
    assert (rounded == base).double().mean() > 0.8
    for i in range(members):
        torch.testing.assert_close(member(x[i], left[i], right[i]), got[i], rtol=4 * torch.finfo(dtype).eps, atol=1e-3)


def test_materialising_a_narrow_weight_rounds_once() -> None:
    base, left, right = randn(8, 8).bfloat16(), randn(8, 3, seed=1).bfloat16(), randn(8, 3, seed=2).bfloat16()
    exact = (base.double() + 0.25 * left.double() @ right.double().mT).to(torch.bfloat16)
    weight = FactoredTensor(base, left, right, 0.25)
    assert (weight.dense() == exact).float().mean() > 0.95  # float32 may sit on the other side of a tie
    torch.testing.assert_close(weight.dense(), exact)


def test_autocast_chooses_the_dtype_as_for_a_dense_weight() -> None:
    base, left, right = (randn(*s, dtype=torch.float32) for s in ((ROWS, COLUMNS), (ROWS, 1), (COLUMNS, 1)))
    x, weight = randn(3, COLUMNS, dtype=torch.float32), FactoredTensor(base, left, right, SCALE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = F.linear(x, weight), F.linear(x, weight.dense())
    assert got.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


def test_the_same_block_gives_the_same_bits_every_time() -> None:
    base, left, right = (randn(*s, dtype=torch.float32) for s in ((64, 64), (16, 64, 1), (16, 64, 1)))
    x = randn(16, 8, 64, dtype=torch.float32)
    lifted = torch.vmap(lambda rows, a, b: factored(rows, base, a, b, None))
    first = lifted(x, left, right)
    assert all(torch.equal(lifted(x.clone(), left.clone(), right.clone()), first) for _ in range(5))


def test_a_member_s_result_does_not_depend_on_its_neighbours() -> None:
    base, left, right = (randn(*s) for s in ((32, 32), (8, 32, 1), (8, 32, 1)))
    x = randn(8, 4, 32)
    lifted = torch.vmap(lambda rows, a, b: factored(rows, base, a, b, None))
    others = lifted(torch.cat([x[:1], x[1:].flip(0)]), left, right)
    assert torch.equal(lifted(x, left, right)[0], others[0])


def peak_bytes(run: Callable[[], object], folder: Path) -> int:
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    path = folder / "trace.json"
    profile.export_chrome_trace(str(path))
    events = json.loads(path.read_text())["traceEvents"]
    held = highest = 0
    for _, change in sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]"):
        held += change
        highest = max(highest, held)
    return highest


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("nested", [False, True], ids=["members", "members x examples"])
@pytest.mark.parametrize("own_rows", [True, False], ids=["own rows", "shared rows"])
def test_a_population_takes_no_more_memory_than_inference_on_its_rows(
    own_rows: bool, nested: bool, rank: int, tmp_path: Path
) -> None:
    """Two layers, so that the second meets rows that vmap has batched: ≤ 1.2 × inference, no copy or expansion of x."""
    members, examples, width = 32, 16, 128
    base, bias = randn(width, width, dtype=torch.float32), randn(width, dtype=torch.float32)
    left, right = randn(members, width, rank, dtype=torch.float32), randn(members, width, rank, dtype=torch.float32)
    rows = randn(members, examples, width, dtype=torch.float32)
    x = rows if own_rows else rows[0].clone()

    def two_layers(inputs: Tensor, weight: Tensor) -> Tensor:
        hidden = F.linear(inputs, weight, bias).relu()
        return F.linear(hidden, weight, bias)

    def member(a: Tensor, b: Tensor, inputs: Tensor) -> Tensor:
        return two_layers(inputs, FactoredTensor(base, a, b, SCALE))

    lifted = torch.vmap(member, in_dims=(None, None, 0)) if nested else member
    lifted = torch.vmap(lifted, in_dims=(0, 0, 0 if own_rows else None))
    with torch.no_grad(), collect_materialisations() as report:
        inference = peak_bytes(lambda: two_layers(rows.view(-1, width), base), tmp_path)
        population = peak_bytes(lambda: lifted(left, right, x), tmp_path)
    assert report.operations == ()
    assert inference >= 2 * members * examples * width * 4
    assert population <= 1.2 * inference


def test_the_shared_product_runs_once_for_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """One ``addmm_`` over all rows of all members, however the vmaps are nested."""
    calls: list[tuple[int, ...]] = []

    def counted(call: kernel._Call) -> Tensor:
        calls.append((*call.x.shape, call.members or 0))
        return fused(call)

    fused = kernel._Call._fused
    monkeypatch.setattr(kernel._Call, "_fused", counted)
    base, left, right, x = randn(ROWS, COLUMNS), randn(5, ROWS, 1), randn(5, COLUMNS, 1), randn(5, 3, COLUMNS)
    member = lambda a, b, row: F.linear(row, FactoredTensor(base, a, b, SCALE))
    torch.vmap(torch.vmap(member, (None, None, 0)), (0, 0, 0))(left, right, x)
    torch.vmap(torch.vmap(member, (0, 0, None)), (None, None, 0))(left, right, x[0])
    assert calls == [(5, 3, COLUMNS, 5), (3, COLUMNS, 5)]
