"""A perturbed weight that any ``nn.Module`` can use as if it were dense: ``base + scale · left @ rightᵀ``.

`FactoredTensor` rewrites the operations it knows (``factored_operations``) without building the weight; an operation it
does not know gets the dense value of that one weight, correctly, and is reported once by name (``factored_report``).
It has no storage at all: whatever reaches past ``__torch_function__`` finds nothing to read and raises, so no path can
use the unperturbed weight in silence. It cannot be written: a member's weight is a value, and an edit of it would be
lost.

Works outside ``torch.vmap`` and at any depth inside it, with factors that carry the members' axis. It does not know
populations, strategies or programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from hyperfunc.errors import FactoredOperationError
from hyperfunc.population.factored_modules import COMPOSITES
from hyperfunc.population.factored_operations import METADATA, RULES
from hyperfunc.population.factored_report import record_materialisation
from hyperfunc.population.factored_values import Factors

__all__ = ["FactoredTensor"]

_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


class FactoredTensor(Tensor):
    """``base + scale · left @ rightᵀ`` as a tensor, never materialised where it can be helped.

    What an operation returns as a plain tensor (a row, a view that has no factored form) is a value of its own: writing
    into it does not write into the weight.

    Args:
        base: ``[rows, *rest]``, floating point, shared by all members; more than two axes (a convolution's weight) are
            seen as the matrix ``[rows, prod(rest)]``.
        left: ``[rows, r]``; under ``torch.vmap`` it carries the members' axis.
        right: ``[prod(rest), r]``, likewise.
        scale: the perturbation's size.
        label: the parameter's name, for messages and reports.

    Raises:
        ShapeError: the factors do not fit the base.
        ParameterTypeError: the base is not a floating-point tensor.
    """

    factors: Factors

    @staticmethod
    def __new__(cls, base: Tensor, left: Tensor, right: Tensor, scale: float, label: str = "") -> FactoredTensor:
        return cls.from_factors(Factors.checked(base, left, right, scale, label))

    def __init__(self, *_: Any, **__: Any) -> None:
        """Everything is done in ``__new__``; tensors are made there."""

    @classmethod
    def from_factors(cls, factors: Factors) -> FactoredTensor:
        base = factors.base
        wrapper: FactoredTensor = Tensor._make_wrapper_subclass(
            cls, base.shape, strides=base.stride(), dtype=base.dtype, device=base.device
        )
        wrapper.factors = factors
        return wrapper

    def dense(self) -> Tensor:
        """The value as a fresh plain tensor."""
        return self.factors.dense()

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if function in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **keywords)
        if "out" not in keywords and all(issubclass(kind, cls) or kind in _PLAIN_TYPES for kind in types):
            composite = COMPOSITES.get(function)
            if composite is not None:
                return composite(*args, **keywords)
            rule = RULES.get(function)
            if rule is not None:
                out = rule(
                    function, *(_factors(a) for a in args), **{name: _factors(a) for name, a in keywords.items()}
                )
                if out is not NotImplemented:
                    return _wrapped(out)
        _refuse_writing(function, args, keywords)
        return _materialised(function, args, keywords)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        raise FactoredOperationError(
            f"{function} reached a perturbed weight past torch's function overrides{_labels(args, kwargs or {})}. The "
            "weight has no storage, so nothing was computed. Call it through ordinary torch functions (not torch.jit, "
            "not vmap or grad over the weight itself), or take the weight's .dense() first"
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        rank, name = self.factors.left.shape[1], f", label={self.factors.label!r}" if self.factors.label else ""
        return f"FactoredTensor(shape={tuple(self.shape)}, rank={rank}, scale={self.factors.scale}{name})"

    def __deepcopy__(self, memo: Any) -> FactoredTensor:
        return self  # immutable, like a number

    def __copy__(self) -> FactoredTensor:
        return self


def _factors(value: Any) -> Any:
    """A FactoredTensor's factors, also inside the lists that cat, stack and einsum take."""
    if isinstance(value, FactoredTensor):
        return value.factors
    if isinstance(value, list | tuple):
        return type(value)(_factors(item) for item in value) if type(value) in (list, tuple) else value
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, Factors):
        return FactoredTensor.from_factors(value)
    if type(value) is tuple:
        return tuple(_wrapped(item) for item in value)
    return value


def _materialised(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call ``function`` on the dense values, and say so."""
    name = operation_name(function)
    copies: dict[int, Tensor] = {}

    def dense(weight: FactoredTensor) -> Tensor:
        if id(weight) not in copies:
            record_materialisation(name, weight.factors.label)
            copies[id(weight)] = weight.dense()
        return copies[id(weight)]

    dense_args, dense_kwargs = tree_map_only(FactoredTensor, dense, (args, kwargs))
    out = function(*dense_args, **dense_kwargs)
    if any(not copy.is_inference() and copy._version for copy in copies.values()):
        raise _write_error(name, args, kwargs)
    return out


_REFUSED = frozenset(
    (
        Tensor.data.__get__,  # type: ignore[attr-defined]
        Tensor.storage,
        Tensor.untyped_storage,
        Tensor._typed_storage,
        Tensor.data_ptr,
        Tensor.pin_memory,
        Tensor.backward,
        Tensor.register_hook,
        Tensor.register_post_accumulate_grad_hook,
        Tensor.retain_grad,
    )
)
"""Handles on storage or on autograd that would belong to a throw-away copy."""

_WRITING_DUNDERS = frozenset(
    (
        *("__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ifloordiv__", "__imod__", "__ipow__"),
        *("__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__", "__imatmul__", "__setitem__"),
        *("__setstate__", "__set__", "__delete__"),
    )
)


def _refuse_writing(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise where the call would write into the weight, or into storage that it does not have."""
    bare_name = getattr(function, "__name__", "")
    written = args[0] if args else kwargs.get("input", kwargs.get("self"))
    in_place = bare_name in _WRITING_DUNDERS or (bare_name.endswith("_") and not bare_name.endswith("__"))
    in_place = in_place or kwargs.get("inplace") is True or function in _REFUSED
    outputs = kwargs.get("out")
    targets = outputs if isinstance(outputs, list | tuple) else (outputs,)
    if (in_place and isinstance(written, FactoredTensor)) or any(isinstance(o, FactoredTensor) for o in targets):
        raise _write_error(operation_name(function), args, kwargs)


def _write_error(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> FactoredOperationError:
    return FactoredOperationError(
        f"{name} would write into (or reach the storage of) a perturbed weight{_labels(args, kwargs)}. It is the "
        "value of one population member and cannot be edited; use the out-of-place operation and its result, or "
        ".detach() instead of .data"
    )


def _labels(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    found: list[str] = []
    tree_map_only(FactoredTensor, lambda weight: found.append(weight.factors.label), (args, dict(kwargs)))
    named = sorted({label for label in found if label})
    return f" ({', '.join(named)})" if named else ""


_BUILTIN_MODULES = {
    "torch._C._nn": "torch.nn.functional.",
    "torch._C._linalg": "torch.linalg.",
    "torch._C._fft": "torch.fft.",
    "torch._C._special": "torch.special.",
}


def operation_name(function: Any) -> str:
    """The name of a torch function as a user would write it: ``torch.Tensor.add``, ``torch.linalg.svd``.

    ``torch.overrides.resolve_name`` knows them too, but takes three seconds to look them all up first.
    """
    name = str(getattr(function, "__name__", "") or type(function).__name__)
    owner: Any = getattr(function, "__self__", None)
    if name in ("__get__", "__set__", "__delete__"):  # a property of Tensor, in C or in Python
        attribute = getattr(owner, "fget", owner).__name__
        return f"torch.Tensor.{attribute}" + ("" if name == "__get__" else f".{name}")
    if getattr(function, "__objclass__", None) is not None or getattr(Tensor, name, None) is function:
        return f"torch.Tensor.{name}"
    module = str(getattr(function, "__module__", None) or "torch")
    if module in _BUILTIN_MODULES:
        return _BUILTIN_MODULES[module] + name.removeprefix("linalg_").removeprefix("fft_").removeprefix("special_")
    if module.startswith("torch._ops"):
        return str(function)
    return f"{module}.{name}"
