"""Seeing what a program consists of: components register themselves when they are called first.

Knows nothing of populations or of how anything is improved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.parameters.theta import Theta, ThetaValue
from hyperfunc.program import Program
from hyperfunc.registry import Registry
from hyperfunc.settings import Settings
from hyperfunc.tape import Tape

__all__ = ["TrainableSystem", "discover"]


_DISCOVERY_RUNS = 8


class TrainableSystem(Protocol):
    """What evaluation and optimization need of a system."""

    settings: Settings
    prompt_optimizer: Any
    system_optimizer: Any

    @property
    def registry(self) -> Registry: ...

    @property
    def theta(self) -> Theta: ...

    def set_theta(self, theta: Mapping[str, ThetaValue]) -> None: ...

    def program(self, theta: Mapping[str, ThetaValue] | None = ..., settings: Settings | None = ...) -> Program: ...

    async def record(self, inputs: Mapping[str, Any], *, settings: Settings | None = ...) -> tuple[Any, Tape]: ...


async def discover(
    system: TrainableSystem, examples: Sequence[Example], settings: Settings | None = None
) -> tuple[int, Tape] | None:
    """Let components register themselves: run the program on one example, or on a few where that costs nothing.

    A run that raises is no reason to stop here; whoever evaluates will hear of it. Only where every run raised and no
    component is known is there nothing to go on with.

    Args:
        settings: those of the evaluation or optimization that follows.

    Raises:
        ConfigurationError: the program is put together wrongly.
        What the first run raised, if no run came as far as a component.

    Returns:
        The position of the first example that could be run, and what was called; ``None`` if none was run.
    """
    registry = system.registry
    _check_ready(registry)
    found: tuple[int, Tape] | None = None
    if registry.discovered:
        return found
    first_error: Exception | None = None
    for position, example in enumerate(examples[:_DISCOVERY_RUNS]):
        try:
            _, tape = await system.record(example.inputs, settings=settings)
        except ConfigurationError:
            raise  # of the program, not of the example
        except Exception as error:
            first_error = first_error or error
            continue
        found = found or (position, tape)
        functions = registry.all_components()
        if any(c.suspended or (c.function in functions and functions[c.function].performs_io) for c in tape):
            break
    if found is None and first_error is not None and not registry.all_components():
        raise first_error
    registry.discovered = True
    _check_ready(registry)
    return found


def _check_ready(registry: Registry) -> None:
    for function in registry.all_components().values():
        function.check_ready()
