"""``HyperSystem``: an ordinary async program whose components are hyperfunctions.

A system holds a registry (what it consists of, its current θ) and runs its program under bindings. How populations are
evaluated and how θ is improved is elsewhere; the methods here hand over.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from hyperfunc.binding import Binding, CallDefaults, Frame, active_frame, bound
from hyperfunc.errors import ConfigurationError, UnboundError, UnknownParameterError
from hyperfunc.function import HyperFunction
from hyperfunc.parameters.files import load_theta, save_theta
from hyperfunc.parameters.theta import JSONValue, Theta, ThetaValue
from hyperfunc.program import supervise
from hyperfunc.registry import Registry
from hyperfunc.settings import Settings
from hyperfunc.tape import Tape, recording

__all__ = ["HyperSystem"]


class HyperSystem:
    """Subclass this and write ``async def run(self, …)``.

    Inside ``run``, hyperfunctions find their parameters; they register themselves at their first call, with initial
    values that are a pure function of ``seed`` and their names. Systems held in attributes are nested, with dotted
    names. Any number of runs, under the same or different θ, may be in flight at once.

    Args:
        prompt_optimizer: improves the texts in :meth:`optimize`.
        system_optimizer: improves the tensors in :meth:`optimize`; an optimizer or the name of a strategy.
        memory: a memory that agents of this system use.
        seed: seed of the initial values.
        settings: the *bound* level of :class:`Settings`.
    """

    agent_type: ClassVar[str] = "flow"

    _registry: Registry

    def __new__(cls, *args: Any, **kwargs: Any) -> HyperSystem:
        system = super().__new__(cls)
        object.__setattr__(system, "_registry", Registry())
        system.prompt_optimizer = None
        system.system_optimizer = None
        system.memory = None
        system.settings = Settings()
        return system

    def __init__(
        self,
        prompt_optimizer: Any = None,
        system_optimizer: Any = None,
        memory: Any = None,
        *,
        seed: int = 0,
        settings: Settings | None = None,
    ) -> None:
        self.prompt_optimizer = prompt_optimizer
        self.system_optimizer = system_optimizer
        self.memory = memory
        self.settings = settings or Settings()
        self._registry.seed = seed

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        run = cls.__dict__.get("run")
        if run is not None:
            if not asyncio.iscoroutinefunction(run):
                raise ConfigurationError(f"{cls.__name__}.run must be `async def`")
            setattr(cls, "run", _under_binding(run))  # noqa: B010 - mypy forbids assigning methods

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, HyperSystem):
            self._registry.add_child(name, value._registry)
        elif isinstance(value, HyperFunction):
            if value.is_module and not value.explicit_name:
                value = value.named(name)
            self._registry.register(value)
        object.__setattr__(self, name, value)

    # --- the program ---------------------------------------------------------------------------------------------

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        """The program. Called directly, it runs under the system's current θ."""
        raise NotImplementedError(f"{type(self).__name__} must define `async def run(self, …)`")

    def run_sync(self, *args: Any, **kwargs: Any) -> Any:
        """``run`` from synchronous code.

        Raises:
            RuntimeError: an event loop is running here; write ``await system.run(…)``.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.run(*args, **kwargs))
        raise RuntimeError("run_sync was called inside a running event loop; write: await system.run(...)")

    async def execute(
        self, inputs: Mapping[str, Any], record: bool = False, *, theta: Mapping[str, ThetaValue] | None = None
    ) -> Any:
        """Run the program once on ``inputs`` (keyword arguments of ``run``).

        Args:
            record: also return what was called.
            theta: values in place of the current ones, by dotted name.

        Returns:
            The output; with ``record=True`` the pair ``(output, tape)``.
        """
        tape = Tape() if record else None
        with self.binding(theta), recording(tape):
            output = await self._supervised(dict(inputs))
        return (output, tape) if record else output

    async def _supervised(self, inputs: dict[str, Any]) -> Any:
        frame = active_frame.get()
        assert frame is not None
        return await supervise(frame.binding, self.run(**inputs))

    @contextmanager
    def binding(self, theta: Mapping[str, ThetaValue] | None = None) -> Iterator[Theta]:
        """Call hyperfunctions outside ``run``, under the current θ with ``theta`` in place of some values."""
        value = self.theta if theta is None else self.theta.replace(theta)
        binding = Binding(value, defaults=CallDefaults(self.settings))
        try:
            with bound(Frame(binding, self._registry)):
                yield value
        finally:
            binding.close()

    # --- parameters ----------------------------------------------------------------------------------------------

    @property
    def theta(self) -> Theta:
        """The current θ. A value: what you hold does not change when the system gets another."""
        return self._registry.theta

    def set_theta(self, theta: Mapping[str, ThetaValue]) -> None:
        """Replace some or all values by dotted name; all or nothing. Runs in flight keep theirs.

        Raises:
            UnknownParameterError, ShapeError, ParameterTypeError
        """
        self._registry.set_theta(theta)

    def save(self, path: str | Path) -> None:
        """Save θ as ``path.safetensors`` and ``path.json``."""
        save_theta(self.theta, path)

    def load(self, path: str | Path) -> None:
        """Load what :meth:`save` wrote; a part of θ is fine, unknown names are an error."""
        self.set_theta(load_theta(path))

    def register_hyperfunction(
        self, hf: HyperFunction[..., Any], hp_init: Tensor | None = None, *, name: str | None = None
    ) -> HyperFunction[..., Any]:
        """Register ``hf`` before its first call, with an explicit initial tensor if given.

        Returns:
            The handle to call: ``hf`` itself, or with ``name`` a twin with parameters of its own.
        """
        handle = hf if name is None else hf.named(name)
        self._registry.register(handle, None if hp_init is None else torch.as_tensor(hp_init))
        return handle

    @property
    def hyperfunctions(self) -> list[HyperFunction[..., Any]]:
        """The registered components, nested systems included."""
        return list(self._registry.all_components().values())

    def get_hyperfunction(self, name: str) -> HyperFunction[..., Any]:
        """The component of this dotted name.

        Raises:
            UnknownParameterError
        """
        components = self._registry.all_components()
        if name not in components:
            raise UnknownParameterError(name, components)
        return components[name]

    @property
    def hp_dim(self) -> int:
        """Number of tensor elements of all components."""
        return sum(hf.hp_dim for hf in self.hyperfunctions)

    def get_hp_state(self) -> dict[str, Tensor]:
        """Copies of the tensors by component name (``component.parameter`` for modules)."""
        return {name: tensor.clone() for name, tensor in self._registry.hp_state().items()}

    def set_hp_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace tensors, named as in :meth:`get_hp_state`."""
        self._registry.set_hp_state(state)

    def set_prompt(self, component: str | HyperFunction[..., Any], text: JSONValue, *, name: str = "prompt") -> None:
        """Replace a text in the current θ of this system alone."""
        self._registry.set_text(component if isinstance(component, str) else component.name, text, name)

    def get_prompts(self) -> dict[str, JSONValue]:
        """Every text of the current θ, by dotted name."""
        return self.theta.texts


def _under_binding(run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """``run`` under the binding around it (inside a run of this system or of one that nests it), else under the
    system's current θ."""

    @functools.wraps(run)
    async def bound_run(self: HyperSystem, *args: Any, **kwargs: Any) -> Any:
        frame = active_frame.get()
        if frame is None:
            with self.binding():
                frame = active_frame.get()
                assert frame is not None
                return await supervise(frame.binding, run(self, *args, **kwargs))
        if frame.scope is self._registry:
            return await run(self, *args, **kwargs)
        name = frame.scope.child_name(self._registry) if isinstance(frame.scope, Registry) else None
        if name is None:
            raise UnboundError(
                f"a {type(self).__name__} was run inside another system that does not hold it; "
                "assign it to an attribute of the outer system, so that its parameters have names there"
            )
        with bound(Frame(frame.binding, self._registry, f"{frame.prefix}{name}.")):
            return await run(self, *args, **kwargs)

    return bound_run
