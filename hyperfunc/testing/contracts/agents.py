"""What every agent type must do, as tests: override the fixture ``agent_case``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from hyperfunc.hookspecs import Register, hookimpl
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.system import HyperSystem
from hyperfunc.testing.contracts._values import copy_of, finish, same

__all__ = ["AgentCase", "AgentTypeContract"]


@dataclass(frozen=True)
class AgentCase:
    """An agent type, a program for it, and examples.

    Attributes:
        agent_type: the class that is registered.
        run: a program as a system's ``run`` of this type: a deterministic coroutine function.
        examples: inputs of at least two examples with different results.
    """

    agent_type: type[Any]
    run: Callable[..., Awaitable[Any]]
    examples: Sequence[Mapping[str, Any]]


class _Plugin:
    def __init__(self, agent_type: type[Any]) -> None:
        self._agent_type = agent_type

    @hookimpl
    def hyperfunc_register_agent_types(self, register: Register) -> None:
        register("under-test", self._agent_type)


def _system(case: AgentCase, run: Callable[..., Awaitable[Any]] | None = None) -> HyperSystem:
    program = case.run if run is None else run

    class System(HyperSystem):
        agent_type = "under-test"

        async def run(self, *args: Any, **kwargs: Any) -> Any:
            return await program(*args, **kwargs)

    return System()


class AgentTypeContract:
    """Tests of one agent type, in a system that names it."""

    @pytest.fixture
    def agent_case(self) -> AgentCase:
        """The agent type with a program and examples. Override this."""
        raise NotImplementedError("override the fixture agent_case with an AgentCase")

    def _results(self, case: AgentCase, *, together: bool) -> list[Any]:
        async def work() -> list[Any]:
            with use_plugins(load_plugins([("under test", _Plugin(case.agent_type))], entry_points=False)):
                system = _system(case)
                if together:
                    return await asyncio.gather(*(system.execute(dict(inputs)) for inputs in case.examples))
                return [await system.execute(dict(inputs)) for inputs in case.examples]

        return finish(work())

    def _run_with(self, case: AgentCase, run: Callable[..., Awaitable[Any]]) -> Any:
        async def work() -> Any:
            with use_plugins(load_plugins([("under test", _Plugin(case.agent_type))], entry_points=False)):
                return await _system(case, run).execute(dict(case.examples[0]))

        return finish(work())

    def test_it_is_built_without_arguments_and_says_whether_it_lifts(self, agent_case: AgentCase) -> None:
        agent = agent_case.agent_type()
        assert isinstance(agent.liftable, bool)
        assert inspect.iscoroutinefunction(agent.run_example)
        assert list(inspect.signature(agent.run_example).parameters)[:3] == ["run", "inputs", "system"]

    def test_a_system_runs_it_by_name(self, agent_case: AgentCase) -> None:
        results = self._results(agent_case, together=False)
        assert len(results) == len(agent_case.examples) >= 2
        assert not same(results[0], results[1]), "the examples must have different results"

    def test_the_same_example_has_the_same_result(self, agent_case: AgentCase) -> None:
        assert same(self._results(agent_case, together=False), self._results(agent_case, together=False))

    def test_examples_run_at_once_without_touching_each_other(self, agent_case: AgentCase) -> None:
        assert same(self._results(agent_case, together=True), self._results(agent_case, together=False))

    def test_inputs_are_left_alone(self, agent_case: AgentCase) -> None:
        before = copy_of(list(agent_case.examples))
        self._results(agent_case, together=False)
        assert same(before, list(agent_case.examples))

    def test_the_program_is_what_is_run(self, agent_case: AgentCase) -> None:
        calls: list[Mapping[str, Any]] = []

        async def watched(*args: Any, **kwargs: Any) -> Any:
            calls.append(kwargs)
            return await agent_case.run(*args, **kwargs)

        self._run_with(agent_case, watched)
        assert calls, "run_example returned without calling run"
        if agent_case.agent_type.liftable:
            assert len(calls) == 1, "liftable means one call of run per example"
            assert same(dict(calls[0]), dict(agent_case.examples[0]))

    def test_a_failing_program_fails_its_example(self, agent_case: AgentCase) -> None:
        async def fails(*args: Any, **kwargs: Any) -> Any:
            raise ArithmeticError("from the program")

        with pytest.raises(Exception, match="from the program"):
            self._run_with(agent_case, fails)

    def test_cancellation_passes(self, agent_case: AgentCase) -> None:
        async def work() -> None:
            started = asyncio.Event()

            async def waits(*args: Any, **kwargs: Any) -> Any:
                started.set()
                await asyncio.Event().wait()

            with use_plugins(load_plugins([("under test", _Plugin(agent_case.agent_type))], entry_points=False)):
                system = _system(agent_case, waits)
                running = asyncio.ensure_future(system.execute(dict(agent_case.examples[0])))
                await started.wait()
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running

        finish(work())
