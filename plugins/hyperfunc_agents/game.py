"""GAME: one example is one episode; ``run(observation)`` is called once per step.

This file runs one episode, one step after the other, under the binding that is active: the meaning of everything else.
How a population's episodes are run together is in :mod:`hyperfunc_agents.game_block`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import torch

from hyperfunc.parameters.theta import ThetaValue
from hyperfunc.tape import current_tape
from hyperfunc_agents.game_block import GameBlocks
from hyperfunc_agents.game_environments import (
    SingleEnvironment,
    as_environment_action,
    as_observation,
    resolve_environment,
)
from hyperfunc_agents.game_inputs import EpisodeTerms, episode_terms
from hyperfunc_agents.game_results import EpisodeResult, EpisodeStep, GameResponse, ObservationMoments
from hyperfunc_agents.game_statistics import Seen, moments, normalizers_of, see, unseen
from hyperfunc_agents.game_tensor import Act, TensorEnvironment, advance, begin

__all__ = ["Game", "play"]

Run = Callable[..., Awaitable[Any]]


class Game:
    """The agent type ``"game"``.

    ``run`` gets the observation, further inputs of the example as keyword arguments, and, where it has a parameter
    ``state``, the state of its last :class:`GameResponse` (``None`` at the first step).
    """

    liftable: ClassVar[bool] = False

    async def run_example(self, run: Run, inputs: Mapping[str, Any], system: Any) -> EpisodeResult:
        """One episode, from reset to its end.

        Raises:
            ConfigurationError: the inputs name no episode, or an action does not fit.
        """
        terms = episode_terms(inputs)
        environment = resolve_environment(terms.environment)
        steps: list[EpisodeStep] | None = None if current_tape() is None else []
        act = policy(run)
        size = next(iter(normalizers_of(system).values()), None)
        if isinstance(environment, TensorEnvironment):
            return await _tensor_episode(environment, act, terms, steps, size)
        return await _episode(environment, act, terms, steps, size)

    def block_executor(self, run: Run, system: Any) -> GameBlocks:
        return GameBlocks(policy(run), normalizers_of(system))


def policy(run: Run) -> Act:
    """``run`` as a function of (observation, state, further arguments) that always answers a :class:`GameResponse`."""
    is_recurrent = "state" in inspect.signature(run).parameters

    async def act(observation: Any, state: Any, arguments: Mapping[str, Any]) -> GameResponse:
        if is_recurrent:
            answer = await run(observation, **arguments, state=state)
        else:
            answer = await run(observation, **arguments)
        return answer if isinstance(answer, GameResponse) else GameResponse(answer)

    return act


async def _episode(
    source: str | Callable[[int], Any],
    act: Act,
    terms: EpisodeTerms,
    recorded: list[EpisodeStep] | None,
    size: int | None,
) -> EpisodeResult:
    environment = SingleEnvironment(source, terms.seed)
    try:
        observation = as_observation(environment.reset(terms.seed))
        memory, total, steps = None, 0.0, 0
        seen, live = None if size is None else unseen(size), torch.tensor(True)
        while True:
            seen = None if seen is None else see(seen, observation, live)
            response = await act(observation, memory, terms.arguments)
            action = as_environment_action(response.action, environment.action_space)
            after = environment.step(action)
            if recorded is not None:
                recorded.append(EpisodeStep(observation, action, after.reward, response.value, response.metadata))
            observation, memory = as_observation(after.observation), response.state
            total += after.reward
            steps += 1
            out_of_steps = terms.max_steps is not None and steps >= terms.max_steps
            if after.terminated or after.truncated or out_of_steps:
                truncated = after.truncated or (out_of_steps and not after.terminated)
                return EpisodeResult(
                    total,
                    steps,
                    after.terminated,
                    truncated,
                    observation,
                    after.info,
                    tuple(recorded or ()),
                    _observed(seen),
                )
    finally:
        environment.close()


async def _tensor_episode(
    environment: TensorEnvironment,
    act: Act,
    terms: EpisodeTerms,
    recorded: list[EpisodeStep] | None,
    size: int | None,
) -> EpisodeResult:
    responses: list[GameResponse] = []

    async def heard(observation: Any, state: Any, arguments: Mapping[str, Any]) -> GameResponse:
        response = await act(observation, state, arguments)
        responses.append(response)
        return response

    progress = begin(environment, terms.seed, terms.max_steps, size)
    while not (progress.done or progress.truncated):
        before = progress
        progress = await advance(environment, heard, progress, terms.arguments, 1)
        response = responses.pop()
        if recorded is not None:
            reward = float(progress.total - before.total)
            seen = environment.observe(before.state)
            recorded.append(EpisodeStep(seen, response.action, reward, response.value, response.metadata))
    return EpisodeResult(
        float(progress.total),
        int(progress.steps),
        bool(progress.done),
        bool(progress.truncated),
        environment.observe(progress.state),
        trajectory=tuple(recorded or ()),
        observed=_observed(progress.seen),
    )


def _observed(seen: Seen | None) -> ObservationMoments | None:
    return None if seen is None else moments(Seen(*(value.unsqueeze(0) for value in seen)))[0]


async def play(
    system: Any,
    env: Any,
    seed: int = 0,
    *,
    max_steps: int | None = None,
    theta: Mapping[str, ThetaValue] | None = None,
    **arguments: Any,
) -> EpisodeResult:
    """Play one episode and record its trajectory.

    Args:
        system: a system of agent type ``"game"``.
        env, seed, max_steps, arguments: as in :func:`hyperfunc_agents.episodes`.
        theta: values in place of the system's own.
    """
    inputs = {"env": env, "seed": seed, "max_steps": max_steps, **arguments}
    result, _ = await system.execute(inputs, record=True, theta=theta)
    assert isinstance(result, EpisodeResult)
    return result
