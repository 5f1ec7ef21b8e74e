"""Every way past the overrides that was found: the right value or an error by name, and never the base weight."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperfunc.errors import FactoredOperationError, ParameterTypeError, ShapeError
from hyperfunc.population.factored import FactoredTensor

ROWS, COLUMNS = 4, 6


@pytest.fixture
def weight() -> FactoredTensor:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(ROWS, COLUMNS, generator=generator)
    left, right = torch.randn(ROWS, 1, generator=generator), torch.randn(COLUMNS, 1, generator=generator)
    return FactoredTensor(base, left, right, 0.5, "head.weight")


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, COLUMNS, generator=torch.Generator().manual_seed(1))


def through_torch_save(weight: Tensor) -> Tensor:
    buffer = io.BytesIO()
    torch.save(weight, buffer)
    buffer.seek(0)
    loaded: Tensor = torch.load(buffer, weights_only=True)
    return loaded


VALUES: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda w: torch.from_numpy(w.numpy()),
    "asarray": lambda w: torch.from_numpy(np.asarray(w).copy()),
    "tolist": lambda w: torch.tensor(w.tolist()),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda w: pickle.loads(pickle.dumps(w)),
    "torch.save": through_torch_save,
    "stack": lambda w: torch.stack([w, w])[1],
    "cat": lambda w: torch.cat([w])[:],
    "iteration": lambda w: torch.stack(list(w)),
    "as_tensor": torch.as_tensor,
    "copy_ from it": lambda w: torch.zeros(ROWS, COLUMNS).copy_(w),
    "add_ of it": lambda w: torch.zeros(ROWS, COLUMNS).add_(w),
    "dlpack": torch.from_dlpack,
    "aten": lambda w: torch.ops.aten.add.Tensor(w, 0),
    "item": lambda w: torch.tensor([[cell.item() for cell in row] for row in w]),
    "parameter": lambda w: nn.Parameter(w, requires_grad=False),
    "swapped aside": lambda w: w.detach().clone().contiguous(),
}


@pytest.mark.parametrize("read", VALUES.values(), ids=VALUES.keys())
def test_every_way_to_read_the_weight_gives_the_perturbed_value(
    read: Callable[[Any], Any], weight: FactoredTensor
) -> None:
    read_value = read(weight)
    dense = read_value.dense() if isinstance(read_value, FactoredTensor) else read_value
    torch.testing.assert_close(dense, weight.dense())
    assert not torch.allclose(dense, weight.factors.base)


def set_data(weight: Any) -> None:
    weight.data = torch.zeros(ROWS, COLUMNS)


def set_row(weight: Any) -> None:
    weight[0] = 0


def set_requires_grad(weight: Any) -> None:
    weight.requires_grad = True


def augmented(weight: Any) -> None:
    weight += 1


def multiplied(weight: Any) -> None:
    weight *= 2


REFUSED: dict[str, Callable[[Any], Any]] = {
    "torch.tensor": torch.tensor,
    "new_tensor": lambda w: torch.zeros(1).new_tensor(w),
    "as_subclass": lambda w: w.as_subclass(Tensor),
    "vmap over rows": lambda w: torch.vmap(lambda row: row * 2)(w),
    "vmap over rows, reduced": lambda w: torch.vmap(lambda row: row.sum())(w),
    "grad with respect to it": torch.func.grad(lambda w: (w @ torch.ones(COLUMNS)).sum()),
    "grad of its sum": torch.func.grad(lambda w: w.sum()),
    "mul_": lambda w: w.mul_(2),
    "+=": augmented,
    "*=": multiplied,
    "setitem": set_row,
    ".data": lambda w: w.data,
    ".data =": set_data,
    "requires_grad =": set_requires_grad,
    "requires_grad_": lambda w: w.requires_grad_(),
    "Parameter": nn.Parameter,
    "out=": lambda w: torch.mul(torch.ones(ROWS, COLUMNS), 2, out=w),
    "out= of a known operation": lambda w: torch.matmul(torch.ones(ROWS, 2), torch.ones(2, COLUMNS), out=w),
    "init": nn.init.zeros_,
    "relu inplace keyword": lambda w: F.relu(w, inplace=True),
    "relu inplace positional": lambda w: F.relu(w, True),
    "relu_": torch.relu_,
    "foreach": lambda w: torch._foreach_mul_([w], 2.0),
    "clip_grad style": lambda w: torch._foreach_add_([w], [torch.ones(ROWS, COLUMNS)]),
    "set_": lambda w: w.set_(torch.zeros(2)),
    "untyped_storage": lambda w: w.untyped_storage(),
    "data_ptr": lambda w: w.data_ptr(),
    "share_memory_": lambda w: w.share_memory_(),
    "register_hook": lambda w: w.register_hook(print),
    "max_norm": lambda w: F.embedding(torch.tensor([0]), w, max_norm=1.0),
}


@pytest.mark.parametrize("write", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.filterwarnings("ignore:To copy construct:UserWarning")
def test_writing_and_slipping_past_the_overrides_is_refused_by_name(
    write: Callable[[Any], Any], weight: FactoredTensor
) -> None:
    before = weight.dense()
    with pytest.raises(FactoredOperationError, match=r"torch|aten|F\.embedding|requires_grad_"):
        write(weight)
    assert torch.equal(weight.dense(), before)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_code_cannot_run_on_the_base_weight(weight: FactoredTensor, x: Tensor) -> None:
    def product(x: Tensor, w: Tensor) -> Tensor:
        return torch.matmul(x, w.t())

    scripted = torch.jit.script(product)
    with pytest.raises(RuntimeError, match="failed in the TorchScript interpreter"):
        scripted(x, weight)


def test_errors_name_the_operation_the_parameter_and_the_way_out(weight: FactoredTensor) -> None:
    with pytest.raises(
        FactoredOperationError, match=r"torch\.Tensor\.mul_ would write .*\(head\.weight\).*out-of-place"
    ):
        weight.mul_(2)
    with pytest.raises(
        FactoredOperationError, match=r"aten\.\S+ reached a perturbed weight .*\(head\.weight\).*\.dense\(\)"
    ):
        torch.vmap(torch.sum)(weight)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(lambda w: torch.zeros(ROWS, COLUMNS).copy_(w), id="copy_ into a shared buffer"),
        pytest.param(lambda w: torch.zeros(ROWS, COLUMNS).add_(w), id="add_ to a shared buffer"),
        pytest.param(lambda w: torch.tensor(w.tolist()), id="tolist"),
        pytest.param(lambda w: torch.from_numpy(w.numpy()), id="numpy"),
        pytest.param(lambda w: w.mean().item(), id="item"),
        pytest.param(lambda w: bool(w.sum() > 0), id="bool"),
        pytest.param(lambda w: w.data, id="data"),
        pytest.param(lambda w: pickle.dumps(w), id="pickle"),
        pytest.param(
            lambda w: torch.gru(
                torch.zeros(2, 1, 1), torch.zeros(1, 1, 2), [w[:, :1]], False, 1, 0.0, False, False, False
            ),
            id="gru",
        ),
    ],
)
def test_what_vmap_refuses_surfaces_as_an_error(refused: Callable[[Any], Any], weight: FactoredTensor) -> None:
    lefts = torch.stack([weight.factors.left, -weight.factors.left])

    def member(left: Tensor) -> Any:
        return refused(FactoredTensor(weight.factors.base, left, weight.factors.right, 0.5))

    with pytest.raises((FactoredOperationError, RuntimeError, NotImplementedError, ValueError)):
        torch.vmap(member)(lefts)


def test_what_is_true_without_values_is_answered_without_values(weight: FactoredTensor) -> None:
    plain = weight.dense()
    for read in (
        lambda w: (
            w.shape,
            w.size(),
            w.size(-1),
            w.dtype,
            w.device,
            w.ndim,
            w.dim(),
            w.numel(),
            torch.numel(w),
            len(w),
        ),
        lambda w: (w.stride(), w.is_contiguous(), w.layout, w.nbytes, w.itemsize, w.element_size(), w.type()),
        lambda w: (w.is_floating_point(), torch.is_complex(w), w.is_sparse, w.is_cuda, w.get_device(), w.is_leaf),
        lambda w: (w.requires_grad, w.grad, w.grad_fn, isinstance(w, Tensor), isinstance(w, nn.Parameter)),
    ):
        assert read(weight) == read(plain)
    assert repr(weight) == "FactoredTensor(shape=(4, 6), rank=1, scale=0.5, label='head.weight')"


def test_factors_that_do_not_fit_are_refused_with_the_shapes() -> None:
    with pytest.raises(ShapeError, match=r"expected factors \[4, r\] and \[6, r\].*'head'.*left \(3, 1\)"):
        FactoredTensor(torch.zeros(4, 6), torch.zeros(3, 1), torch.zeros(6, 1), 1.0, "head")
    with pytest.raises(ShapeError, match="at least two axes"):
        FactoredTensor(torch.zeros(4), torch.zeros(4, 1), torch.zeros(1, 1), 1.0)
    with pytest.raises(ParameterTypeError, match="floating-point"):
        FactoredTensor(torch.zeros(4, 6, dtype=torch.int64), torch.zeros(4, 1), torch.zeros(6, 1), 1.0)


def test_wrong_operands_get_torchs_own_words(weight: FactoredTensor) -> None:
    for operands in (torch.zeros(3, COLUMNS + 1), torch.zeros(3, COLUMNS, dtype=torch.float64)):
        with pytest.raises(RuntimeError) as expected:
            F.linear(operands, weight.dense())
        with pytest.raises(RuntimeError) as got:
            F.linear(operands, weight)
        assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_it_works_in_every_grad_mode(mode: Callable[[], Any], weight: FactoredTensor, x: Tensor) -> None:
    lefts = torch.stack([weight.factors.left, -weight.factors.left])

    def member(left: Tensor) -> Tensor:
        own = FactoredTensor(weight.factors.base, left, weight.factors.right, 0.5)
        return F.linear(x, own) + torch.linalg.matrix_norm(own)

    expected = torch.stack(
        [
            F.linear(x, w) + torch.linalg.matrix_norm(w)
            for w in (weight.dense(), 2 * weight.factors.base - weight.dense())
        ]
    )
    with mode():
        torch.testing.assert_close(torch.vmap(member)(lefts), expected)
        torch.testing.assert_close(member(lefts[0]), expected[0])


def test_one_weight_serves_many_threads(weight: FactoredTensor, x: Tensor) -> None:
    expected, results = F.linear(x, weight.dense()), []

    def use() -> None:
        for _ in range(20):
            results.append(torch.vmap(lambda row: F.linear(row, weight))(x))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 80
    for result in results:
        torch.testing.assert_close(result, expected)


def test_no_warning_leaks_from_the_wrapper(weight: FactoredTensor, x: Tensor) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        F.linear(x, weight)
        torch.linalg.matrix_norm(weight)
    assert not caught
