"""``Settings(engine=…)``: blocks of members on an engine of a plugin's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, Settings, hyperfunction
from hyperfunc.errors import ConfigurationError, PluginError
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.population.members import member_count
from hyperfunc.testing import BlockingEngine


class Counted(BlockingEngine):
    """Runs blocks here, and notes what it is asked."""

    made: ClassVar[list[Counted]] = []

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.most_at_once = self.now = self.closed = 0
        Counted.made.append(self)

    async def run_block(self, program: Any, block: Any, inputs: Sequence[Mapping[str, Any]], settings: Settings) -> Any:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        await asyncio.sleep(0)
        try:
            return await super().run_block(program, block, inputs, settings)
        finally:
            self.now -= 1
            self.blocks.append(member_count(block) if block else 0)

    def close(self) -> None:
        self.closed += 1


class Failing(BlockingEngine):
    """Loses the connection in its second block, while the others wait."""

    calls = cancelled = 0

    async def run_block(self, *arguments: Any) -> Any:
        Failing.calls += 1
        if Failing.calls == 2:
            raise ConnectionError("the other machine is gone")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            Failing.cancelled += 1
            raise


class NoEngine:
    pass


@pytest.fixture(autouse=True)
def _engines() -> Iterator[None]:
    plugins = load_plugins(entry_points=False)
    for name, engine in (("counted", Counted), ("failing", Failing), ("none", NoEngine)):
        plugins.registry("engines").add(name, engine, "tests")
    Counted.made = []
    Failing.calls = Failing.cancelled = 0
    with use_plugins(plugins):
        yield


class Line(HyperSystem):
    def __init__(self) -> None:
        super().__init__(seed=0)
        network = torch.nn.Linear(1, 1)
        with torch.no_grad():
            network.weight.fill_(0.5)
            network.bias.zero_()
        self.layer = hyperfunction(name="layer", optimize_hparams=True)(network)

    async def run(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = await self.layer(x)
        return answer


EXAMPLES = [Example({"x": torch.tensor([float(x)])}, torch.tensor([2.0 * x])) for x in range(4)]


async def optimized(**options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    system = Line()
    optimizer = ESHybridSystemOptimizer(steps=3, pop_size=8, sigma=0.1, block_size=2, strategy="openai-es")
    result = await system.optimize_tensors(
        EXAMPLES, "mean-squared-error", optimizer=optimizer, settings=Settings(**options)
    )
    return result, dict(system.theta.tensors)


async def test_blocks_run_on_the_named_engine_with_the_results_of_the_plain_loop() -> None:
    result, theta = await optimized(engine="counted", workers=3)
    expected, reference = await optimized(execution="sequential")
    assert (result.execution, result.reason) == ("engine", "asked for by engine='counted'")
    assert [g.mean for g in result.history] == pytest.approx([g.mean for g in expected.history])
    assert all(torch.equal(theta[name], reference[name]) for name in reference)
    (engine,) = Counted.made
    assert engine.blocks.count(2) == 3 * 4  # 3 generations of 4 blocks of 2 members
    assert (engine.most_at_once, engine.now, engine.closed) == (3, 0, 1)


async def test_evaluate_asks_it_too_and_context_settings_name_it() -> None:
    system = Line()
    before = await system.evaluate(EXAMPLES, "mean-squared-error")
    assert Counted.made == []
    with Settings(engine="counted"):
        assert await system.evaluate(EXAMPLES, "mean-squared-error") == pytest.approx(before)
    assert [(engine.blocks, engine.closed) for engine in Counted.made] == [([0], 1)]


async def test_when_a_block_is_lost_the_others_end_and_the_error_goes_on() -> None:
    with pytest.raises(ConnectionError, match="the other machine is gone"):
        await asyncio.wait_for(optimized(engine="failing", workers=4), 60)
    assert Failing.cancelled >= 1


async def test_what_is_no_engine_is_said_before_anything_runs() -> None:
    with pytest.raises(PluginError, match="no engine named 'count'"):
        await optimized(engine="count")
    with pytest.raises(ConfigurationError, match="async run_block"):
        await optimized(engine="none")
    with pytest.raises(ConfigurationError, match="both say how"):
        await optimized(engine="counted", execution="gathered")
    for wrong in ("", 3):
        with pytest.raises(ConfigurationError, match="engine: expected the name"):
            Settings(engine=wrong)  # type: ignore[arg-type]
