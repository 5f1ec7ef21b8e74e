"""What the engine and the scorer need of a model, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from hyperfunc_local.models.cache import KeyValueCache
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.models.llama import forward
from hyperfunc_local.models.weights import BoundWeights

__all__ = ["CausalModel", "Llama", "TextCache", "causal_model"]


class TextCache(Protocol):
    """What a model remembers of the text so far, for each row (see :class:`KeyValueCache`)."""

    length: int
    padding: Tensor | None

    @property
    def bytes(self) -> int: ...
    def place(self, rows: Tensor, other: Any) -> None: ...
    def arrange(self, rows: Tensor) -> None: ...
    def clear(self, rows: Tensor) -> None: ...
    def compact(self, least: int = 1) -> None: ...


@runtime_checkable
class CausalModel(Protocol):
    """A family of models: a function of weights and ids. A plugin may bring others."""

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight."""
        ...

    def new_cache(self, rows: int, capacity: int) -> Any:
        """An empty :class:`TextCache`."""
        ...

    def forward(
        self,
        weights: BoundWeights,
        ids: Tensor,  # [P, B, T]
        *,
        padding: Tensor | None = None,  # [P, B]
        cache: Any = None,
        output: Literal["logits", "last"] = "logits",
    ) -> Tensor:
        """Logits ``[P, B, T, vocabulary]``, or ``[P, B, 1, vocabulary]`` for ``"last"``."""
        ...

    def logits_at(self, weights: BoundWeights, ids: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Logits after some positions only: ``ids`` ``[P, B, T]``, ``rows`` and ``places`` ``[n]`` -> ``[P, n, V]``."""
        ...


class Llama:
    """The Llama family as a :class:`CausalModel`."""

    def __init__(self, config: LlamaConfig) -> None:
        self.config = config
        self.vocabulary = config.vocabulary
        self.context_length = config.context_length
        self.stop_ids = config.stop_ids

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Llama:
        """The model that a ``config.json`` describes (see :meth:`LlamaConfig.from_hf`)."""
        return cls(LlamaConfig.from_hf(config))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.config.shapes()

    def new_cache(self, rows: int, capacity: int) -> KeyValueCache:
        return KeyValueCache(self.config, rows, capacity)

    def forward(
        self,
        weights: BoundWeights,
        ids: Tensor,
        *,
        padding: Tensor | None = None,
        cache: KeyValueCache | None = None,
        output: Literal["logits", "last"] = "logits",
        **options: Any,
    ) -> Tensor:
        return forward(self.config, weights, ids, padding=padding, cache=cache, output=output, **options)

    def logits_at(self, weights: BoundWeights, ids: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        hidden = forward(self.config, weights, ids, output="hidden")
        return weights.unembed(hidden[:, rows, places])


def causal_model(config: LlamaConfig | CausalModel) -> CausalModel:
    """The model behind a configuration; other families are their own configuration."""
    return Llama(config) if isinstance(config, LlamaConfig) else config
