"""What a policy answers and what an episode comes to. Knows neither environments nor how episodes are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

__all__ = ["EpisodeResult", "EpisodeStep", "GameResponse", "ObservationMoments"]


@dataclass(frozen=True)
class GameResponse:
    """What ``run`` of a GAME system answers to one observation; a bare action does as well.

    Attributes:
        action: what to do: a number or a tensor that fits the environment's action space.
        value: the policy's own estimate, for records only.
        metadata: anything else, for records only.
        state: handed to the next step's ``run(observation, state=…)``; a tensor or a nest of tensors.
    """

    action: Any
    value: float | None = None
    metadata: dict[str, Any] | None = None
    state: Any = None


@dataclass(frozen=True)
class EpisodeStep:
    """One step of a recorded episode: what was seen, what was done, what it brought."""

    observation: Any
    action: Any
    reward: float
    value: float | None = None
    metadata: Mapping[str, Any] | None = None


class ObservationMoments(NamedTuple):
    """What an episode's policy saw, summed up.

    Attributes:
        number: observations that it acted on.
        mean: ``[S]`` float64.
        squares: ``[S]`` float64, sums of squared deviations from the mean.
    """

    number: int
    mean: Tensor
    squares: Tensor


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        total_reward: the episode's return, undiscounted.
        steps: number of actions.
        done: the environment came to an end of its own (terminated).
        truncated: a limit cut it short: the environment's own or ``max_steps``.
        final_observation: what was seen last, as ``run`` would have been given it.
        info: what the environment said at the last step (empty for vectorised and tensor environments).
        trajectory: every step, where somebody asked for it (:func:`hyperfunc_agents.play`, or a tape records).
        observed: what was seen, where the system normalises observations.
    """

    total_reward: float = 0.0
    steps: int = 0
    done: bool = False
    truncated: bool = False
    final_observation: Any = None
    info: dict[str, Any] = field(default_factory=dict)
    trajectory: tuple[EpisodeStep, ...] = ()
    observed: ObservationMoments | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, without the trajectory."""
        return {
            "total_reward": self.total_reward,
            "steps": self.steps,
            "done": self.done,
            "truncated": self.truncated,
            "final_observation": _plain(self.final_observation),
            "info": _plain(self.info),
        }

    def describe(self, most_steps: int = 12) -> str:
        """The episode in words, for feedback: how it ended, and at most ``most_steps`` steps, the last ones in full."""
        ending = "reached an end" if self.done else "was cut off by a limit" if self.truncated else "was left"
        lines = [f"The episode {ending} after {self.steps} steps with a return of {self.total_reward:g}."]
        first = max(0, len(self.trajectory) - most_steps)
        if first:
            lines.append(f"({first} earlier steps)")
        for number, step in enumerate(self.trajectory[first:], start=first):
            lines.append(f"step {number}: saw {_short(step.observation)}, did {_short(step.action)}, {step.reward:+g}")
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    return value


def _short(value: Any) -> str:
    plain = _plain(value)
    if isinstance(plain, float):
        return f"{plain:.3g}"
    if isinstance(plain, list):
        shown = ", ".join(_short(item) for item in plain[:16])
        return f"[{shown}{', …' if len(plain) > 16 else ''}]"
    return str(plain)
