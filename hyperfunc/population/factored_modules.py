"""Composite functions of torch that take weights: run as written, so that the products inside meet the factored weight.

torch offers such a function to a tensor subclass as a whole, before its body runs. Materialising there would make
every weight of a transformer dense. The body is ordinary Python made of operations that have factored forms, so it is
run with that offer switched off. Recurrent cells are one fused kernel each in torch; here they are their equations.

It does not know which weights are factored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["COMPOSITES"]


def _run_as_written(function: Any) -> Callable[..., Any]:
    """``function`` with its own ``has_torch_function`` check answering no; what it calls still checks."""
    body = FunctionType(
        function.__code__,
        {**function.__globals__, "has_torch_function": lambda _: False, "scaled_dot_product_attention": attention},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    body.__kwdefaults__ = function.__kwdefaults__
    return body


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False
) -> Tensor:
    """``F.scaled_dot_product_attention``; under a transform in steps, because its CPU kernel has no batching rule.

    torch would fall back to one call per member, with a warning. ``query [..., L, E]``, ``key [..., S, E]``.
    """
    if not torch._C._are_functorch_transforms_active():
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal)
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return F.dropout(torch.softmax(scores, -1), dropout_p, training=dropout_p > 0) @ value


def gru_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Tensor:
    """``torch.gru_cell``: ``n = tanh(i_n + r · h_n)``, ``h' = n + z · (h − n)``."""
    input_reset, input_update, input_new = F.linear(input, w_ih, b_ih).chunk(3, -1)
    hidden_reset, hidden_update, hidden_new = F.linear(hx, w_hh, b_hh).chunk(3, -1)
    reset = torch.sigmoid(input_reset + hidden_reset)
    update = torch.sigmoid(input_update + hidden_update)
    new = torch.tanh(input_new + reset * hidden_new)
    return new + update * (hx - new)


def lstm_cell(
    input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None
) -> tuple[Tensor, Tensor]:
    """``torch.lstm_cell``: ``c' = f · c + i · g``, ``h' = o · tanh(c')``."""
    hidden, cell = hx
    gates = F.linear(input, w_ih, b_ih) + F.linear(hidden, w_hh, b_hh)
    remember_new, forget, new, output = gates.chunk(4, -1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(remember_new) * torch.tanh(new)
    return torch.sigmoid(output) * torch.tanh(cell), cell


def _simple_cell(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Tensor:
        return activation(F.linear(input, w_ih, b_ih) + F.linear(hx, w_hh, b_hh))

    return cell


COMPOSITES: Mapping[Any, Callable[..., Any]] = MappingProxyType(
    {
        F.multi_head_attention_forward: _run_as_written(F.multi_head_attention_forward),
        torch.gru_cell: gru_cell,
        torch.lstm_cell: lstm_cell,
        torch.rnn_tanh_cell: _simple_cell(torch.tanh),
        torch.rnn_relu_cell: _simple_cell(torch.relu),
    }
)
