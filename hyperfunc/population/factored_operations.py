"""The operations that a factored weight has a factored form for: a table from torch function to rule.

A rule receives the call's arguments with every factored tensor replaced by its `Factors`, and returns plain tensors,
`Factors` (still factored) or ``NotImplemented``: "this call needs the dense weight". A rule never guesses; whatever
it does not fully understand it hands back. Rules for convolution and einsum are in ``factored_contractions``.

It does not know `FactoredTensor`: wrapping, materialising and refusing are its business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfunc.errors import FactoredOperationError
from hyperfunc.population.factored_contractions import CONTRACTIONS
from hyperfunc.population.factored_linear import factored_linear
from hyperfunc.population.factored_values import Factors

__all__ = ["METADATA", "RULES", "Rule"]

Rule = Callable[..., Any]
"""Called with the torch function first, then that function's own arguments."""


def linear(_: Any, input: Any, weight: Any, bias: Any = None) -> Any:
    """``F.linear``; the names are torch's, so that keywords bind as they do there."""
    if isinstance(bias, Factors):
        return NotImplemented
    if isinstance(input, Factors):
        if isinstance(weight, Factors) or not input.is_matrix or weight.ndim != 2:
            return NotImplemented
        out = factored_linear(weight, input.base, input.left, input.right, input.scale).mT
        return out if bias is None else out + bias
    return _linear(input, weight, bias) if weight.is_matrix else NotImplemented


def _linear(x: Tensor, weight: Factors, bias: Tensor | None = None) -> Tensor:
    return factored_linear(x, weight.base, weight.left, weight.right, weight.scale, bias)


def matmul(_: Any, input: Any, other: Any) -> Any:
    """``input @ other`` with one of the two factored."""
    if isinstance(input, Factors):
        if isinstance(other, Factors) or not input.is_matrix or other.ndim == 0:
            return NotImplemented
        return _linear(other, input) if other.ndim == 1 else _linear(other.mT, input).mT
    return _linear(input, other.transposed()) if other.is_matrix and input.ndim else NotImplemented


def reflected_matmul(_: Any, self: Any, other: Any) -> Any:
    """``Tensor.__rmatmul__(self, other)`` is ``other @ self``."""
    return matmul(_, other, self)


def matrix_product(_: Any, input: Any, mat2: Any) -> Any:
    """``torch.mm``: `matmul` of two matrices and of nothing else."""
    return matmul(_, input, mat2) if _axes(input) == 2 == _axes(mat2) else NotImplemented


def matrix_vector_product(_: Any, input: Any, vec: Any) -> Any:
    return matmul(_, input, vec) if _axes(input) == 2 and _axes(vec) == 1 else NotImplemented


def inner(_: Any, input: Any, other: Any) -> Any:
    """``torch.inner`` contracts both last axes, as a linear map does."""
    if isinstance(input, Factors) and not isinstance(other, Factors):
        return _linear(other, input).movedim(-1, 0) if input.is_matrix and other.ndim in (1, 2) else NotImplemented
    return linear(_, input, other) if not isinstance(input, Factors) and _axes(input) else NotImplemented


def added_matrix_product(_: Any, input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """``torch.addmm``: ``beta · input + alpha · mat1 @ mat2``."""
    product = NotImplemented if isinstance(input, Factors) else matrix_product(_, mat1, mat2)
    return product if product is NotImplemented else torch.add(input * beta, product, alpha=alpha)


def added_matrix_vector_product(_: Any, input: Any, mat: Any, vec: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    product = NotImplemented if isinstance(input, Factors) else matrix_vector_product(_, mat, vec)
    return product if product is NotImplemented else torch.add(input * beta, product, alpha=alpha)


def _axes(value: Any) -> int:
    return value.base.ndim if isinstance(value, Factors) else value.ndim


def transpose_always(_: Any, self: Any) -> Any:
    """``.T``, ``.mT``, ``.H``, ``.t()``: of a matrix, and real, so all the same."""
    return self.transposed() if self.is_matrix else NotImplemented


def transpose(_: Any, input: Any, dim0: Any, dim1: Any) -> Any:
    if not (input.is_matrix and dim0 in (0, 1, -1, -2) and dim1 in (0, 1, -1, -2)):
        return NotImplemented
    return input.transposed() if (dim0 - dim1) % 2 else input


def swapaxes(_: Any, input: Any, axis0: Any, axis1: Any) -> Any:
    return transpose(_, input, axis0, axis1)


def permute(_: Any, input: Any, *dims: Any) -> Any:
    order = dims[0] if len(dims) == 1 else dims
    if not (input.is_matrix and len(order) == 2 and {axis % 2 for axis in order} == {0, 1}):
        return NotImplemented
    return input if order[0] % 2 == 0 else input.transposed()


def reshape(function: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    """Any reshaping that leaves the rows alone; the columns keep their order, whatever axes they are cut into."""
    if not isinstance(self, Factors) or any(isinstance(a, torch.dtype) for a in (*args, *kwargs.values())):
        return NotImplemented  # plain.view_as(w), or view(dtype), which reinterprets bits
    like = (argument.base if isinstance(argument, Factors) else argument for argument in args)
    base = function(self.base, *like, **kwargs)
    return self.with_base(base) if base.ndim >= 2 and base.shape[0] == self.base.shape[0] else NotImplemented


def multiply(_: Any, input: Any, other: Any) -> Any:
    """``w · number`` from either side; a tensor may differ by member and would make the base do so."""
    factors, factor = (input, other) if isinstance(input, Factors) else (other, input)
    return factors.scaled(factor) if type(factor) in (int, float) else NotImplemented


def divide(function: Any, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if not isinstance(input, Factors) or type(other) not in (int, float) or rounding_mode or not other:
        return NotImplemented
    return input.scaled(1 / other)


def negative(_: Any, input: Any) -> Any:
    return input.scaled(-1)


def unchanged(_: Any, input: Any, *_args: Any, **_kwargs: Any) -> Any:
    """``clone``, ``contiguous``, ``+w``: a factored value is immutable, so a copy of it is itself."""
    return input


def detach(_: Any, input: Any) -> Any:
    return input.detached()


def needs_grad(_: Any, self: Any) -> bool:
    """``.requires_grad`` is the parts' business: gradients flow through them, and the wrapper has no history."""
    return bool(self.requires_grad)


def require_grad(_: Any, self: Any, requires_grad: bool = True) -> Any:
    if requires_grad != self.requires_grad:
        raise FactoredOperationError(
            f"requires_grad_({requires_grad}) on a perturbed weight{f' ({self.label})' if self.label else ''}: "
            "it is a value of one population member, not a leaf; set it on the base parameter instead"
        )
    return self


def convert(function: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    """``.to``, ``.double``, ``.cpu``, …: whatever it does to the base, it does to the factors."""
    if any(isinstance(argument, Factors) for argument in (*args, *kwargs.values())):
        return NotImplemented
    base = function(self.base, *args, **kwargs)
    if not isinstance(base, Tensor):
        return base  # type() without arguments answers with a name
    if not base.is_floating_point():
        return NotImplemented
    left, right = (part.to(device=base.device, dtype=base.dtype) for part in (self.left, self.right))
    return Factors(base, left, right, self.scale, self.label)


def embedding(
    _: Any,
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """``F.embedding``: look rows up; the options but ``max_norm`` concern gradients only."""
    if isinstance(input, Factors):
        return NotImplemented
    if max_norm is not None:
        raise FactoredOperationError(
            "F.embedding(max_norm=…) renormalises the weight in place, and a perturbed weight may not be written; "
            "normalise the looked-up rows instead"
        )
    return weight.looked_up(input)


def embedding_of_weight(_: Any, weight: Any, indices: Any, *_args: Any, **_kwargs: Any) -> Any:
    """``torch.embedding``, which takes the weight first."""
    return weight.looked_up(indices) if isinstance(weight, Factors) else NotImplemented


def index_select(_: Any, input: Any, dim: Any, index: Any) -> Any:
    if not isinstance(input, Factors) or dim not in (0, -input.base.ndim) or index.ndim != 1:
        return NotImplemented
    return input.looked_up(index)


def get_item(_: Any, self: Any, index: Any) -> Any:
    """``w[rows]`` and ``w[rows, columns]`` with integers, slices and integer tensors for rows."""
    if not isinstance(self, Factors):
        return NotImplemented
    if index is Ellipsis:
        return self
    rows, columns = index if isinstance(index, tuple) and len(index) == 2 else (index, slice(None))
    if isinstance(rows, slice) and isinstance(columns, slice):
        return self.sliced(rows, columns) if columns == slice(None) or self.is_matrix else NotImplemented
    if columns == slice(None) if isinstance(columns, slice) else False:
        integers = isinstance(rows, Tensor) and rows.dtype in (torch.int64, torch.int32)
        return self.looked_up(rows) if type(rows) is int or integers else NotImplemented
    if not self.is_matrix:
        return NotImplemented
    if type(rows) is int and isinstance(columns, slice):
        return self.sliced(slice(None), columns).looked_up(rows)
    if type(columns) is int and isinstance(rows, slice):
        return self.sliced(rows).transposed().looked_up(columns)
    if type(rows) is int and type(columns) is int:
        return self.transposed().looked_up(columns)[rows]
    return NotImplemented


def split(_: Any, tensor: Any, split_size_or_sections: Any, dim: int = 0) -> Any:
    """``split`` along rows, or along the columns of a matrix; also ``chunk``, by way of it."""
    axis = dim + tensor.base.ndim if dim < 0 else dim
    if axis != 0 and not (axis == 1 and tensor.is_matrix):
        return NotImplemented
    starts, pieces = 0, []
    for part in tensor.base.split(split_size_or_sections, dim=axis):
        taken = slice(starts, starts + part.shape[axis])
        pieces.append(tensor.sliced(taken) if axis == 0 else tensor.sliced(slice(None), taken))
        starts = taken.stop
    return tuple(pieces)


def split_method(_: Any, self: Any, split_size: Any, dim: int = 0) -> Any:
    return split(_, self, split_size, dim)


def chunk(_: Any, input: Any, chunks: int, dim: int = 0) -> Any:
    axis = dim + input.base.ndim if dim < 0 else dim
    return split(_, input, [part.shape[axis] for part in input.base.chunk(chunks, dim=axis)], axis)


def _table() -> dict[Any, Rule]:
    tensor: Any = torch.Tensor
    rules: list[tuple[Rule, tuple[Any, ...]]] = [
        (linear, (F.linear,)),
        (matmul, (torch.matmul, torch.linalg.matmul, tensor.matmul, tensor.__matmul__)),
        (reflected_matmul, (tensor.__rmatmul__,)),
        (matrix_product, (torch.mm, tensor.mm)),
        (matrix_vector_product, (torch.mv, tensor.mv)),
        (inner, (torch.inner, tensor.inner)),
        (added_matrix_product, (torch.addmm, tensor.addmm)),
        (added_matrix_vector_product, (torch.addmv, tensor.addmv)),
        (
            transpose_always,
            (
                *(tensor.T.__get__, tensor.mT.__get__, tensor.H.__get__, tensor.mH.__get__),
                *(torch.t, tensor.t, torch.adjoint, tensor.adjoint),
            ),
        ),
        (transpose, (torch.transpose, tensor.transpose, torch.swapdims, tensor.swapdims)),
        (swapaxes, (torch.swapaxes, tensor.swapaxes)),
        (permute, (torch.permute, tensor.permute)),
        (
            reshape,
            (
                *(torch.reshape, tensor.reshape, tensor.view, torch.flatten, tensor.flatten),
                *(torch.unflatten, tensor.unflatten, tensor.view_as, tensor.reshape_as),
            ),
        ),
        (multiply, (torch.mul, tensor.mul, torch.multiply, tensor.multiply, tensor.__mul__, tensor.__rmul__)),
        (divide, (torch.div, tensor.div, torch.divide, tensor.divide, torch.true_divide, tensor.__truediv__)),
        (negative, (torch.neg, tensor.neg, torch.negative, tensor.negative, tensor.__neg__)),
        (unchanged, (torch.clone, tensor.clone, tensor.contiguous, torch.positive, tensor.positive, tensor.__pos__)),
        (detach, (torch.detach, tensor.detach)),
        (needs_grad, (tensor.requires_grad.__get__,)),
        (require_grad, (tensor.requires_grad_,)),
        (
            convert,
            (
                *(tensor.to, tensor.type, tensor.type_as, tensor.cpu, tensor.cuda),
                *(tensor.float, tensor.double, tensor.half, tensor.bfloat16),
            ),
        ),
        (embedding, (F.embedding,)),
        (embedding_of_weight, (torch.embedding,)),
        (index_select, (torch.index_select, tensor.index_select)),
        (get_item, (tensor.__getitem__,)),
        (split, (torch.split,)),
        (split_method, (tensor.split,)),
        (chunk, (torch.chunk, tensor.chunk)),
    ]
    return {function: rule for rule, functions in rules for function in functions} | dict(CONTRACTIONS)


def _metadata() -> frozenset[Any]:
    """What is true of the weight without its values; asked of the storage-less wrapper itself."""
    tensor: Any = torch.Tensor
    attributes = (
        "shape dtype device ndim layout itemsize nbytes is_cpu is_cuda is_meta is_sparse is_sparse_csr "
        "is_quantized is_nested is_mkldnn is_mps is_xla is_xpu is_leaf grad grad_fn output_nr"
    )
    methods = (
        "size dim ndimension numel nelement stride element_size is_contiguous is_floating_point is_complex is_signed "
        "is_conj is_neg is_inference get_device __len__ storage_offset"
    )
    functions = (torch.numel, torch.is_floating_point, torch.is_complex, torch.is_conj, torch.is_neg, torch.is_signed)
    getters = (getattr(tensor, name).__get__ for name in attributes.split())
    return frozenset((*getters, *(getattr(tensor, name) for name in methods.split()), *functions))


RULES: Mapping[Any, Rule] = MappingProxyType(_table())
METADATA: frozenset[Any] = _metadata()
