"""Bindings: the values of θ under which a program runs, held in a ContextVar.

A :class:`Binding` is one run's view of θ: plain tensors for an ordinary run, factored or batched ones for a member of a
population. A :class:`Frame` is a binding seen from inside one system (nested systems have longer prefixes). Tasks
inherit the frame; ``asyncio.to_thread`` carries it; a bare thread or executor does not, and finds no default there.
Knows nothing of systems or of how a population is run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from hyperfunc.errors import ClosedBindingError
from hyperfunc.settings import Settings, context_settings, context_stack

__all__ = ["Binding", "CallDefaults", "Component", "ComponentScope", "Frame", "Route", "active_frame", "bound"]


class Component(Protocol):
    """A function that a system knows by name."""

    @property
    def name(self) -> str: ...


Route = Callable[[Any, str, tuple[Any, ...], dict[str, Any]], "Awaitable[Any] | None"]
"""Offered each call before it is made: (function, dotted name, args, kwargs) -> an awaitable of its result, or ``None``
to let the call be made here and now."""


class ComponentScope(Protocol):
    """What a frame needs of the system it belongs to."""

    def component_name(self, function: Component) -> str:
        """The name under which ``function`` is registered here; registers it on its first call."""
        ...

    def all_components(self) -> Mapping[str, Any]:
        """Dotted name -> function, of this system and of those nested in it."""
        ...

    def initial_values(self, name: str) -> Mapping[str, Any]:
        """Values for a component that the binding was made without (it was registered during the run)."""
        ...


class CallDefaults:
    """Limits of calls that declare none, worked out once per evaluation.

    Args:
        settings: the call and bound levels; the context level is looked up, since a program may enter a
            ``with Settings(...)`` of its own.
    """

    __slots__ = ("_plain_stack", "settings")

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings if settings is not None else Settings()
        merged = self.settings.over(context_settings())
        self._plain_stack = context_stack() if merged.timeout_s is None and not merged.retries else None

    @property
    def none_apply(self) -> bool:
        """Whether calls made here and now have no default limits (one identity check)."""
        return context_stack() is self._plain_stack

    def resolved(self) -> Settings:
        return self.settings.over(context_settings())


class Binding:
    """One run's values.

    Args:
        values: dotted name -> tensor or text, for the outermost system.
        route: offered every call first; how gathered execution batches calls.
        prepared: injected arguments by component, built at first use; runs of one member on several examples share
            one dictionary, since a parameter type's ``from_tensor`` may be dear.
        defaults: what holds for calls that declare no limits of their own.
    """

    __slots__ = ("call_counts", "closed", "defaults", "in_flight", "late", "prepared", "route", "values")

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        route: Route | None = None,
        prepared: dict[str, Any] | None = None,
        defaults: CallDefaults | None = None,
    ) -> None:
        self.values = values
        self.route = route
        self.defaults = defaults if defaults is not None else CallDefaults()
        self.closed = False
        self.call_counts: dict[str, int] = {}
        self.in_flight: set[asyncio.Task[Any]] = set()
        self.prepared: dict[str, Any] = {} if prepared is None else prepared
        self.late: dict[str, Any] = {}  # values of components that were first seen during this run

    def value(self, name: str) -> Any:
        """The value of a dotted parameter name.

        Raises:
            KeyError: the binding has no such value.
        """
        try:
            return self.values[name]
        except KeyError:
            return self.late[name]

    def close(self) -> None:
        """End of the run: later calls under this binding raise :class:`ClosedBindingError`."""
        self.closed = True

    def check_open(self, component: str) -> None:
        if self.closed:
            raise ClosedBindingError(
                f"{component} was called after the run that its parameters belong to had ended; "
                "await every call (and every task that makes one) before run() returns"
            )


class Frame:
    """A binding seen from inside one system."""

    __slots__ = ("binding", "prefix", "scope")

    def __init__(self, binding: Binding, scope: ComponentScope, prefix: str = "") -> None:
        self.binding = binding
        self.scope = scope
        self.prefix = prefix


active_frame: ContextVar[Frame | None] = ContextVar("hyperfunc_frame", default=None)


@contextmanager
def bound(frame: Frame | None) -> Iterator[None]:
    """Run the block under ``frame``."""
    token = active_frame.set(frame)
    try:
        yield
    finally:
        active_frame.reset(token)
