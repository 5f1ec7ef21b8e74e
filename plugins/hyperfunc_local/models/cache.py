"""The key/value cache of one generation, for every row of ``members x prompts``.

Rows are aligned at the right: all of them write the next token into the same column, and each row remembers where its
own text begins (``padding``). A row can therefore be emptied and refilled while the others go on. Knows nothing of
tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfunc.errors import ShapeError
from hyperfunc_local.errors import ContextLengthError
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.models.rope import RotaryTable

__all__ = ["AppendingCache", "KeyValueCache"]

_SMALLEST = 64


class KeyValueCache:
    """Keys and values ``[rows, key_value_heads, columns, head_size]`` per layer.

    Memory is taken when it is first written to and grows by doubling up to ``capacity``. Not for use under
    ``torch.vmap``: see :class:`AppendingCache`.

    Args:
        rows: members x prompts.
        capacity: columns at most.
        padding: ``[rows]``, columns at the left of each row that hold no token; ``None`` means none.
    """

    def __init__(self, config: LlamaConfig, rows: int, capacity: int, padding: Tensor | None = None) -> None:
        self.config = config
        self.rows = rows
        self.capacity = capacity
        self.padding = padding
        self.length = 0
        """Columns in use."""
        self.rotary = RotaryTable(config.rope, config.head_size)
        self._keys: list[Tensor | None] = [None] * config.layers
        self._values: list[Tensor | None] = [None] * config.layers

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``[rows, key_value_heads, T, head_size]`` to a layer; all columns up to the new end come back.

        ``length`` moves only with :meth:`advance`, after the last layer.

        Raises:
            ContextLengthError: the columns do not fit.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ContextLengthError(f"the cache holds {self.capacity} positions, {end} are needed; allow more tokens")
        key_store = self._keys[layer] = self._room(self._keys[layer], keys, end)
        value_store = self._values[layer] = self._room(self._values[layer], values, end)
        key_store[:, :, self.length : end] = keys
        value_store[:, :, self.length : end] = values
        return key_store[:, :, :end], value_store[:, :, :end]

    def _room(self, store: Tensor | None, sample: Tensor, end: int) -> Tensor:
        if store is not None and store.shape[2] >= end:
            return store
        columns = min(self.capacity, max(_SMALLEST, 2 * end))
        new = sample.new_zeros((sample.shape[0], sample.shape[1], columns, sample.shape[3]))
        if store is not None:
            new[:, :, : self.length] = store[:, :, : self.length]
        return new

    def advance(self, count: int) -> None:
        """``count`` columns have been written to every layer."""
        self.length += count

    def place(self, rows: Tensor, other: KeyValueCache) -> None:
        """Put the rows of ``other`` into ``rows`` of this one, right-aligned; what was there is gone.

        Args:
            rows: ``[other.rows]`` row numbers.

        Raises:
            ContextLengthError: ``other`` is longer than the capacity.
        """
        if rows.shape != (other.rows,):
            raise ShapeError(f"expected one row number for each of {other.rows} rows, got shape {list(rows.shape)}")
        if other.length > self.capacity:
            raise ContextLengthError(f"a prompt of {other.length} tokens does not fit a cache of {self.capacity}")
        if self.padding is None:
            self.padding = torch.zeros(self.rows, dtype=torch.int64, device=rows.device)
        if other.length > self.length:
            self._shift(other.length - self.length)
        begin = self.length - other.length
        for layer in range(self.config.layers):
            for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
                source = theirs[layer]
                if source is None:
                    continue
                store = mine[layer]
                if store is None or store.shape[2] < self.length:
                    sample = source.new_empty((self.rows, source.shape[1], 0, source.shape[3]))
                    grown = self._room(None, sample, self.length)
                    if store is not None:
                        grown[:, :, : store.shape[2]] = store
                    store = mine[layer] = grown
                store[rows, :, begin : self.length] = source[:, :, : other.length]
        padding = other.padding if other.padding is not None else torch.zeros_like(rows)
        self.padding[rows] = padding + begin

    def arrange(self, rows: Tensor) -> None:
        """Keep the rows with these numbers, in this order; -1 makes an empty row."""
        source = rows.clamp(min=0)
        for stores in (self._keys, self._values):
            for layer, store in enumerate(stores):
                if store is not None:
                    stores[layer] = store[source]
        old = (
            self.padding if self.padding is not None else torch.zeros(self.rows, dtype=torch.int64, device=rows.device)
        )
        self.padding = torch.where(rows >= 0, old[source], self.length)
        self.rows = len(rows)

    def clear(self, rows: Tensor) -> None:
        """These rows hold no text any more: they see only what is written to them from now on."""
        if self.padding is None:
            self.padding = torch.zeros(self.rows, dtype=torch.int64, device=rows.device)
        self.padding[rows] = self.length

    def compact(self, least: int = 1) -> None:
        """Drop the columns at the left that are padding in every row, if they are at least so many."""
        if self.padding is None or self.length == 0:
            return
        unused = int(self.padding.min())
        if unused >= max(1, least):
            self._shift(-unused)

    def _shift(self, columns: int) -> None:
        """Move all text ``columns`` to the right (left, if negative); ``padding`` moves along, so that positions
        stay."""
        old, new = self.length, self.length + columns
        for stores in (self._keys, self._values):
            for layer, store in enumerate(stores):
                if store is None:
                    continue
                kept = store[:, :, max(0, -columns) : old].clone()
                if store.shape[2] < new:
                    sample = store.new_empty((store.shape[0], store.shape[1], 0, store.shape[3]))
                    store = stores[layer] = self._room(None, sample, new)
                store[:, :, new - kept.shape[2] : new] = kept
                store[:, :, : new - kept.shape[2]] = 0  # never uninitialised memory: NaN times zero is NaN
        self.length = new
        if self.padding is not None:
            self.padding = (self.padding + columns).clamp_(min=0)

    @property
    def bytes(self) -> int:
        """Memory held at present."""
        return sum(t.numel() * t.element_size() for t in (*self._keys, *self._values) if t is not None)


class AppendingCache:
    """A cache for ``torch.vmap``: it grows by concatenation and writes nothing in place.

    In place is impossible there: a layer whose keys no perturbation has reached yet is stored once for all members, and
    the next token's keys are each member's own.
    """

    def __init__(self, layers: int) -> None:
        self.length = 0
        self.padding: Tensor | None = None
        self._pairs: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append to a layer; everything so far comes back."""
        old = self._pairs[layer]
        pair = (keys, values) if old is None else (torch.cat((old[0], keys), 2), torch.cat((old[1], values), 2))
        self._pairs[layer] = pair
        return pair

    def advance(self, count: int) -> None:
        """``count`` columns have been written to every layer."""
        self.length += count
