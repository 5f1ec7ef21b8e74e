"""From an example's inputs to one episode's terms: which environment, which seed, how long. Knows no environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hyperfunc.errors import ConfigurationError
from hyperfunc.evaluation.example import Example
from hyperfunc.scope import current_scope

__all__ = ["EpisodeTerms", "episode_terms", "episodes"]


@dataclass(frozen=True)
class EpisodeTerms:
    """One episode's terms.

    Attributes:
        environment: as given: an id, a factory, a tensor environment.
        seed: of the environment.
        max_steps: most actions; ``None``: as many as the environment allows.
        arguments: further keyword arguments of every call of ``run`` (a goal, a hint).
    """

    environment: Any
    seed: int
    max_steps: int | None
    arguments: Mapping[str, Any]


def episode_terms(inputs: Mapping[str, Any]) -> EpisodeTerms:
    """The terms that ``inputs={"env": …, "seed": …, "max_steps": …}`` name; without a seed, the run's own.

    Raises:
        ConfigurationError: no environment, or a seed or limit that is no whole number in range.
    """
    arguments = dict(inputs)
    if "env" not in arguments:
        raise ConfigurationError(
            'a GAME example names its environment: inputs={"env": "CartPole-v1", "seed": 0, "max_steps": 500}; '
            f"got {', '.join(sorted(arguments)) or 'nothing'}"
        )
    environment = arguments.pop("env")
    seed = arguments.pop("seed", None)
    if seed is None:
        seed = current_scope().seed
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigurationError(f"seed: expected a whole number >= 0, got {seed!r}")
    max_steps = arguments.pop("max_steps", None)
    if max_steps is not None and (isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1):
        raise ConfigurationError(f"max_steps: expected a whole number >= 1, got {max_steps!r}")
    return EpisodeTerms(environment, seed, max_steps, arguments)


def episodes(
    env: Any, seeds: Iterable[int] | int = 1, *, max_steps: int | None = None, **arguments: Any
) -> list[Example]:
    """One example per episode. Every member of a population meets the same ones: common random numbers.

    Args:
        env: an environment's id, a factory ``(seed) -> environment``, or a tensor environment.
        seeds: the episodes' seeds, or how many: 0, 1, …
        max_steps: most actions per episode.
        arguments: passed to every call of ``run``.
    """
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    limit = {} if max_steps is None else {"max_steps": max_steps}
    return [Example({"env": env, "seed": seed, **limit, **arguments}, None) for seed in chosen]
