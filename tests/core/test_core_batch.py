"""``system.batch``: many inputs under one θ, failures as values, results taken up again."""

from __future__ import annotations

import torch

from hyperfunc import HyperSystem, LoRAWeight, Settings, hyperfunction

ran: list[float] = []


@hyperfunction(hp_type=LoRAWeight.create(1, 1))
async def scale(x, hp):
    ran.append(x)
    if x < 0:
        raise ValueError(f"{x} is negative")
    return float(x * hp.weight)


class System(HyperSystem):
    async def run(self, x):
        return await scale(x)


def system(value: float = 2.0) -> System:
    made = System(settings=Settings(concurrency=3))
    made.register_hyperfunction(scale, hp_init=torch.tensor([[value]]))
    return made


async def test_order_failures_and_theta() -> None:
    results = [r async for r in system().batch([{"x": 1.0}, {"x": -1.0}, {"x": 3.0}])]
    assert [(r.ok, r.output) for r in results] == [(True, 2.0), (False, None), (True, 6.0)]
    assert str(results[1].error) == "-1.0 is negative"
    other = system().batch([{"x": 1.0}], theta={"scale.hp": torch.tensor([[5.0]])})
    assert [r.output async for r in other] == [5.0]


async def test_results_are_taken_up_again_for_the_same_theta_only(tmp_path) -> None:
    inputs = [{"x": float(i)} for i in range(4)]
    path = tmp_path / "results.jsonl"
    first = [r.output async for r in system().batch(inputs, artifacts=path)]
    ran.clear()
    assert [r.output async for r in system().batch(inputs, artifacts=path)] == first
    assert ran == []
    changed = [r.output async for r in system(3.0).batch(inputs, artifacts=path)]
    assert (changed, len(ran)) == ([0.0, 3.0, 6.0, 9.0], 4)
