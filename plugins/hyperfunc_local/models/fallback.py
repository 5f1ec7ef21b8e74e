"""Any other causal model of ``transformers``: its own module, with members' perturbations slipped in underneath.

Members are folded into the batch, and a ``TorchFunctionMode`` turns each product with a perturbed weight into one
product for all members and their rank-r epilogue, as in our own family. What a generation remembers is the text
itself. While the same rows go on, the keys and values of ``transformers`` are used too; its cache objects cannot be
refilled row by row, so that after a change of rows the text is read again, once. Architectures without such a cache
read it again for every token. That is correct for all of them; models that are used in earnest deserve an
implementation of their own.

Knows nothing of the architecture. A perturbed weight that the module uses in another way than in ``linear``,
``addmm`` or ``embedding`` is refused by name, never ignored.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hyperfunc.errors import FactoredOperationError, MissingDependencyError
from hyperfunc_local.errors import ContextLengthError, ModelFileError, UnsupportedArchitectureError
from hyperfunc_local.models.weights import BoundWeights

__all__ = ["TransformersModel", "load_with_transformers"]


class HistoryCache:
    """The ids of every row, right-aligned like the columns of a
    :class:`~hyperfunc_local.models.cache.KeyValueCache`."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.ids: Tensor | None = None  # [rows, length]
        self.rows = rows
        self.capacity = capacity
        self.length = 0
        self.padding: Tensor | None = None
        self.past: Any = None
        """Keys and values of all ids so far as ``transformers`` keeps them; ``None``: the text has to be read."""

    @property
    def bytes(self) -> int:
        held = [] if self.ids is None else [self.ids]
        for layer in getattr(self.past, "layers", ()):
            held += [t for t in (layer.keys, layer.values) if t is not None]
        return sum(t.numel() * t.element_size() for t in held)

    def append(self, ids: Tensor) -> Tensor:
        """All ids with the new ones, ``[rows, length]``."""
        self.ids = ids if self.ids is None else torch.cat((self.ids, ids), 1)
        self.length = self.ids.shape[1]
        if self.length > self.capacity:
            raise ContextLengthError(f"the cache holds {self.capacity} positions, {self.length} are needed")
        return self.ids

    def _known(self, device: torch.device) -> tuple[Tensor, Tensor]:
        ids = self.ids if self.ids is not None else torch.zeros(self.rows, 0, dtype=torch.int64, device=device)
        padding = self.padding if self.padding is not None else torch.zeros(self.rows, dtype=torch.int64, device=device)
        return ids, padding

    def place(self, rows: Tensor, other: HistoryCache) -> None:
        ids, padding = self._known(rows.device)
        theirs, their_padding = other._known(rows.device)
        longer = max(0, other.length - self.length)
        ids, padding = F.pad(ids, (longer, 0)), padding + longer
        shift = ids.shape[1] - other.length
        ids, padding = ids.clone(), padding.clone()
        ids[rows] = F.pad(theirs, (shift, 0))
        padding[rows] = their_padding + shift
        self.ids, self.padding, self.length = ids, padding, ids.shape[1]
        self.past = None

    def arrange(self, rows: Tensor) -> None:
        ids, padding = self._known(rows.device)
        source = rows.clamp(min=0)
        self.ids = ids[source]
        self.padding = torch.where(rows >= 0, padding[source], self.length)
        self.rows = len(rows)
        self.past = None

    def clear(self, rows: Tensor) -> None:
        _, padding = self._known(rows.device)
        self.padding = padding.index_fill(0, rows, self.length)

    def compact(self, least: int = 1) -> None:
        if self.ids is None or self.padding is None:
            return
        unused = int(self.padding.min())
        if unused >= max(1, least):
            self.ids, self.padding = self.ids[:, unused:], self.padding - unused
            self.length -= unused
            self.past = None


class TransformersModel:
    """A causal model of ``transformers`` as a :class:`~hyperfunc_local.models.causal.CausalModel`."""

    def __init__(self, module: nn.Module) -> None:
        config: Any = module.config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.module = module.eval()
        self.vocabulary = int(text.vocab_size)
        self.context_length = int(getattr(text, "max_position_embeddings", None) or 2048)
        end = text.eos_token_id
        self.stop_ids = tuple(end) if isinstance(end, list) else (() if end is None else (int(end),))
        self._takes = set(inspect.signature(module.forward).parameters)
        self._lock = threading.Lock()  # functional_call swaps attributes on the module

    def weights(self) -> dict[str, Tensor]:
        """Name -> tensor; tied ones under the first of their names."""
        return {name: parameter.detach() for name, parameter in self.module.named_parameters()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self.module.named_parameters()}

    def new_cache(self, rows: int, capacity: int) -> HistoryCache:
        return HistoryCache(rows, capacity)

    def forward(
        self,
        weights: BoundWeights,
        ids: Tensor,
        *,
        padding: Tensor | None = None,
        cache: HistoryCache | None = None,
        output: Literal["logits", "last"] = "logits",
    ) -> Tensor:
        members, prompts, count = ids.shape
        flat = ids.reshape(members * prompts, count)
        if padding is not None:
            padding = padding.reshape(-1)
        wanted = 1 if output == "last" else count
        logits: Tensor
        if cache is None:
            logits = self._run(weights, flat, 0, padding, wanted).logits
        else:
            if padding is not None:
                cache.padding = padding
            known = cache.length if cache.past is not None else 0
            text = cache.append(flat)
            past, cache.past = cache.past, None  # a pass that fails leaves it half written
            answer = self._run(weights, text[:, known:], known, cache.padding, wanted, past=past, keep=True)
            logits, cache.past = answer.logits, _covering(answer, cache.length)
        return logits[:, -wanted:].reshape(members, prompts, wanted, -1)

    def logits_at(self, weights: BoundWeights, ids: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        return self.forward(weights, ids)[:, rows, places]

    def _run(
        self,
        weights: BoundWeights,
        ids: Tensor,  # [N, T], the columns from ``known`` on
        known: int,
        padding: Tensor | None,
        wanted: int,  # logits of so many last columns are enough
        *,
        past: Any = None,
        keep: bool = False,
    ) -> Any:
        if weights.has_vectors:
            raise UnsupportedArchitectureError("the fallback perturbs matrices only; leave out norms and biases")
        columns = torch.arange(known + ids.shape[1], device=ids.device)
        start = padding.unsqueeze(1) if padding is not None else torch.zeros_like(columns[:1]).unsqueeze(0)
        arguments: dict[str, Any] = {"input_ids": ids}
        if padding is not None:
            # A row without text sees its last column: attention over nothing is NaN.
            seen = (columns >= start) | (columns == len(columns) - 1)
            arguments["attention_mask"] = seen.expand(ids.shape[0], -1).long()
        if "position_ids" in self._takes:
            arguments["position_ids"] = (columns[known:] - start).clamp_(min=0).expand(ids.shape[0], -1)
        if "use_cache" in self._takes:
            arguments["use_cache"] = keep
        if past is not None:
            arguments["past_key_values"] = past
        if "logits_to_keep" in self._takes:
            arguments["logits_to_keep"] = wanted
        mode = _Perturbing(weights)
        with self._lock, mode:
            answer = torch.func.functional_call(self.module, dict(weights.shared), (), arguments, tie_weights=True)
        mode.check()
        return answer


def _covering(answer: Any, length: int) -> Any:
    """The answer's keys and values, if they are of a kind that goes on from ``length`` columns."""
    past = getattr(answer, "past_key_values", None)
    layers = getattr(past, "layers", None)
    if past is None or not layers or any(type(layer).__name__ != "DynamicLayer" for layer in layers):
        return None
    return past if past.get_seq_length() == length else None


class _Perturbing(TorchFunctionMode):
    """Replaces products with perturbed weights; remembers which were met."""

    def __init__(self, weights: BoundWeights) -> None:
        super().__init__()
        self._weights = weights
        self._names = {id(weights.shared[name]): name for name in weights.adapters}
        self._met: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not self._names:
            return func(*args, **kwargs)
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and id(a) in self._names]
        if not given or _reads_only(func):
            return func(*args, **kwargs)
        name = self._names[id(given[0])]
        self._met.add(name)
        if func is F.linear:
            return self._linear(name, **dict(zip(("x", "weight", "bias"), args, strict=False)), **_renamed(kwargs))
        if func is F.embedding and args[1] is given[0]:
            return self._embedding(name, args[0])
        if func is torch.addmm and len(args) == 3 and args[2] is given[0]:
            return self._transposed(name, *args)
        raise FactoredOperationError(
            f"{name} is perturbed, and the module uses it in {getattr(func, '__name__', func)}, for which the fallback "
            "has no rule; leave this weight out"
        )

    def _fold(self, x: Tensor) -> Tensor:
        return x.reshape(self._weights.size, -1, x.shape[-1])

    def _linear(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = self._weights.adapters[name].apply(self._fold(x), weight, bias)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    def _transposed(self, name: str, bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """GPT-2's linears keep their weight as ``[in, out]``."""
        return self._weights.transposed_linear(name, self._fold(x), bias).reshape(x.shape[0], weight.shape[1])

    def _embedding(self, name: str, ids: Tensor) -> Tensor:
        if ids.numel() % self._weights.size:
            raise FactoredOperationError(f"{name} is looked up for all members at once; leave this weight out")
        looked_up = self._weights.look_up(name, ids.reshape(self._weights.size, -1))
        return looked_up.reshape(*ids.shape, looked_up.shape[-1])

    def check(self) -> None:
        """Raises FactoredOperationError: a perturbed weight took no part."""
        missed = sorted(set(self._names.values()) - self._met)
        if missed:
            raise FactoredOperationError(f"{len(missed)} perturbed weights took no part, the first is {missed[0]!r}")


def _renamed(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {("x" if name == "input" else name): value for name, value in kwargs.items()}


def _reads_only(func: Any) -> bool:
    """Looking at a weight's shape or device is not using it."""
    name = getattr(func, "__name__", "")
    return name in ("__get__", "size", "dim", "numel", "is_floating_point", "data_ptr", "stride", "type")


def load_with_transformers(
    path: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> TransformersModel:
    """A causal model from a local directory, through ``transformers``; no code from the directory is run.

    Raises:
        MissingDependencyError: ``transformers`` is not installed.
        ModelFileError: it cannot load the directory.
    """
    try:
        import transformers
    except ImportError:
        raise MissingDependencyError("transformers", "transformers") from None
    try:
        module = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype if dtype is not None else "auto",
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelFileError(f"{path}: transformers cannot load it: {error}") from error
    moved: nn.Module = nn.Module.to(module, device=device)
    return TransformersModel(moved)
