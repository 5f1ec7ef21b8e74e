"""The proof that lifted episodes are right, step by step: along the lifted episodes, single calls must answer the same.

Comparing whole episodes would not do: an episode amplifies the last bit of a kernel until, in a chaotic environment,
nothing agrees any more. So the calls are compared: from what the lifted episode saw, in the state in which it was, one
call of one member alone must give the same action and state. And a vectorised environment must answer the recorded
actions as its single form does. Knows nothing of how episodes are run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.population.inputs import InputGroup
from hyperfunc.population.lifted import LiftRefusedError
from hyperfunc.population.members import MemberBlock
from hyperfunc.population.proof import first_difference, reference_run
from hyperfunc.program import Program
from hyperfunc_agents.game_environments import SingleEnvironment, as_environment_action, as_observation
from hyperfunc_agents.game_vectors import EnvironmentPool, LanesStep

__all__ = ["ProofStep", "StepProof", "environment_difference"]

MOST_CALLS = 1024
"""Single calls made for one proof, spread evenly over the watched episodes and over each one's steps."""

TOLERATED = 1 / 256
"""Share of calls that may differ: where two actions are all but equally good, the last bit of a kernel decides."""


class ProofStep(NamedTuple):
    """One recorded step of one lane: what went in, what came out, and what the environment made of it."""

    given: Any
    answer: Any
    observation: Any
    reward: float
    terminated: bool
    truncated: bool


class StepProof:
    """Records some lanes and checks them afterwards.

    Args:
        program: one call, of inputs ``{"nest": …, "arguments": …}``.
        block: the members.
        group: the episodes' further arguments.
        watched: pairs (member, episode).
        episodes: episodes per member.
    """

    def __init__(
        self,
        program: Program,
        block: MemberBlock,
        group: InputGroup,
        watched: Sequence[tuple[int, int]],
        episodes: int,
    ) -> None:
        self._program = program
        self._block = block
        self._group = group
        self._episodes = episodes
        self._steps: dict[tuple[int, int], list[ProofStep]] = {pair: [] for pair in watched}

    def record(self, alive: NDArray[np.bool_], given: Any, answers: Any, step: LanesStep | None) -> None:
        """Keep this step of the watched lanes that are ``alive``; nests are ``[P, E, …]``."""
        for (member, episode), steps in self._steps.items():
            lane = member * self._episodes + episode
            if alive[lane] and (step is None or lane not in step.errors):
                inside, outside = _pick(given, (member, episode)), _pick(answers, (member, episode))
                if step is None:
                    steps.append(ProofStep(inside, outside, None, 0.0, False, False))
                else:
                    seen = _pick(step.observations, (lane,))
                    ends = bool(step.terminated[lane]), bool(step.truncated[lane])
                    steps.append(ProofStep(inside, outside, seen, float(step.rewards[lane]), *ends))

    def steps_of(self, member: int, episode: int) -> list[ProofStep]:
        return self._steps[member, episode]

    def check(self, runner: asyncio.Runner) -> None:
        """Make the calls one by one.

        Raises:
            LiftRefusedError: too many disagree, or a call raised.
        """
        each = max(1, MOST_CALLS // max(1, len(self._steps)))
        pairs: list[tuple[Any, Any]] = []
        where: list[str] = []
        for (member, episode), steps in self._steps.items():
            chosen = sorted({round(at) for at in np.linspace(0, len(steps) - 1, min(each, len(steps)))})
            for number in chosen:
                answer = self._alone(member, episode, steps[number].given, runner)
                pairs.append((steps[number].answer, answer))
                where.append(f"member {member}, episode {episode}, step {number}")
        allowed = int(len(pairs) * TOLERATED)
        found = first_difference(pairs)
        while found is not None:
            position, why = found
            if allowed == 0:
                raise LiftRefusedError(f"lifted and single calls disagree at {where[position]}: {why}")
            allowed -= 1
            del pairs[position], where[position]
            found = first_difference(pairs)

    def _alone(self, member: int, episode: int, given: Any, runner: asyncio.Runner) -> Any:
        inputs = {"nest": given, "arguments": self._group.inputs(tuple(t[episode] for t in self._group.tensors))}
        try:
            reference = runner.run(reference_run(self._program, self._block, member, inputs))
        except LiftRefusedError:
            raise
        except Exception as error:
            raise LiftRefusedError(f"a call alone raised {type(error).__name__}: {error}") from error
        if reference.suspended:
            raise LiftRefusedError(f"{reference.suspended[0]} waited for something outside the program")
        return reference.output


def _pick(nest: Any, at: tuple[int, ...]) -> Any:
    """One lane's part of a nest, as copies: the nest may be written to later."""
    return pytree.tree_map(lambda leaf: leaf[at].clone() if isinstance(leaf, Tensor) else leaf, nest)


def environment_difference(source: str, seed: int, steps: Sequence[ProofStep], pool: EnvironmentPool) -> str | None:
    """Whether the single environment answers the recorded actions otherwise than the vectorised one did, and how."""
    environment: SingleEnvironment = pool.take(source, lambda: SingleEnvironment(source, seed))
    try:
        environment.reset(seed)
        for number, step in enumerate(steps):
            answer: Mapping[str, Any] = step.answer
            alone = environment.step(as_environment_action(answer["action"], environment.action_space))
            seen = as_observation(alone.observation)
            if not torch.allclose(seen, step.observation, rtol=1e-4, atol=1e-5):
                return f"step {number} of seed {seed}: it shows {step.observation.tolist()}, not {seen.tolist()}"
            if (alone.reward, alone.terminated, alone.truncated) != (step.reward, step.terminated, step.truncated):
                return f"step {number} of seed {seed}: another reward or end"
        return None
    finally:
        pool.give(source, environment)
