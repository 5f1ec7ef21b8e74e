"""A block of members playing all its episodes at once: ``run`` is lifted once per step over members × episodes.

Lanes are numbered member by member: lane = member · episodes + episode. A kernel always has the shape of its block,
also when most episodes are over, so that nobody's bits depend on how long the others last. Knows nothing of strategies
or of how the choice between lifted and gathered is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.population.inputs import InputGroup, group_inputs
from hyperfunc.population.lifted import LiftRefusedError
from hyperfunc.population.members import MemberBlock, member_count
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.program import Program, RunStatistics
from hyperfunc_agents.game_environments import resolve_environment
from hyperfunc_agents.game_inputs import EpisodeTerms, episode_terms
from hyperfunc_agents.game_kernel import StepKernel
from hyperfunc_agents.game_proof import StepProof, environment_difference
from hyperfunc_agents.game_replay import ReplayDiffersError
from hyperfunc_agents.game_results import EpisodeResult, ObservationMoments
from hyperfunc_agents.game_statistics import NormalizerStatistics, Seen, moments, see, unseen
from hyperfunc_agents.game_tensor import Act, Progress, TensorEnvironment, advance, begin
from hyperfunc_agents.game_vectors import EnvironmentPool, Lanes, LanesStep, SeparateLanes, native_lanes

__all__ = ["GameBlocks"]

STEPS_PER_KERNEL = 16
"""Actions that a tensor environment takes between two looks at who is still playing."""


class GameBlocks:
    """Runs blocks of members of one GAME system.

    Args:
        policy: the system's ``run``, as :func:`hyperfunc_agents.game.policy` makes it.
        normalizers: where the statistics of observations stand in θ -> numbers in one observation.
    """

    def __init__(self, policy: Act, normalizers: Mapping[str, int]) -> None:
        self._policy = policy
        self._size = next(iter(normalizers.values()), None)
        self.statistics: RunStatistics | None = NormalizerStatistics(tuple(normalizers)) if normalizers else None
        self._pool = EnvironmentPool()
        self._replays = True  # until a replayed step is found to be wrong
        self._not_native: dict[str, str] = {}  # gymnasium id -> why its vectorised form is not used

    def close(self) -> None:
        self._pool.close()

    def run_block(
        self,
        program: Program,
        block: MemberBlock,
        inputs: Sequence[Mapping[str, Any]],
        runner: asyncio.Runner,
        *,
        proof: Collection[tuple[int, int]] = (),
    ) -> BlockOutcome:
        """See :class:`hyperfunc.program.BlockExecutor`."""
        members = member_count(block)
        outcome = BlockOutcome(members, len(inputs), rows=[[None] * len(inputs) for _ in range(members)])
        with torch.no_grad():
            for environment, terms, group in _groups(inputs):
                wanted = sorted((m, group.examples.index(e)) for m, e in proof if e in group.examples)
                play = _Play(self, program, block, members, environment, terms, group, runner, wanted)
                for (member, episode), result in play.results().items():
                    example = group.examples[episode]
                    if isinstance(result, Exception):
                        outcome.errors[member, example] = result
                    else:
                        outcome.rows[member][example] = result  # type: ignore[index]
        return outcome


def _groups(
    inputs: Sequence[Mapping[str, Any]],
) -> list[tuple[Any, list[EpisodeTerms], InputGroup]]:
    """Episodes that one vector can hold: of one environment, with arguments of equal shapes and constants."""
    terms = [episode_terms(example) for example in inputs]
    by_environment: dict[Any, list[int]] = {}
    for position, each in enumerate(terms):
        name = each.environment
        by_environment.setdefault(name if isinstance(name, str) else id(name), []).append(position)
    found = []
    for positions in by_environment.values():
        environment = resolve_environment(terms[positions[0]].environment)
        for group in group_inputs([terms[p].arguments for p in positions]):
            chosen = tuple(positions[p] for p in group.examples)
            found.append((environment, [terms[p] for p in chosen], replace(group, examples=chosen)))
    return found


class _Play:
    """One group of episodes of one block, from reset to the last one's end."""

    def __init__(
        self,
        blocks: GameBlocks,
        program: Program,
        block: MemberBlock,
        members: int,
        environment: Any,
        terms: list[EpisodeTerms],
        group: InputGroup,
        runner: asyncio.Runner,
        proof: list[tuple[int, int]],
    ) -> None:
        self.blocks = blocks
        self.members = members
        self.episodes = len(terms)
        self.environment = environment
        self.terms = terms
        self.group = group
        self.block = block
        self.runner = runner
        self.program = program
        self.watched = proof

    def results(self) -> dict[tuple[int, int], EpisodeResult | Exception]:
        try:
            if isinstance(self.environment, TensorEnvironment):
                return self._tensor_results(self.environment)
            lanes, is_native = self._lanes()
            try:
                return self._play(lanes, is_native)
            finally:
                lanes.release()
        except _NativeRefusedError as refusal:
            self.blocks._not_native[self.environment] = str(refusal)
        except ReplayDiffersError:
            self.blocks._replays = False
        return self.results()

    def _kernel(self, step: Callable[[Mapping[str, Any]], Awaitable[Any]]) -> StepKernel:
        return StepKernel(
            self.program, step, self.block, self.members, self.group, self.runner, replays=self.blocks._replays
        )

    # --- environments of gymnasium's form ------------------------------------------------------------------------

    def _lanes(self) -> tuple[Lanes, bool]:
        seeds = [each.seed for each in self.terms] * self.members
        if self.environment not in self.blocks._not_native:
            native = native_lanes(self.environment, seeds, self.blocks._pool)
            if native is not None:
                return native, True
        return SeparateLanes(self.environment, seeds, self.blocks._pool), False

    def _play(self, lanes: Lanes, is_native: bool) -> dict[tuple[int, int], EpisodeResult | Exception]:
        act = self.blocks._policy

        async def answer(inputs: Mapping[str, Any]) -> Any:
            observation, memory = inputs["nest"]
            response = await act(observation, memory, inputs["arguments"])
            return {"action": response.action, "state": response.state}

        kernel = self._kernel(answer)
        proof = StepProof(kernel.program, self.block, self.group, self.watched, self.episodes)
        limits = [each.max_steps for each in self.terms] * self.members
        tally = _Tally(self.members * self.episodes, limits, self.blocks._size)
        observations, memory = self._by_member(lanes.reset()), None
        while tally.alive.any():
            tally.see(observations)
            answers = kernel((observations, memory))
            actions = pytree.tree_map(lambda leaf: self._by_lane(leaf), answers["action"])
            step = lanes.step(actions, tally.alive)
            proof.record(tally.alive, (observations, memory), answers, step)
            tally.add(step)
            observations, memory = self._by_member(step.observations), answers["state"]
        kernel.refuse_state()
        proof.check(self.runner)
        if is_native:
            for member, episode in self.watched:
                terms = self.terms[episode]
                why = environment_difference(
                    self.environment, terms.seed, proof.steps_of(member, episode), self.blocks._pool
                )
                if why is not None:
                    raise _NativeRefusedError(why)
        return {divmod(lane, self.episodes): result for lane, result in enumerate(tally.results())}

    def _by_member(self, nest: Any) -> Any:
        """``[P·E, …]`` as ``[P, E, …]``."""
        shape = (self.members, self.episodes)
        return pytree.tree_map(lambda t: t.reshape(*shape, *t.shape[1:]) if isinstance(t, Tensor) else t, nest)

    def _by_lane(self, leaf: Any) -> Tensor:
        """``[P, E, …]`` as ``[P·E, …]``; a constant answer counts for every lane."""
        lanes = self.members * self.episodes
        if isinstance(leaf, Tensor):
            return leaf.reshape(lanes, *leaf.shape[2:])
        if isinstance(leaf, (bool, int, float)):
            return torch.tensor(leaf).expand(lanes)
        raise LiftRefusedError(f"the action is a {type(leaf).__name__}, not a number or a tensor")

    # --- tensor environments -------------------------------------------------------------------------------------

    def _tensor_results(self, environment: TensorEnvironment) -> dict[tuple[int, int], EpisodeResult | Exception]:
        act = self.blocks._policy

        async def carry_on(inputs: Mapping[str, Any]) -> Any:
            progress = Progress(*inputs["nest"])
            return tuple(await advance(environment, act, progress, inputs["arguments"], STEPS_PER_KERNEL))

        kernel = self._kernel(carry_on)
        proof = StepProof(kernel.program, self.block, self.group, self.watched, self.episodes)
        begun = [tuple(begin(environment, each.seed, each.max_steps, self.blocks._size)) for each in self.terms]
        nest = pytree.tree_map(lambda *ts: _shared(ts, self.members), *begun)
        alive = np.ones(self.members * self.episodes, dtype=np.bool_)
        while alive.any():
            after = kernel(nest)
            proof.record(alive, nest, after, None)
            nest, progress = after, Progress(*after)
            alive = ~(progress.done | progress.truncated).flatten().numpy()
        kernel.refuse_state()
        proof.check(self.runner)
        seen = pytree.tree_map(
            lambda t: t.flatten(0, 1), torch.vmap(torch.vmap(environment.observe))(Progress(*nest).state)
        )
        return self._tensor_outcome(Progress(*nest), seen)

    def _tensor_outcome(self, progress: Progress, seen: Any) -> dict[tuple[int, int], EpisodeResult | Exception]:
        columns = (progress.total, progress.steps, progress.done, progress.truncated)
        rows = zip(*(column.flatten().tolist() for column in columns), strict=True)
        lanes = self.members * self.episodes
        observed: list[ObservationMoments | None] = [None] * lanes
        if progress.seen is not None:
            observed = moments(Seen(*(value.flatten(0, 1) for value in progress.seen)))
        leaves, structure = pytree.tree_flatten(seen)
        final = zip(*(leaf.unbind() for leaf in leaves), strict=True)
        results: dict[tuple[int, int], EpisodeResult | Exception] = {}
        for lane, ((total, steps, done, truncated), last) in enumerate(zip(rows, final, strict=True)):
            observation = pytree.tree_unflatten(list(last), structure)
            results[divmod(lane, self.episodes)] = EpisodeResult(
                total, steps, done, truncated, observation, observed=observed[lane]
            )
        return results


def _shared(tensors: Sequence[Any], members: int) -> Any:
    """One value per episode, the same for every member: ``[P, E, …]`` without a copy."""
    if not isinstance(tensors[0], Tensor):
        return tensors[0]
    stacked = torch.stack(list(tensors))
    return stacked.unsqueeze(0).expand(members, *stacked.shape)


class _NativeRefusedError(Exception):
    """The vectorised form of an environment does something else than its single form."""


class _Tally:
    """What each lane has come to."""

    def __init__(self, lanes: int, limits: Sequence[int | None], size: int | None) -> None:
        self.alive = np.ones(lanes, dtype=np.bool_)
        self.limits = np.array([np.iinfo(np.int64).max if limit is None else limit for limit in limits])
        self.totals = np.zeros(lanes)
        self.steps = np.zeros(lanes, dtype=np.int64)
        self.ended: list[EpisodeResult | Exception | None] = [None] * lanes

        self.seen = None if size is None else unseen(size, lanes)

    def see(self, observations: Any) -> None:
        """Sum up what the lanes that are alive are about to act on."""
        if self.seen is not None:
            self.seen = see(self.seen, observations, torch.from_numpy(self.alive))

    def add(self, step: LanesStep) -> None:
        self.totals[self.alive] += step.rewards[self.alive]
        self.steps += self.alive
        out_of_steps = self.steps >= self.limits
        over = self.alive & (step.terminated | step.truncated | out_of_steps)
        for lane in np.flatnonzero(over).tolist():
            terminated = bool(step.terminated[lane])
            self.ended[lane] = EpisodeResult(
                float(self.totals[lane]),
                int(self.steps[lane]),
                terminated,
                bool(step.truncated[lane]) or (bool(out_of_steps[lane]) and not terminated),
                pytree.tree_map(lambda t, lane=lane: t[lane], step.observations),
                step.infos.get(lane, {}),
            )
        for lane, error in step.errors.items():
            self.ended[lane] = error
            over[lane] = True
        self.alive &= ~over

    def results(self) -> list[EpisodeResult | Exception]:
        ended = [result for result in self.ended if result is not None]
        if self.seen is None:
            return ended
        return [
            replace(result, observed=observed) if isinstance(result, EpisodeResult) else result
            for result, observed in zip(ended, moments(self.seen), strict=True)
        ]
