"""What every execution engine must do, as tests: override the fixture ``engine``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from hyperfunc.function import hyperfunction
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.population.sequential import run_sequential
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.system import HyperSystem
from hyperfunc.testing.contracts._values import finish

__all__ = ["EngineContract", "EngineProgram"]

_MEMBERS, _EXAMPLES = 3, 4


def _layer() -> Any:
    network = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 0.5], [-0.5, 2.0]]))
        network.bias.zero_()
    return hyperfunction(name="layer", optimize_hparams=True)(network)


class EngineProgram(HyperSystem):
    """The program that engines are tested with: one layer; it fails where the first feature is NaN.

    It lives at module level, so that an engine may send it to another process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = _layer()
        self.register_hyperfunction(self.layer)

    async def run(self, x: torch.Tensor) -> torch.Tensor:
        if bool(torch.isnan(x[0])):
            raise ValueError("the first feature is NaN")
        result: torch.Tensor = await self.layer(x)
        return result


def _block() -> MemberBlock:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(_MEMBERS, 2, 1, generator=generator)
    right = torch.randn(_MEMBERS, 2, 1, generator=generator)
    return {
        "layer.weight": FactoredMembers(torch.eye(2), left, right, 0.1),
        "layer.bias": DenseMembers(torch.randn(_MEMBERS, 2, generator=generator)),
    }


def _inputs(bad: int | None = None) -> list[Mapping[str, Any]]:
    rows = [torch.tensor([float(example), 1.0]) for example in range(_EXAMPLES)]
    if bad is not None:
        rows[bad] = torch.tensor([torch.nan, 1.0])
    return [{"x": row} for row in rows]


class EngineContract:
    """Tests of one engine against the plain loop."""

    @pytest.fixture
    def engine(self) -> Any:
        """The engine. Override this."""
        raise NotImplementedError("override the fixture engine with an instance of your engine")

    def _run(self, engine: Any, block: MemberBlock, inputs: list[Mapping[str, Any]]) -> BlockOutcome:
        settings = resolve_settings(None, Settings())
        outcome: BlockOutcome = finish(engine.run_block(EngineProgram().program(), block, inputs, settings))
        return outcome

    def test_it_is_a_coroutine_function_of_four_arguments(self, engine: Any) -> None:
        assert inspect.iscoroutinefunction(engine.run_block)
        parameters = list(inspect.signature(engine.run_block).parameters)
        assert parameters[:4] == ["program", "block", "inputs", "settings"]

    def test_outputs_are_those_of_the_plain_loop(self, engine: Any) -> None:
        outcome = self._run(engine, _block(), _inputs())
        expected = finish(run_sequential(EngineProgram().program(), _block(), _inputs()))
        assert (outcome.members, outcome.examples) == (_MEMBERS, _EXAMPLES)
        assert outcome.errors == {}
        for member in range(_MEMBERS):
            for mine, reference in zip(outcome.outputs_of(member), expected.outputs_of(member), strict=True):
                torch.testing.assert_close(mine, reference)

    def test_a_failing_run_is_that_run_s_failure(self, engine: Any) -> None:
        outcome = self._run(engine, _block(), _inputs(bad=1))
        assert set(outcome.errors) == {(member, 1) for member in range(_MEMBERS)}
        assert all(isinstance(error, ValueError) for error in outcome.errors.values())
        expected = finish(run_sequential(EngineProgram().program(), _block(), _inputs(bad=1)))
        for example in (0, 2, 3):
            torch.testing.assert_close(outcome.outputs_of_example(2, example), expected.outputs_of_example(2, example))

    def test_the_same_block_gives_the_same_bits(self, engine: Any) -> None:
        first, again = (self._run(engine, _block(), _inputs()) for _ in range(2))
        for member in range(_MEMBERS):
            for one, other in zip(first.outputs_of(member), again.outputs_of(member), strict=True):
                assert torch.equal(one, other)

    def test_a_block_without_members_runs_theta(self, engine: Any) -> None:
        outcome = self._run(engine, {}, _inputs())
        assert outcome.members == 1
        torch.testing.assert_close(outcome.outputs_of_example(0, 2), torch.tensor([2.5, 1.0]))

    def test_blocks_run_at_once(self, engine: Any) -> None:
        settings = resolve_settings(None, Settings())

        async def both() -> list[BlockOutcome]:
            program = EngineProgram().program()
            runs = (engine.run_block(program, _block(), inputs, settings) for inputs in (_inputs(), _inputs()[::-1]))
            outcomes: list[BlockOutcome] = await asyncio.gather(*runs)
            return outcomes

        forwards, backwards = finish(both())
        assert torch.equal(forwards.outputs_of_example(0, 0), backwards.outputs_of_example(0, _EXAMPLES - 1))
