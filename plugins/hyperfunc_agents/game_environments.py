"""Single environments: found by name, made, and spoken to in tensors. Knows nothing of policies or populations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfunc.errors import ConfigurationError, MissingDependencyError
from hyperfunc.plugins import current_plugins
from hyperfunc_agents.game_tensor import TensorEnvironment

__all__ = [
    "SingleEnvironment",
    "StepOutcome",
    "as_environment_action",
    "as_observation",
    "gymnasium_module",
    "of_dtype",
    "resolve_environment",
]


def gymnasium_module() -> Any:
    """The gymnasium package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise MissingDependencyError("gymnasium", "agents") from error
    return gymnasium


def resolve_environment(environment: Any) -> TensorEnvironment | str | Callable[[int], Any]:
    """What an example's ``env`` stands for: a tensor environment, a gymnasium id, or a factory ``(seed) -> env``.

    A name registered by a plugin comes before a gymnasium id.

    Raises:
        ConfigurationError: it is none of these, or no environment has this name.
        MissingDependencyError: a gymnasium id, and gymnasium is not installed.
    """
    if isinstance(environment, str):
        catalogue = current_plugins().registry("environments")
        if environment in catalogue:
            return resolve_environment(catalogue.get(environment))
        gymnasium = gymnasium_module()
        try:
            gymnasium.spec(environment)
        except gymnasium.error.Error as error:
            names = ", ".join(catalogue.names()) or "none"
            raise ConfigurationError(
                f"no environment named {environment!r}: gymnasium says {error}; registered by plugins: {names}"
            ) from error
        return environment
    if inspect.isclass(environment) and issubclass(environment, TensorEnvironment):
        made: TensorEnvironment = environment()
        return made
    if isinstance(environment, TensorEnvironment):
        return environment
    if callable(environment):
        factory: Callable[[int], Any] = environment
        return factory
    raise ConfigurationError(
        "env: expected a gymnasium id, a registered name, a factory (seed) -> environment or a TensorEnvironment, "
        f"got {environment!r}"
    )


class StepOutcome(NamedTuple):
    """What one action led to."""

    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class SingleEnvironment:
    """One environment of gymnasium's form for one episode after the other; close it when done.

    Args:
        source: an id, or a factory ``(seed) -> environment`` (asked once; later episodes are ``reset(seed=…)``).
        seed: of the first episode.
    """

    def __init__(self, source: str | Callable[[int], Any], seed: int) -> None:
        if isinstance(source, str):
            # The checker only warns of what its author got wrong, and costs as much as a small environment's step.
            self.raw = gymnasium_module().make(source, disable_env_checker=True)
        else:
            self.raw = source(seed)
            if not (callable(getattr(self.raw, "reset", None)) and callable(getattr(self.raw, "step", None))):
                raise ConfigurationError(
                    f"env: the factory {source!r} returned a {type(self.raw).__name__} without reset() and step()"
                )
        self.action_space = getattr(self.raw, "action_space", None)

    def reset(self, seed: int) -> Any:
        """Begin the episode of this seed; returns the first observation as it comes."""
        observation, _ = self.raw.reset(seed=seed)
        return observation

    def step(self, action: Any) -> StepOutcome:
        """One action, as the environment wants it."""
        observation, reward, terminated, truncated, info = self.raw.step(action)
        return StepOutcome(observation, float(reward), bool(terminated), bool(truncated), info)

    def close(self) -> None:
        close = getattr(self.raw, "close", None)
        if close is not None:
            close()


def as_observation(observation: Any) -> Any:
    """An observation as ``run`` gets it: numbers and arrays as tensors (floats as float32, whole numbers as int64,
    flags as bool), nests kept, anything else (text) as it is."""
    if isinstance(observation, Tensor):
        return observation
    if isinstance(observation, Mapping):
        return {key: as_observation(value) for key, value in observation.items()}
    if isinstance(observation, tuple):
        return tuple(as_observation(value) for value in observation)
    if isinstance(observation, (np.ndarray, np.generic, bool, int, float)):
        array = np.asarray(observation)
        kind = array.dtype.kind
        if kind in "fiub":
            wanted = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}[kind]
            if array.dtype == np.uint8 and array.ndim:
                wanted = np.uint8  # pixels stay one byte each
            # A copy: environments reuse their buffers, and an observation may be kept.
            return torch.from_numpy(np.array(array, dtype=wanted))
    return observation


def as_environment_action(action: Any, space: Any) -> Any:
    """``run``'s action as the environment wants it.

    Args:
        action: a number, an array, a tensor, or what else the space holds.
        space: the environment's ``action_space``; ``None``: a 0-dim tensor becomes a number, others an array.

    Raises:
        ConfigurationError: numbers whose shape is not that of the space, or fractions where it has whole numbers.
    """
    if isinstance(action, Mapping):
        return {key: as_environment_action(value, _part(space, key)) for key, value in action.items()}
    if isinstance(action, tuple):
        return tuple(as_environment_action(value, _part(space, at)) for at, value in enumerate(action))
    if not isinstance(action, (Tensor, np.ndarray, np.generic, int, float)):
        return action
    array = action.detach().cpu().numpy() if isinstance(action, Tensor) else np.asarray(action)
    shape, dtype = getattr(space, "shape", None), getattr(space, "dtype", None)
    if shape is None:
        return array.item() if array.ndim == 0 else array
    if array.shape != shape:
        if array.size == 1 == int(np.prod(shape)):
            array = array.reshape(shape)
        else:
            raise ConfigurationError(
                f"action: the environment expects the shape {tuple(shape)} ({space}), run() answered {array.shape}"
            )
    array = of_dtype(array, dtype, space)
    return int(array) if shape == () and array.dtype.kind in "iu" else array


def of_dtype(array: NDArray[Any], dtype: Any, space: Any) -> NDArray[Any]:
    """``array`` in the numbers of ``space``, of which ``dtype`` is the type (``None``: as it is).

    Raises:
        ConfigurationError: it would lose fractions: 0.7 is no action 0.
    """
    if dtype is None:
        return array
    if array.dtype.kind == "f" and np.dtype(dtype).kind in "iu":
        whole = np.isfinite(array) & (array == np.floor(array))
        if not whole.all():
            raise ConfigurationError(
                f"action: the environment expects whole numbers ({space}), run() answered {array[~whole].flat[0]:.4g}; "
                "choose one, for example with argmax(-1)"
            )
    return array.astype(dtype, copy=False)


def _part(space: Any, key: Any) -> Any:
    spaces = getattr(space, "spaces", None)
    return None if spaces is None else spaces[key]
