"""What every environment of gymnasium's form must do, as tests: override the fixture ``environment_factory``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hyperfunc.testing.contracts._values import same

__all__ = ["EnvironmentContract"]


class EnvironmentContract:
    """Tests of one environment: ``factory(seed)`` makes it, ``reset`` and ``step`` run an episode."""

    max_steps: int = 50
    """Steps that a test takes at most; an episode may end before."""

    @pytest.fixture
    def environment_factory(self) -> Callable[[int], Any]:
        """What is registered. Override this."""
        raise NotImplementedError("override the fixture environment_factory with a callable (seed) -> environment")

    @pytest.fixture
    def action(self) -> Callable[[Any, int], Any]:
        """``(environment, step) -> action``. Override it where the environment has no ``action_space`` to sample."""

        def sample(environment: Any, step: int) -> Any:
            if step == 0:
                environment.action_space.seed(0)
            return environment.action_space.sample()

        return sample

    @pytest.fixture
    def episode(
        self, environment_factory: Callable[[int], Any], action: Callable[[Any, int], Any]
    ) -> Iterator[Callable[[int], list[tuple[Any, float, bool, bool]]]]:
        """``(seed) -> [(observation, reward, terminated, truncated), …]``, the first observation with reward 0."""
        opened: list[Any] = []

        def play(seed: int) -> list[tuple[Any, float, bool, bool]]:
            environment = environment_factory(seed)
            opened.append(environment)
            observation, information = environment.reset(seed=seed)
            assert isinstance(information, dict), "reset must return (observation, info)"
            steps = [(observation, 0.0, False, False)]
            for step in range(self.max_steps):
                answer = environment.step(action(environment, step))
                assert len(answer) == 5, "step must return (observation, reward, terminated, truncated, info)"
                observation, reward, terminated, truncated, information = answer
                assert isinstance(information, dict)
                steps.append((observation, float(reward), bool(terminated), bool(truncated)))
                if terminated or truncated:
                    break
            return steps

        yield play
        for environment in opened:
            if callable(getattr(environment, "close", None)):
                environment.close()

    def test_rewards_are_finite_and_the_end_is_a_truth_value(
        self, episode: Callable[[int], list[tuple[Any, float, bool, bool]]]
    ) -> None:
        steps = episode(7)
        assert len(steps) > 1
        assert all(math.isfinite(reward) for _, reward, _, _ in steps)

    @pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
    def test_a_seed_fixes_the_episode(
        self, episode: Callable[[int], list[tuple[Any, float, bool, bool]]], seed: int
    ) -> None:
        assert same(episode(seed), episode(seed)), f"seed {seed} gave two different episodes for the same actions"

    def test_observations_keep_their_form(self, episode: Callable[[int], list[tuple[Any, float, bool, bool]]]) -> None:
        steps = episode(0)
        forms = {(type(observation), getattr(observation, "shape", None)) for observation, *_ in steps}
        assert len(forms) == 1, f"observations changed their form: {sorted(map(str, forms))}"

    def test_observations_lie_in_their_space(
        self,
        environment_factory: Callable[[int], Any],
        episode: Callable[[int], list[tuple[Any, float, bool, bool]]],
    ) -> None:
        space = getattr(environment_factory(0), "observation_space", None)
        if space is None:
            pytest.skip("the environment declares no observation_space")
        assert all(space.contains(observation) for observation, *_ in episode(0))

    def test_two_environments_do_not_touch_each_other(
        self,
        environment_factory: Callable[[int], Any],
        action: Callable[[Any, int], Any],
        episode: Callable[[int], list[tuple[Any, float, bool, bool]]],
    ) -> None:
        alone = episode(3)
        one, other = environment_factory(3), environment_factory(4)
        first, _ = one.reset(seed=3)
        other.reset(seed=4)
        seen = [(first, 0.0, False, False)]
        for step in range(len(alone) - 1):
            choice = action(one, step)
            observation, reward, terminated, truncated, _ = one.step(choice)
            seen.append((observation, float(reward), bool(terminated), bool(truncated)))
            if step == 0:
                other.step(choice)  # one step of the other in between
        assert same(seen, alone)

    def test_it_can_be_reset_after_the_end(
        self, environment_factory: Callable[[int], Any], action: Callable[[Any, int], Any]
    ) -> None:
        environment = environment_factory(0)
        starts = []
        for _ in range(2):
            observation, _ = environment.reset(seed=11)
            starts.append(observation)
            environment.step(action(environment, 0))
        assert same(starts[0], starts[1])
