"""What one system consists of: its components by name, its nested systems, and its current θ.

Dotted names: a component ``embed`` of a nested system held in the attribute ``reader`` is ``reader.embed``; its tensor
is ``reader.embed.hp``. Knows nothing of how programs are run or optimized.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError, ParameterTypeError, UnknownParameterError
from hyperfunc.function import HyperFunction
from hyperfunc.parameters.protocol import TensorSpec
from hyperfunc.parameters.text import TextParam
from hyperfunc.parameters.theta import JSONValue, Theta, ThetaValue
from hyperfunc.population.noise import generator_for

__all__ = ["Registry", "TensorEntry", "TextEntry"]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor parameter of a system: its dotted name, its declaration and its component."""

    name: str
    component: str
    spec: TensorSpec
    function: HyperFunction[..., Any]


@dataclass(frozen=True)
class TextEntry:
    """A text parameter of a system."""

    name: str
    component: str
    text: TextParam
    function: HyperFunction[..., Any]


class Registry:
    """Components, nested registries and values of one system.

    Args:
        seed: initial values are a pure function of it and of the component's name. A nested system without a seed of
            its own takes one from the system around it and from its name there, so that twins do not start alike.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._place: tuple[int | str, ...] = ()
        self.discovered = False  # the program was run once to let its components register
        self.components: dict[str, HyperFunction[..., Any]] = {}
        self.children: dict[str, Registry] = {}
        self._names: dict[object, str] = {}  # a function's key, shared by its handles -> name
        self._own = Theta()
        self._lock = threading.RLock()

    @property
    def seed_path(self) -> tuple[int | str, ...]:
        """What initial values are drawn from, beside the component's name."""
        return (self._seed,) if self._seed is not None else (self._place or (0,))

    def set_seed(self, seed: int | None) -> None:
        """Seed components that are not registered yet, here and in nested systems without seeds of their own."""
        self._seed = seed
        self._place_children()

    def _place_children(self) -> None:
        for name, child in self.children.items():
            child._place = (*self.seed_path, name)
            child._place_children()

    # --- components ----------------------------------------------------------------------------------------------

    def component_name(self, function: Any) -> str:
        """The name of ``function`` here; its first call registers it."""
        name = self._names.get(function.key)
        return name if name is not None else self.register(function)

    def register(self, function: HyperFunction[..., Any], hp_init: Tensor | None = None) -> str:
        """Add ``function`` with an explicit or a seeded initial value; returns its name.

        Raises:
            ConfigurationError: another function has this name.
            ShapeError: ``hp_init`` has the wrong size.
        """
        with self._lock:
            known = self.components.get(function.name)
            if known is not None and not known.same_component(function):
                raise ConfigurationError(
                    f"two functions named {function.name!r} in one system would share parameters; "
                    f"give one another name: {function.name}.named('…') or @hyperfunction(name='…')"
                )
            if function.name in self.children:
                raise ConfigurationError(f"{function.name!r} is already the name of a nested system here")
            values: dict[str, ThetaValue] = {}
            if known is None or hp_init is not None:
                values = self._initial(function, hp_init)
            self.components[function.name] = known or function
            self._names[function.key] = function.name
            if values:
                self._own = self._own.replace(values, strict=False)
            function.owners.add(self)
            return function.name

    def _initial(self, function: HyperFunction[..., Any], hp_init: Tensor | None) -> dict[str, ThetaValue]:
        values: dict[str, ThetaValue] = {}
        if hp_init is not None and len(function.tensor_specs) != 1:
            raise ParameterTypeError(
                f"{function.name} has {len(function.tensor_specs)} tensor parameters; hp_init= needs exactly one "
                "(set several with system.set_theta)"
            )
        for spec in function.tensor_specs:
            if hp_init is not None:
                value = spec.check(function.name, hp_init)
            else:
                value = spec.initial_value(generator_for(*self.seed_path, "initial", function.name, spec.name))
            values[f"{function.name}.{spec.name}"] = value
        for name, text in function.texts.items():
            values[f"{function.name}.{name}"] = text.value
        return values

    def initial_values(self, name: str) -> Mapping[str, Any]:
        """Current values of one component, by parameter name."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self._own.items() if key.startswith(prefix)}

    def add_child(self, name: str, child: Registry) -> None:
        """Nest ``child`` under ``name``.

        Raises:
            ConfigurationError: the name is taken by a component, or the nesting would be circular.
        """
        if name in self.components:
            raise ConfigurationError(f"{name!r} is already the name of a component here")
        if child is self or any(r is self for r in child.walk()):
            raise ConfigurationError(f"{name!r} would nest a system inside itself")
        self.children[name] = child
        child._place = child._place or (*self.seed_path, name)
        child._place_children()

    def child_name(self, child: Registry) -> str | None:
        return next((n for n, c in self.children.items() if c is child), None)

    def walk(self) -> Iterator[Registry]:
        """This registry and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def _unique_children(self) -> dict[str, Registry]:
        """One name per nested system: a system held in two attributes has one set of parameters."""
        seen: set[int] = set()
        return {n: c for n, c in self.children.items() if id(c) not in seen and not seen.add(id(c))}  # type: ignore[func-returns-value]

    def all_components(self) -> dict[str, HyperFunction[..., Any]]:
        """Dotted name -> function, nested systems included."""
        found = dict(self.components)
        for name, child in self._unique_children().items():
            found.update({f"{name}.{k}": v for k, v in child.all_components().items()})
        return found

    def tensor_entries(self) -> list[TensorEntry]:
        """Every tensor parameter, in component order."""
        return [
            TensorEntry(f"{component}.{spec.name}", component, spec, function)
            for component, function in self.all_components().items()
            for spec in function.tensor_specs
        ]

    def text_entries(self) -> list[TextEntry]:
        """Every text parameter, in component order."""
        return [
            TextEntry(f"{component}.{name}", component, text, function)
            for component, function in self.all_components().items()
            for name, text in function.texts.items()
        ]

    # --- values --------------------------------------------------------------------------------------------------

    @property
    def theta(self) -> Theta:
        """The current θ, nested systems included."""
        values: dict[str, ThetaValue] = dict(self._own)
        for name, child in self._unique_children().items():
            values.update({f"{name}.{k}": v for k, v in child.theta.items()})
        return Theta(values)

    def set_theta(self, changes: Mapping[str, ThetaValue]) -> None:
        """Replace values by dotted name; all or nothing.

        Raises:
            UnknownParameterError, ShapeError, ParameterTypeError: nothing was changed.
        """
        self.theta.replace(changes)  # checks every name, shape and type before anything changes
        self._apply(changes)

    def _apply(self, changes: Mapping[str, ThetaValue]) -> None:
        own: dict[str, ThetaValue] = {}
        below: dict[str, dict[str, ThetaValue]] = {}
        for name, value in changes.items():
            head, _, rest = name.partition(".")
            if head in self.children:
                below.setdefault(head, {})[rest] = value
            else:
                own[name] = value
        with self._lock:
            self._own = self._own.replace(own)
        for head, nested in below.items():
            self.children[head]._apply(nested)

    def hp_state(self) -> dict[str, Tensor]:
        """Tensors by component (0.3's form): ``component -> tensor``; a module's by ``component.parameter``."""
        return {name.removesuffix(".hp"): tensor for name, tensor in self.theta.tensors.items()}

    def set_hp_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace tensors, named as in :meth:`hp_state` or by full dotted name; flat tensors are reshaped."""
        self.set_theta(self.tensor_names(state))

    def tensor_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``state`` by full dotted name, flat tensors reshaped.

        Raises:
            UnknownParameterError: a name is neither a component's nor a parameter's.
        """
        tensors = self.theta.tensors
        changes: dict[str, Tensor] = {}
        for name, value in state.items():
            full = name if name in tensors else f"{name}.hp"
            if full not in tensors:
                raise UnknownParameterError(name, self.hp_state())
            old = tensors[full]
            value = torch.as_tensor(value)
            if value.shape != old.shape and value.numel() == old.numel():
                value = value.reshape(old.shape)
            changes[full] = value.detach().to(old.dtype).clone()
        return changes

    def set_text(self, component: str, value: JSONValue, name: str = "prompt") -> None:
        self.set_theta({f"{component}.{name}": value})
