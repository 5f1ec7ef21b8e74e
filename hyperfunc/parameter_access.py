"""What a system is asked about its parameters: components, θ, tensors and texts, files. Knows nothing of runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfunc.errors import UnknownParameterError
from hyperfunc.function import HyperFunction
from hyperfunc.parameters.files import load_theta, save_theta
from hyperfunc.parameters.theta import JSONValue, Theta, ThetaValue
from hyperfunc.registry import Registry

__all__ = ["ParameterAccess"]


class ParameterAccess:
    """The part of :class:`~hyperfunc.system.HyperSystem` that reads and writes what its registry holds."""

    _registry: Registry

    @property
    def registry(self) -> Registry:
        """What the system consists of: components, nested systems, current θ."""
        return self._registry

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
        """Load what :meth:`save` or a result's ``export`` wrote; a part of θ is fine, unknown names are an error."""
        self.set_theta(load_theta(Path(path) / "theta" if Path(path).is_dir() else path))

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
