"""The factored linear map ``x @ (base + scale · left @ rightᵀ)ᵀ + bias`` at close to the price of ``x @ baseᵀ``.

All members share ``base``, so a block needs one matrix product over all rows of all members. What differs per member
is rank r and costs ``O(r)`` per element. The order matters on a CPU, where the product is bound by arithmetic and
the rest by memory: the output is *begun* as ``bias + scale · (x @ right) @ leftᵀ``, one write, and the shared product
is then accumulated onto it in place (``addmm_`` with β = 1, which costs the same as β = 0). Adding the perturbation
afterwards would read and write the output once more. It also rounds better: in bfloat16 the perturbation is rounded
relative to itself, not to the weight, and the product accumulates in float32 onto it.

Under ``torch.vmap`` the built-in rules would batch each of these steps on its own, with copies of ``x`` and no in-place
accumulation. So the transforms are unwrapped here by hand, innermost first: an axis that only ``x`` has is one more
axis of rows; an axis that the factors have is the members' axis. Anything else (a batched base, two members' axes,
autograd transforms, autocast) takes the same formula written in plain operations, which every transform understands.

Tried on two cores at 512 and 2048 rows of width 512, and not kept: adding the perturbation afterwards in place
(``addcmul_``), and running either form over chunks of 256 to 1024 rows that fit the second-level cache. All are within
the noise of this one, at 93 to 100 % of the bare product. Left to vmap's own rules, the plain formula reaches 50 to
75 %. A ``torch.autograd.Function`` with a vmap rule adds 115 µs per call and level, a ``torch.library.custom_op`` 50,
this 15.

It does not know `FactoredTensor`, nor which torch function was called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _functorch as _typed_functorch

__all__ = ["factored_linear"]

# torch's stubs for these say less than they do (an unbatched tensor has no axis, an empty stack no transform).
_functorch: Any = _typed_functorch


def factored_linear(
    x: Tensor, base: Tensor, left: Tensor, right: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """``F.linear(x, base + scale · left @ rightᵀ, bias)`` without building the weight.

    Args:
        x: ``[..., columns]``.
        base: ``[rows, columns]``, of any strides.
        left: ``[rows, r]``.
        right: ``[columns, r]``.
        scale: the perturbation's size (σ, with 1/√r where the strategy wants it).
        bias: ``[rows]`` or None.

    Returns:
        ``[..., rows]``. Each argument may be batched by ``torch.vmap``, at any depth.

    Raises:
        RuntimeError: shapes or dtypes do not fit, with torch's own words for ``F.linear``.
    """
    # Modes are off as well: what a caller's TorchFunctionMode wants to see is the call of F.linear, which it saw.
    with torch._C.DisableTorchFunction():
        fits = x.ndim > 0 and x.shape[-1] == base.shape[1] and x.dtype == base.dtype
        ordinary_bias = bias is None or (bias.shape == base.shape[:1] and bias.dtype == base.dtype)
        if not (fits and ordinary_bias) or torch.is_autocast_enabled(x.device.type):
            # F.linear says best what does not fit; autocast wants to choose the dtype of each step itself.
            return torch.add(F.linear(x, base, bias), (x @ right) @ left.mT, alpha=scale)
        return _Call(x, base, left, right, scale, bias).run()


@dataclass(slots=True)  # not frozen: three times faster to make, and one is made per level of every call
class _Call:
    """One call at one level of the transform stack. A members' axis, where flagged, is axis 0."""

    x: Tensor  # [(members,) ..., columns]
    base: Tensor  # [rows, columns]
    left: Tensor  # [(members,) rows, r]
    right: Tensor  # [(members,) columns, r]
    scale: float
    bias: Tensor | None  # [(members,) rows]
    members: int | None = None  # length of the members' axis of left and right, where they have one
    x_has_members: bool = False
    bias_has_members: bool = False

    def run(self) -> Tensor:
        """Peel one transform off and go on below it; the result is at this level again."""
        transform = _functorch.peek_interpreter_stack()
        if transform is None:
            return self._fused()
        if transform.key() != _functorch.TransformType.Vmap:
            return self._plain()
        level = transform.level()
        x, x_axis = _functorch._unwrap_batched(self.x, level)
        base, base_axis = _functorch._unwrap_batched(self.base, level)
        left, left_axis = _functorch._unwrap_batched(self.left, level)
        right, right_axis = _functorch._unwrap_batched(self.right, level)
        bias, bias_axis = self.bias, None
        if bias is not None:
            bias, bias_axis = _functorch._unwrap_batched(bias, level)
        factors_batched = left_axis is not None or right_axis is not None

        if (
            base_axis is not None
            or (factors_batched and self.members is not None)
            or (bias_axis is not None and not factors_batched)
        ):
            return self._plain()
        if not factors_batched:
            axis = 1 if self.x_has_members else 0
            lowered = _Call(
                x if x_axis is None else _moved(x, x_axis, axis),
                *(base, left, right, self.scale, bias, self.members, self.x_has_members, self.bias_has_members),
            )
            out_axis = None if x_axis is None else int(self.members is not None)
        else:
            members = left.shape[left_axis] if left_axis is not None else right.shape[right_axis]
            lowered = _Call(
                x=x if x_axis is None else _moved(x, x_axis, 0),
                base=base,
                left=left.expand(members, *left.shape) if left_axis is None else _moved(left, left_axis, 0),
                right=right.expand(members, *right.shape) if right_axis is None else _moved(right, right_axis, 0),
                scale=self.scale,
                bias=bias if bias is None or bias_axis is None else _moved(bias, bias_axis, 0),
                members=members,
                x_has_members=x_axis is not None,
                bias_has_members=bias_axis is not None,
            )
            out_axis = 0
        layer = _functorch.pop_dynamic_layer_stack()
        try:
            out = lowered.run()
        finally:
            _functorch.push_dynamic_layer_stack(layer)
        return out if out_axis is None else _functorch._add_batch_dim(out, out_axis, level)

    def _fused(self) -> Tensor:
        """Below every transform: physical tensors, one shared product, accumulated in place."""
        rows, columns = self.base.shape
        if self.members is None:
            x = self.x.reshape(-1, columns)
            out = _begin(x @ self.right, self.left, self.scale, self.bias)
            return out.addmm_(x, self.base.mT).view(*self.x.shape[:-1], rows)
        bias = self.bias.unsqueeze(1) if self.bias is not None and self.bias_has_members else self.bias
        if not self.x_has_members:
            # The same rows for every member: the shared product is done once, not once per member.
            x = self.x.reshape(-1, columns)
            shared = F.linear(x, self.base, None if self.bias_has_members else self.bias)
            projected = (x @ self.right.movedim(0, 1).reshape(columns, -1)).view(x.shape[0], self.members, -1)
            # Contiguous, because an elementwise result is laid out like its inputs and the next layer would copy it.
            projected = projected.movedim(1, 0).contiguous()
            out = _begin(projected, self.left, self.scale, bias if self.bias_has_members else shared)
            if self.bias_has_members:
                out += shared
            return out.view(self.members, *self.x.shape[:-1], rows)
        x = self.x.reshape(self.members, -1, columns)
        if rows == 1 and self.base.dtype in (torch.float32, torch.float64):
            # A single output: the dense weight is no larger than the factors, and x is read once instead of twice.
            weight = torch.baddbmm(self.base, self.left, self.right.mT, alpha=self.scale)
            single = torch.bmm(weight, x.mT) if bias is None else torch.baddbmm(bias, weight, x.mT)
            return single.view(self.members, *self.x.shape[1:-1], 1)
        # rightᵀ @ xᵀ, because x @ right with a thin right is four times slower in MKL's batched product.
        projected = torch.bmm(self.right.mT, x.mT).mT
        out = _begin(projected, self.left, self.scale, bias)
        out.view(-1, rows).addmm_(x.reshape(-1, columns), self.base.mT)
        return out.view(self.members, *self.x.shape[1:-1], rows)

    def _plain(self) -> Tensor:
        """The same value in plain, out-of-place operations, for transforms that want to see them."""
        if self.members is None:
            out = F.linear(self.x, self.base, self.bias)
            return torch.add(out, (self.x @ self.right) @ self.left.mT, alpha=self.scale)
        lead = self.x.shape[1:-1] if self.x_has_members else self.x.shape[:-1]
        x = self.x.reshape(self.members if self.x_has_members else 1, lead.numel(), self.x.shape[-1])
        bias = self.bias.unsqueeze(1) if self.bias is not None and self.bias_has_members else self.bias
        out = F.linear(x, self.base) if bias is None else F.linear(x, self.base) + bias
        out = torch.add(out, (x @ self.right) @ self.left.mT, alpha=self.scale)
        return out.reshape(self.members, *lead, self.base.shape[0])


def _moved(tensor: Tensor, axis: int, to: int) -> Tensor:
    return tensor if axis == to else tensor.movedim(axis, to)


def _begin(projected: Tensor, left: Tensor, scale: float, start: Tensor | None) -> Tensor:
    """``start + scale · projected @ leftᵀ`` in a fresh tensor, written once.

    ``projected`` is ``[(members,) n, r]``, ``left`` ``[(members,) rows, r]``; ``start`` broadcasts against the result.
    """
    if left.shape[-1] == 1:
        # A broadcast product streams the output; a matrix product with inner length 1 is six times slower.
        if start is None:
            return torch.mul(projected * scale, left.mT)
        return torch.addcmul(start, projected, left.mT, value=scale)
    if start is None:
        return (projected * scale) @ left.mT
    if left.ndim == 2:
        return torch.addmm(start, projected, left.mT, alpha=scale)
    return torch.baddbmm(start, projected, left.mT, alpha=scale)
