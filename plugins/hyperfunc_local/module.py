"""A local model as an ``nn.Module``, so that ``@hyperfunction`` makes it a component like any other.

``hyperfunction(evolve=...)(LlamaModule(model))`` gives a component whose weights are θ; a population of it runs under
``torch.vmap`` with factored weights, and the module's own code is the functional model at ``P = 1``. For the highest
speed over whole populations, :meth:`hyperfunc_local.model.LocalModel.generate` takes the members directly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperfunc_local.errors import UnsupportedArchitectureError
from hyperfunc_local.model import LocalModel
from hyperfunc_local.models import llama
from hyperfunc_local.models.attention import eager_attention
from hyperfunc_local.models.cache import AppendingCache
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.models.weights import BoundWeights

__all__ = ["LlamaModule"]


class LlamaModule(nn.Module):
    """The weights as parameters under their own names; shared with the model, not copied, and never trained here.

    Raises:
        UnsupportedArchitectureError: the model is not of the Llama family.
    """

    def __init__(self, model: LocalModel) -> None:
        super().__init__()
        if not isinstance(model.config, LlamaConfig):
            raise UnsupportedArchitectureError("LlamaModule is for models of the Llama family")
        self.config = model.config
        for name, weight in model.weights.items():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_parameter(leaf, nn.Parameter(weight, requires_grad=False))

    def forward(self, ids: Tensor, new_tokens: int = 0) -> Tensor:
        """Logits ``[B, T, vocabulary]`` of ``ids`` ``[B, T]`` (or ``[T]``, then without ``B``); with ``new_tokens``,
        that
        many greedy ids ``[B, new_tokens]`` instead. Nothing depends on values: there is no stopping early."""
        batch = ids if ids.dim() == 2 else ids.unsqueeze(0)
        answer = self._generate(batch, new_tokens) if new_tokens else self._logits(batch)
        return answer if ids.dim() == 2 else answer.squeeze(0)

    def _bound(self) -> BoundWeights:
        return BoundWeights(dict(self.named_parameters()))

    def _logits(self, ids: Tensor) -> Tensor:
        return llama.forward(self.config, self._bound(), ids.unsqueeze(0), attention=eager_attention)[0]

    def _generate(self, ids: Tensor, new_tokens: int) -> Tensor:
        weights = self._bound()
        cache = AppendingCache(self.config.layers)
        chosen: list[Tensor] = []
        step = ids
        for _ in range(new_tokens):
            logits = llama.forward(
                self.config, weights, step.unsqueeze(0), cache=cache, attention=eager_attention, output="last"
            )[0]
            step = logits.argmax(-1)
            chosen.append(step)
        return torch.cat(chosen, 1)
