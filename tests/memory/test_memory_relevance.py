"""Relevance and its weights, by themselves and as parameters of a hyperfunction."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hyperfunc.errors import ShapeError
from hyperfunc.function import hyperfunction
from hyperfunc.system import HyperSystem
from hyperfunc_memory import Match, Memory, MemoryEntry, MemoryInputError, RetrievalWeights
from hyperfunc_memory.relevance import ranked, relevance

_NOW = 1_800_000_000.0
_DAY = 86_400.0


def test_relevance_is_the_documented_product() -> None:
    weights = RetrievalWeights(text=2.0, importance=0.5, recency=1.5, half_life_days=10.0)
    entry = MemoryEntry(content="x", importance=0.25, created_at=_NOW - 5 * _DAY)
    expected = 0.8**2.0 * 0.25**0.5 * (0.5**0.5) ** 1.5
    assert relevance(entry, 0.8, weights, _NOW) == pytest.approx(expected)


def test_floors_keep_every_entry_reachable() -> None:
    entry = MemoryEntry(content="x", importance=0.0, created_at=0.0)
    weights = RetrievalWeights(text=0.0, importance=1.0, recency=1.0)
    assert relevance(entry, 1.0, weights, _NOW) == pytest.approx(1e-4)
    future = MemoryEntry(content="x", importance=1.0, created_at=_NOW + 1e9)
    assert relevance(future, 1.0, weights, _NOW) == 1.0


def test_a_zero_weight_switches_its_factor_off_and_ties_go_to_the_newer() -> None:
    entries = [MemoryEntry(id=i, content=str(i), importance=i / 10, created_at=_NOW - i * _DAY) for i in range(1, 5)]
    matches = [Match(entry, float(entry.id or 0)) for entry in entries]
    off = RetrievalWeights(text=0.0, importance=0.0, recency=0.0)
    assert [e.id for e in ranked(matches, off, _NOW, 3)] == [4, 3, 2]
    recent = RetrievalWeights(text=0.0, importance=0.0, recency=1.0)
    assert [e.id for e in ranked(matches, recent, _NOW, 9)] == [1, 2, 3, 4]
    assert ranked([], off, _NOW, 3) == []


def test_the_tensor_form_goes_both_ways_and_stays_in_bounds() -> None:
    weights = RetrievalWeights(0.5, 1.5, 2.5, 7.0)
    tensor = weights.to_tensor(dtype=torch.float64)
    assert tensor.shape == RetrievalWeights.shape() == (RetrievalWeights.dim(),)
    assert RetrievalWeights.from_tensor(tensor).half_life_days == pytest.approx(7.0)
    assert RetrievalWeights.from_tensor(RetrievalWeights.default_init()) == RetrievalWeights.from_tensor(
        RetrievalWeights().to_tensor()
    )
    low, high = RetrievalWeights.bounds()
    for wild in (torch.full((4,), -1e9), torch.full((4,), 1e9), torch.full((4,), math.nan)):
        clamped = RetrievalWeights.from_tensor(wild).to_tensor()
        assert bool(((clamped >= low - 1e-5) & (clamped <= high + 1e-5)).all())
    with pytest.raises(ShapeError, match=r"\(4,\)"):
        RetrievalWeights.from_tensor(torch.zeros(3))


@pytest.mark.parametrize("wrong", [{"text": -1}, {"importance": math.nan}, {"recency": 5}, {"half_life_days": 0}])
def test_weights_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MemoryInputError, match=next(iter(wrong))):
        RetrievalWeights(**wrong)


class Recall(HyperSystem):
    """Answers with the most relevant memory, under weights from θ."""

    def __init__(self, store: Memory) -> None:
        super().__init__()
        self.store = store
        self.recall = hyperfunction(hp_type=RetrievalWeights, optimize_hparams=True, io=True)(self._recall)

    async def _recall(self, query: str, hp: Any = None) -> str:
        found = await self.store.aretrieve(query, "u", limit=1, weights=hp)
        return found[0].content if found else ""

    async def run(self, query: str) -> str:
        answer: str = await self.recall(query)
        return answer


async def test_weights_are_parameters_of_a_hyperfunction() -> None:
    with Memory(clock=lambda: _NOW) as memory:
        old = MemoryEntry(content="tea old", importance=1.0, created_at=_NOW - 60 * _DAY, user_id="u")
        new = MemoryEntry(content="tea new", importance=0.3, created_at=_NOW, user_id="u")
        memory.add_many([old, new])
        system = Recall(memory)
        name = "recall.hp" if "recall.hp" in system.get_hp_state() else next(iter(system.theta))
        important, recent = torch.tensor([1.0, 1.0, 0.0, 3.4]), torch.tensor([1.0, 0.0, 1.0, 3.4])
        assert await system.execute({"query": "tea"}, theta={name: important}) == "tea old"
        assert await system.execute({"query": "tea"}, theta={name: recent}) == "tea new"
