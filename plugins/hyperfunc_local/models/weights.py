"""A model's weights as one block of members sees them: shared tensors, and each member's own perturbations of some.

The shared weights are never written to. Linears go through :class:`~hyperfunc_local.adapters.Adapter`; embeddings and
vectors (norms, biases) are looked up here. Knows the names of weights, not what the model does with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfunc.errors import ParameterTypeError, ShapeError, UnknownParameterError
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock
from hyperfunc_local.adapters import Adapter, FactoredAdapter, adapter_for, plain_linear
from hyperfunc_local.models.packed import PackedWeights

__all__ = ["BoundWeights"]


class _Plan(NamedTuple):
    """How linears of one input are computed: worked out once, since a decode step asks for dozens."""

    adapters: tuple[Adapter | None, ...]
    sizes: list[int]  # of the outputs
    packed: bool  # the product over shared weights may come from packed ones
    own_bias: bool  # members have biases of their own
    shared: bool  # nothing is any member's own


class BoundWeights:
    """Shared weights plus one block of members.

    Args:
        shared: name -> tensor, under Hugging Face state-dict names.
        members: the block's own values for some of them; ``None`` means one unperturbed member. Factors perturb their
            own ``base``, which takes the place of the shared weight where the two differ.
        adapters: adapters by the *weight* name of their linear (``model.layers.0.mlp.up_proj.weight``), in place of
            member values for that weight.
        size: number of members; worked out from ``members`` where those are given.
        packed: faster copies of ``shared``, if there are any.

    Raises:
        UnknownParameterError: a member value or an adapter for a weight that the model does not have.
        ShapeError: members disagree in number, a value does not fit its weight, or an adapter is for a vector.
    """

    def __init__(
        self,
        shared: Mapping[str, Tensor],
        members: MemberBlock | None = None,
        adapters: Mapping[str, Adapter] | None = None,
        *,
        size: int | None = None,
        packed: PackedWeights | None = None,
    ) -> None:
        self.shared = shared
        self._packed = packed
        self.adapters: dict[str, Adapter] = dict(adapters or {})
        for name in self.adapters:
            if name not in shared:
                raise UnknownParameterError(name, shared)
            if shared[name].dim() != 2:
                raise ShapeError(f"{name}: an adapter changes a linear's matrix, this is {list(shared[name].shape)}")
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._vectors: dict[str, Tensor] = {}  # name -> [P, 1, d]
        self._tables: dict[str, DenseMembers | FactoredMembers] = {}
        sizes = {values.size for values in (members or {}).values()} | ({size} if size is not None else set())
        if len(sizes) > 1:
            raise ShapeError(f"all values of a block must be for the same number of members, got {sorted(sizes)}")
        self.size = sizes.pop() if sizes else 1
        for name, values in (members or {}).items():
            self._bind(name, values)
        bases = {n: _base(v, shared[n]) for n, v in (members or {}).items() if isinstance(v, FactoredMembers)}
        changed = {n: base for n, base in bases.items() if base is not shared[n]}
        if changed:
            self.shared = {**shared, **changed}
            self._packed = None if packed is None else PackedWeights(self.shared)

    def _bind(self, name: str, values: DenseMembers | FactoredMembers) -> None:
        if name not in self.shared:
            raise UnknownParameterError(name, self.shared)
        weight = self.shared[name]
        if not isinstance(values, (DenseMembers, FactoredMembers)):
            raise ParameterTypeError(f"{name}: expected FactoredMembers or DenseMembers, got {type(values).__name__}")
        shape = values.base.shape if isinstance(values, FactoredMembers) else values.values.shape[1:]
        if shape != weight.shape:
            raise ShapeError(f"{name}: the weight is {list(weight.shape)}, the members' values are {list(shape)}")
        if weight.dim() == 1:
            if isinstance(values, FactoredMembers):
                raise ShapeError(f"{name}: a vector cannot be perturbed by factors; give DenseMembers")
            self._vectors[name] = values.values.to(weight).unsqueeze(1)
            return
        self.adapters.setdefault(name, adapter_for(values, weight.dtype, weight.device))
        self._tables[name] = values

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.shared.values())).dtype

    @property
    def device(self) -> torch.device:
        return next(iter(self.shared.values())).device

    @property
    def has_vectors(self) -> bool:
        """Whether members differ in vectors (norms, biases) too."""
        return bool(self._vectors)

    def vector(self, name: str) -> Tensor:
        """A norm's weight or a bias: ``[d]`` if shared, ``[P, 1, d]`` if each member has its own."""
        own = self._vectors.get(name)
        return own if own is not None else self.shared[name]

    def linear(self, x: Tensor, name: str) -> Tensor:
        """The linear ``name`` (without ``.weight``) of ``x`` ``[P, R, in]``: ``[P, R, out]``."""
        return self.linears(x, (name,))[0]

    def linears(self, x: Tensor, names: tuple[str, ...]) -> Sequence[Tensor]:
        """Several linears of one input; where the weights are packed, views of one product."""
        plan = self._plans.get(names)
        if plan is None:
            plan = self._plans[names] = self._plan(names)
        joined = (
            self._packed.linears(x, names, biased=not plan.own_bias)
            if plan.packed and self._packed is not None
            else None
        )
        if joined is None:
            return [self._plain(x, name, adapter) for name, adapter in zip(names, plan.adapters, strict=True)]
        parts = (joined,) if len(names) == 1 else joined.split_with_sizes(plan.sizes, -1)
        if plan.shared:
            return parts
        for name, adapter, part in zip(names, plan.adapters, parts, strict=True):
            if plan.own_bias and name + ".bias" in self.shared:
                part += self.vector(name + ".bias")
            if isinstance(adapter, FactoredAdapter):
                adapter.add_to(part, x)
        return parts

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        adapters = tuple(self.adapters.get(name + ".weight") for name in names)
        own_bias = any(name + ".bias" in self._vectors for name in names)
        return _Plan(
            adapters,
            [len(self.shared[name + ".weight"]) for name in names],
            packed=all(a is None or isinstance(a, FactoredAdapter) for a in adapters),
            own_bias=own_bias,
            shared=not own_bias and all(a is None for a in adapters),
        )

    def _plain(self, x: Tensor, name: str, adapter: Adapter | None) -> Tensor:
        weight = self.shared[name + ".weight"]
        bias = self.vector(name + ".bias") if name + ".bias" in self.shared else None
        return plain_linear(x, weight, bias) if adapter is None else adapter.apply(x, weight, bias)

    def transposed_linear(self, name: str, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x @ W + bias`` for a weight kept as ``[in, out]``: ``[P, R, in]`` -> ``[P, R, out]``."""
        own = self._tables[name]
        if isinstance(own, DenseMembers):
            y = torch.bmm(x, own.values.to(x))
        else:
            y = x @ self.shared[name]
            y = y.baddbmm_(torch.bmm(x, (own.left * own.scale).to(x)), own.right.to(x).mT)
        return y if bias is None else y + bias

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the token embedding for ``ids`` ``[P, R]``: ``[P, R, d]``."""
        return self.look_up("model.embed_tokens.weight", ids)

    def look_up(self, name: str, ids: Tensor) -> Tensor:
        """Rows of the table ``name`` for ``ids`` ``[P, R]``: ``[P, R, d]``."""
        table = self.shared[name]
        own = self._tables.get(name)
        if own is None:
            return F.embedding(ids, table)
        member = torch.arange(ids.shape[0], device=ids.device).unsqueeze(1)
        if isinstance(own, DenseMembers):
            return own.values.to(table)[member, ids]
        left = own.left.to(table)[member, ids]  # [P, R, r]
        return torch.baddbmm(F.embedding(ids, table), left, (own.right * own.scale).to(table).mT)

    def unembed(self, x: Tensor) -> Tensor:
        """Logits of ``x`` ``[P, R, d]``: ``[P, R, vocabulary]``; the embedding itself where the model ties them."""
        return self.linear(x, "lm_head" if "lm_head.weight" in self.shared else "model.embed_tokens")

    def select(self, members: Tensor) -> BoundWeights:
        """The weights as the members with these indices see them, in that order (repeats allowed)."""
        if self.size == 1 and not self.adapters and not self._vectors:
            return BoundWeights(self.shared, size=len(members), packed=self._packed)
        chosen = BoundWeights(self.shared, size=len(members), packed=self._packed)
        chosen.adapters = {name: adapter.select(members) for name, adapter in self.adapters.items()}
        chosen._vectors = {name: values[members] for name, values in self._vectors.items()}
        chosen._tables = {name: _select(values, members) for name, values in self._tables.items()}
        return chosen


def _base(values: FactoredMembers, weight: Tensor) -> Tensor:
    """What these factors perturb: ``weight`` itself, if it is the same."""
    base = values.base.to(weight)
    same = base is weight or base.data_ptr() == weight.data_ptr() or torch.equal(base, weight)
    return weight if same else base


def _select(values: DenseMembers | FactoredMembers, members: Tensor) -> DenseMembers | FactoredMembers:
    if isinstance(values, DenseMembers):
        return DenseMembers(values.values[members])
    return FactoredMembers(values.base, values.left[members], values.right[members], values.scale)
