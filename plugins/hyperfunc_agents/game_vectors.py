"""Many episodes side by side ("lanes"), stepped as one vector of environments of gymnasium's form.

Two kinds: gymnasium's own vectorised environments (``vector_entry_point``), whose lanes start where the single
environment of each seed starts; and separate environments, of which only those whose episode goes on are stepped.
gymnasium's ``SyncVectorEnv`` does not fit: it goes on stepping finished episodes and seeds lanes by position.
Knows nothing of policies or members.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc_agents.game_environments import (
    SingleEnvironment,
    as_environment_action,
    as_observation,
    gymnasium_module,
    of_dtype,
)

__all__ = ["EnvironmentPool", "Lanes", "LanesStep", "NativeLanes", "SeparateLanes", "native_lanes"]

Flags = NDArray[np.bool_]


class LanesStep(NamedTuple):
    """What one action in every lane led to; rows of lanes that are over mean nothing.

    Attributes:
        observations: a nest of tensors ``[N, …]``.
        rewards: float64 ``[N]``.
        terminated, truncated: bool ``[N]``.
        errors: lane -> what its environment raised.
        infos: lane -> what its environment said, for lanes that ended.
    """

    observations: Any
    rewards: NDArray[np.float64]
    terminated: Flags
    truncated: Flags
    errors: dict[int, Exception]
    infos: dict[int, dict[str, Any]]


class Lanes(Protocol):
    """N episodes side by side."""

    def reset(self) -> Any:
        """Begin all episodes: observations ``[N, …]``."""
        ...

    def step(self, actions: Any, alive: Flags) -> LanesStep:
        """Act in every lane that is ``alive``; ``actions`` is a nest of tensors ``[N, …]``."""
        ...

    def release(self) -> None:
        """The episodes are over: give back what was taken from the pool."""
        ...


class EnvironmentPool:
    """Environments kept between generations: making one costs more than a short episode. Safe from several threads.

    Environments of a factory are kept by seed, since the factory may have built the seed in.
    """

    def __init__(self) -> None:
        self._free: dict[Hashable, list[Any]] = defaultdict(list)
        self._lock = threading.Lock()

    def take(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """A kept one, or a new one."""
        with self._lock:
            if self._free[key]:
                return self._free[key].pop()
        return make()

    def give(self, key: Hashable, environment: Any) -> None:
        with self._lock:
            self._free[key].append(environment)

    def close(self) -> None:
        """Close all that are free."""
        with self._lock:
            kept = [environment for environments in self._free.values() for environment in environments]
            self._free.clear()
        for environment in kept:
            environment.close()


class SeparateLanes:
    """One environment per lane.

    Args:
        source: a gymnasium id or a factory.
        seeds: each lane's.
    """

    def __init__(self, source: str | Callable[[int], Any], seeds: Sequence[int], pool: EnvironmentPool) -> None:
        self._pool = pool
        self._seeds = seeds
        self._keys: list[Hashable] = [source if isinstance(source, str) else (source, seed) for seed in seeds]
        self._environments: list[SingleEnvironment] = [
            pool.take(key, partial(SingleEnvironment, source, seed))
            for key, seed in zip(self._keys, seeds, strict=True)
        ]
        self._seen: list[Any] = []

    def reset(self) -> Any:
        self._seen = [as_observation(e.reset(s)) for e, s in zip(self._environments, self._seeds, strict=True)]
        return _stack(self._seen)

    def step(self, actions: Any, alive: Flags) -> LanesStep:
        count = len(self._environments)
        leaves, structure = pytree.tree_flatten(actions)
        columns = [leaf.unbind() for leaf in leaves]
        step = LanesStep(
            None, np.zeros(count), np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_), {}, {}
        )
        for lane in np.flatnonzero(alive).tolist():
            environment = self._environments[lane]
            action = pytree.tree_unflatten([column[lane] for column in columns], structure)
            try:
                outcome = environment.step(as_environment_action(action, environment.action_space))
            except Exception as error:  # whatever a stranger's environment raises is that episode's failure
                step.errors[lane] = error
                continue
            self._seen[lane] = as_observation(outcome.observation)
            step.rewards[lane] = outcome.reward
            step.terminated[lane], step.truncated[lane] = outcome.terminated, outcome.truncated
            if outcome.terminated or outcome.truncated:
                step.infos[lane] = outcome.info
        return step._replace(observations=_stack(self._seen))

    def release(self) -> None:
        """Give the environments back to the pool."""
        for key, environment in zip(self._keys, self._environments, strict=True):
            self._pool.give(key, environment)
        self._environments = []


class NativeLanes:
    """gymnasium's own vectorised environment, with every lane in the state in which its seed starts.

    Its ``reset(seed)`` seeds all lanes at once, which would give each member other episodes. The single environment is
    therefore reset with each seed, and its state copied into the lanes of that seed.

    Args:
        vector: made by ``make_vec(…, vectorization_mode="vector_entry_point")``, with a lane per seed.
        starts: seed -> (state, observation) of the single environment.
        seeds: each lane's.
        release: called when the lanes are no longer needed.
    """

    def __init__(
        self,
        vector: Any,
        starts: dict[int, tuple[NDArray[Any], NDArray[Any]]],
        seeds: Sequence[int],
        release: Callable[[], None],
    ) -> None:
        self._vector = vector
        self.release = release
        self._states = np.stack([starts[seed][0] for seed in seeds], axis=-1)  # [S, N]
        self._observations = np.stack([starts[seed][1] for seed in seeds])
        space = vector.single_action_space
        self._shape, self._dtype = (len(seeds), *space.shape), space.dtype

    def reset(self) -> Any:
        self._vector.reset(seed=0)
        self._vector.unwrapped.state = self._states.copy()
        return torch.from_numpy(self._observations.copy())

    def step(self, actions: Any, alive: Flags) -> LanesStep:
        array = of_dtype(actions.numpy().reshape(self._shape), self._dtype, self._vector.single_action_space)
        observations, rewards, terminated, truncated, _ = self._vector.step(array)
        # Contiguous: CartPole hands out a transposed view, on which small matrix products take five times as long.
        seen = torch.from_numpy(np.ascontiguousarray(observations))
        return LanesStep(seen, rewards, terminated, truncated, {}, {})


def native_lanes(source: Any, seeds: Sequence[int], pool: EnvironmentPool) -> NativeLanes | None:
    """gymnasium's vectorised form of ``source`` for these lanes; ``None`` where there is none, or where its state is
    no plain array that can be set."""
    if not isinstance(source, str):
        return None
    gymnasium = gymnasium_module()
    spec = gymnasium.spec(source)
    if spec.vector_entry_point is None or spec.entry_point is None:
        return None
    single = pool.take(source, lambda: SingleEnvironment(source, 0))
    try:
        starts = {}
        for seed in dict.fromkeys(seeds):
            observation = single.reset(seed)
            state = getattr(single.raw.unwrapped, "state", None)
            if not isinstance(state, np.ndarray) or state.ndim != 1 or not _is_plain(observation):
                return None
            starts[seed] = (state.copy(), np.asarray(observation, dtype=np.float32))
    finally:
        pool.give(source, single)

    def make() -> Any:
        return gymnasium.make_vec(source, num_envs=len(seeds), vectorization_mode="vector_entry_point")

    key = ("vector", source, len(seeds))
    vector = pool.take(key, make)
    vector.reset(seed=0)
    state = getattr(vector.unwrapped, "state", None)
    size = len(next(iter(starts.values()))[0])
    if not isinstance(state, np.ndarray) or state.shape != (size, len(seeds)):
        pool.give(key, vector)
        return None
    return NativeLanes(vector, starts, seeds, lambda: pool.give(key, vector))


def _is_plain(observation: Any) -> bool:
    return isinstance(observation, np.ndarray) and observation.dtype == np.float32


def _stack(observations: Sequence[Any]) -> Any:
    """Observations of all lanes as one nest ``[N, …]``."""
    structures = [pytree.tree_flatten(observation) for observation in observations]
    columns = zip(*(leaves for leaves, _ in structures), strict=True)
    stacked = [torch.stack(list(c)) if isinstance(c[0], Tensor) else c[0] for c in columns]
    return pytree.tree_unflatten(stacked, structures[0][1])
