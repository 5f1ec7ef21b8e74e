"""Each rule against the dense value, outside vmap and lifted over members × examples, without materialising."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfunc.population.factored import FactoredTensor
from hyperfunc.population.factored_report import collect_materialisations

MEMBERS, EXAMPLES, SCALE = 3, 2, 0.3

Program = Callable[[Tensor, Tensor], Tensor]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compare(program: Program, weight_shape: tuple[int, ...], x_shape: tuple[int, ...], rank: int) -> tuple[str, ...]:
    """Assert that all ways to run ``program`` agree with dense weights; return what was materialised."""
    columns = torch.Size(weight_shape[1:]).numel()
    base, x = randn(*weight_shape), randn(EXAMPLES, *x_shape, seed=1)
    left, right = randn(MEMBERS, weight_shape[0], rank, seed=2), randn(MEMBERS, columns, rank, seed=3)
    dense = base + SCALE * (left @ right.mT).reshape(MEMBERS, *weight_shape)
    expected = torch.stack([torch.stack([program(row, member) for row in x]) for member in dense])

    def run(a: Tensor, b: Tensor, row: Tensor) -> Tensor:
        out: Any = program(row, FactoredTensor(base, a, b, SCALE, "w"))
        return out.dense() if isinstance(out, FactoredTensor) else out

    vmap = torch.vmap
    with collect_materialisations() as report:
        one_by_one = torch.stack([torch.stack([run(a, b, row) for row in x]) for a, b in zip(left, right, strict=True)])
        members_outside = vmap(vmap(run, (None, None, 0)), (0, 0, None))(left, right, x)
        members_inside = vmap(vmap(run, (0, 0, None)), (None, None, 0))(left, right, x).transpose(0, 1)
        paired = vmap(run)(left, right, x[0].expand(MEMBERS, *x_shape))
    scale = float(expected.abs().max())
    for got in (one_by_one, members_outside, members_inside):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * max(scale, 1))
    torch.testing.assert_close(paired, expected[:, 0], rtol=0, atol=1e-12 * max(scale, 1))
    return report.operations


MATRIX: dict[str, Program] = {
    "linear": F.linear,
    "linear with bias": lambda x, w: F.linear(x, w, x[0, :1].expand(5)),
    "linear by keyword": lambda x, w: F.linear(input=x, weight=w, bias=torch.ones(5, dtype=x.dtype)),
    "linear with a broadcast bias": lambda x, w: F.linear(x, w) + x.sum(),
    "weight as input of linear": lambda x, w: F.linear(w, x),
    "matmul T": lambda x, w: x @ w.T,
    "vector": lambda x, w: x[0] @ w.T,
    "batch of matrices": lambda x, w: torch.stack([x, x * 2]) @ w.mT,
    "from the left": lambda x, w: w @ x.T,
    "from the left, a vector": lambda x, w: w @ x[0],
    "from the left, a batch": lambda x, w: torch.matmul(w, torch.stack([x.T, x.T])),
    "mm": lambda x, w: torch.mm(x, w.t()),
    "mv": lambda x, w: torch.mv(w, x[0]),
    "inner": torch.inner,
    "inner from the left": lambda x, w: torch.inner(w, x),
    "rmatmul": lambda x, w: w.T.__rmatmul__(x),
    "addmm": lambda x, w: torch.addmm(x[:, :5], x, w.t(), beta=0.5, alpha=2.0),
    "addmv": lambda x, w: torch.addmv(x[0, :5], w, x[1], beta=0.5, alpha=2.0),
    "transposes": lambda x, w: x @ w.transpose(0, 1) + x @ w.permute(1, 0) + x @ w.swapaxes(-1, -2) + x @ w.mH,
    "no transposes": lambda x, w: F.linear(x, w.transpose(1, -1)) + F.linear(x, w.T.T) + F.linear(x, w.permute(0, 1)),
    "scaled": lambda x, w: F.linear(x, -w * 2 / 3) + F.linear(x, 0.5 * w) + F.linear(x, torch.mul(w, 2)),
    "converted": lambda x, w: F.linear(x, w.to(x.device).to(dtype=x.dtype).type_as(x).cpu().to(x)),
    "detached": lambda x, w: F.linear(x, w.detach().clone().contiguous().requires_grad_(False)),
    "reshaped": lambda x, w: x @ w.reshape(5, 2, 4).flatten(1).view(5, 8).view_as(w).T,
    "row": lambda x, w: w[2] * x[0],
    "rows by slice": lambda x, w: F.linear(x, w[1:4]),
    "rows and columns by slice": lambda x, w: F.linear(x[:, 2:], w[::2, 2:]),
    "row and columns": lambda x, w: w[2, :4] + x[0, 0],
    "rows and column": lambda x, w: w[1:, 2] + x[0, 0],
    "cell": lambda x, w: w[1, -1] + x[0, 0],
    "rows by tensor": lambda x, w: w[torch.tensor([[0, -1], [2, 2]])] + x[0],
    "rows by tensor, all columns": lambda x, w: w[torch.tensor([0, 2]), :] + x[0],
    "rows by a lifted tensor": lambda x, w: w[x[0].argmax() % 5] + x[0],
    "whole": lambda x, w: F.linear(x, w[...][:]),
    "index_select": lambda x, w: torch.index_select(w, 0, torch.tensor([1, 1])) + x[0],
    "embedding": lambda x, w: F.embedding(torch.tensor([[0, 1], [4, 4]]), w, padding_idx=0) + x[0],
    "torch.embedding": lambda x, w: torch.embedding(w, torch.tensor([3])) + x[0],
    "chunk": lambda x, w: torch.cat([F.linear(x, part) for part in w.chunk(2)], -1),
    "chunk columns": lambda x, w: sum(x[:, i * 4 : i * 4 + 4] @ part.T for i, part in enumerate(torch.chunk(w, 2, 1))),
    "split": lambda x, w: torch.cat([F.linear(x, part) for part in w.split([1, 4])], -1),
    "einsum": lambda x, w: torch.einsum("bi,oi->bo", x, w),
    "einsum from the left": lambda x, w: torch.einsum("oi, bi -> ob", w, x),
    "einsum implicit": lambda x, w: torch.einsum("...i,oi", x, w),
    "einsum in a list": lambda x, w: torch.einsum("bi,oi->bo", [x, w]),
    "einsum summed out": lambda x, w: torch.einsum("bi,oi->i", x, w),
    "einsum of three": lambda x, w: torch.einsum("bi,oi,ci->boc", x, w, x),
}  # fmt: skip


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("program", MATRIX.values(), ids=MATRIX.keys())
def test_rules_for_matrices_agree_with_dense_weights_and_materialise_nothing(program: Program, rank: int) -> None:
    assert compare(program, (5, 8), (3, 8), rank) == ()


CONVOLUTIONS: dict[str, tuple[Program, tuple[int, ...], tuple[int, ...]]] = {
    "1d": (lambda x, w: F.conv1d(x, w, padding=1), (4, 3, 3), (2, 3, 9)),
    "1d unbatched": (F.conv1d, (4, 3, 3), (3, 9)),
    "1d kernel 1": (lambda x, w: F.conv1d(x, w, x[0, 0, :4]), (4, 3, 1), (2, 3, 9)),
    "2d grouped": (lambda x, w: F.conv2d(x, w, stride=2, padding="valid", groups=2), (6, 2, 3, 3), (2, 4, 7, 7)),
    "2d depthwise": (lambda x, w: F.conv2d(x, weight=w, groups=4), (8, 1, 3, 3), (1, 4, 5, 5)),
    "2d same": (lambda x, w: F.conv2d(x, w, padding="same", dilation=2), (4, 2, 3, 3), (1, 2, 6, 6)),
    "3d": (lambda x, w: F.conv3d(x, w, dilation=2), (3, 2, 2, 2, 2), (2, 2, 4, 4, 4)),
    "heads by einsum": (lambda x, w: torch.einsum("bhi,hio->bho", x, w), (2, 8, 5), (3, 2, 8)),
    "rows of blocks": (lambda x, w: w[1] + w[torch.tensor([0, 2])] + w[1:2].squeeze(0) * x, (3, 2, 2), ()),
    "as a matrix": (lambda x, w: F.linear(x, w.flatten(1)) + F.linear(x, w.reshape(4, -1)), (4, 2, 3), (6,)),
}


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_rules_for_weights_of_more_axes_agree_with_dense_weights(name: str, rank: int) -> None:
    program, weight_shape, x_shape = CONVOLUTIONS[name]
    materialised = compare(program, weight_shape, x_shape, rank)
    assert materialised == (("torch.Tensor.squeeze",) if name == "rows of blocks" else ())


UNKNOWN: dict[str, tuple[Program, str]] = {
    "square": (lambda x, w: x @ w.square().T, "torch.Tensor.square"),
    "tensor factor": (lambda x, w: x @ (w * x.sum()).T, "torch.Tensor.mul"),
    "sum of two": (lambda x, w: x @ (w + x[:1]).T, "torch.Tensor.add"),
    "gram": (lambda x, w: (w @ w.T) * x.sum(), "torch.Tensor.matmul"),
    "boolean factor": (lambda x, w: x @ (w * True).T, "torch.Tensor.mul"),
    "diagonal": (lambda x, w: torch.einsum("ii->i", w[:, :5]) * x.sum(), "torch.functional.einsum"),
    "other axes": (lambda x, w: w[None, :, 0] * x.sum(), "torch.Tensor.__getitem__"),
    "integer": (lambda x, w: w.long() + x.sum(), "torch.Tensor.long"),
    "columns split off": (lambda x, w: w.view(2, 20) * x.sum(), "torch.Tensor.view"),
    "unflattened rows": (lambda x, w: w.unflatten(0, (1, 5)) * x.sum(), "torch.Tensor.unflatten"),
    "masked": (lambda x, w: torch.where(w > 0, w, 0.0) * x.sum(), "torch.Tensor.gt"),
    "outer product": (lambda x, w: torch.kron(w, x), "torch.kron"),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_has_no_rule_is_materialised_correctly_and_reported(name: str) -> None:
    program, operation = UNKNOWN[name]
    assert operation in compare(program, (5, 8), (3, 8), 2)


def test_weights_stay_factored_as_long_as_rules_allow() -> None:
    weight = FactoredTensor(randn(5, 8), randn(5, 1), randn(8, 1), 0.1, "w")
    for derived in (
        *(weight.T, -weight, 2 * weight, weight / 4, weight[1:], weight[:, 2:], weight.reshape(5, 2, 4)),
        *(
            weight.float(),
            weight.clone(),
            weight.detach(),
            weight.to(torch.float32),
            *weight.split(2),
            *weight.chunk(2),
        ),
    ):
        assert isinstance(derived, FactoredTensor)
        assert derived.factors.label == "w"


def test_another_tensor_subclass_keeps_its_say() -> None:
    class Tagged(Tensor):
        pass

    weight = FactoredTensor(randn(5, 8), randn(5, 1), randn(8, 1), 0.1)
    x = randn(3, 8).as_subclass(Tagged)
    with collect_materialisations() as report:
        out = F.linear(x, weight)
    assert type(out) is Tagged
    assert report.operations == ("torch.nn.functional.linear",)
    torch.testing.assert_close(out.as_subclass(Tensor), F.linear(randn(3, 8), weight.dense()))
