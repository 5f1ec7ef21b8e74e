"""A step is replayed only where that is the step: the same bits, and given up where nobody can be sure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc import HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock
from hyperfunc.settings import resolve_settings
from hyperfunc_agents import GameResponse, episodes, game_replay
from hyperfunc_agents.game_replay import Replay, ReplayDiffersError, record

MATRIX = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
OFFSET = torch.tensor([1.0, 2.0, 3.0])


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layered(x: Tensor) -> Any:
    return torch.nn.functional.linear(x, MATRIX).tanh()


def joined(x: Tensor) -> Any:
    return torch.cat([x, x.new_ones(1), torch.tensor([0.5]), torch.arange(2.0)])


def parted(x: Tensor) -> Any:
    a, b, *_ = x.unbind()
    low, high = x.aminmax()
    return a * b, torch.stack([high, low]), x.sort().indices


def written(x: Tensor) -> Any:
    fresh = torch.zeros_like(x)
    fresh[1] = x[0]
    fresh.add_(x).mul_(2)
    return fresh, x[torch.tensor([2, 0])]


def chosen(x: Tensor) -> Any:
    return torch.where(x > 0, x, 0.1 * x), x.argmax(-1), torch.nan_to_num(x / 0)


def passed(x: Tensor) -> Any:
    return x, OFFSET * 2, x[None]


@pytest.mark.parametrize("function", [layered, joined, parted, written, chosen, passed])
def test_a_tape_has_the_bits_of_the_function(function: Callable[[Tensor], Any]):
    mapped = torch.vmap(torch.vmap(function))
    first = numbers(1, 5, 2, 4)
    with torch.no_grad():
        leaves, tape = record(lambda: list(torch.utils._pytree.tree_leaves(mapped(first))), [first])
        assert tape is not None
        assert all(torch.equal(a, b) for a, b in zip(leaves, tape.run([first]), strict=True))
        for seed in (2, 3):
            other = numbers(seed, 5, 2, 4)
            wanted = torch.utils._pytree.tree_leaves(mapped(other))
            found = tape.run([other])
            assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(wanted, found, strict=True))
            assert torch.equal(other, numbers(seed, 5, 2, 4))


def test_what_depends_on_constants_only_is_computed_once():
    x = numbers(0, 4)
    _, tape = record(lambda: [x + (OFFSET * 2).sum()], [x])
    assert tape is not None
    assert len(tape) == 1


def read_value(x: Tensor) -> Tensor:
    return x * float(x.sum())


def write_constant(x: Tensor) -> Tensor:
    count = torch.tensor(0.0)
    count += 1
    return x * count


def write_given(x: Tensor) -> Tensor:
    return x + COUNTER.add_(1)


COUNTER = torch.zeros(())


def hidden_view(x: Tensor) -> Tensor:
    return x + x.detach().data[:1]


@pytest.mark.parametrize("function", [read_value, write_constant, write_given])
def test_what_cannot_be_followed_is_not_written_down(function: Callable[[Tensor], Tensor]):
    x = numbers(0, 4)
    assert record(lambda: [function(x)], [x])[1] is None


def test_a_view_made_out_of_sight_is_no_constant():
    x = numbers(0, 4)
    with torch.no_grad():
        _, tape = record(lambda: [hidden_view(x)], [x])
        other = numbers(1, 4)
        assert tape is None or torch.equal(tape.run([other])[0], hidden_view(other))


def test_one_tensor_in_two_places_is_not_written_down():
    x = numbers(0, 4)
    assert record(lambda: [x + x], [x, x])[1] is None


class Steps:
    """Counts how often the real step is computed."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function, self.real = function, 0

    def __call__(self, replay: Replay, x: Tensor, key: Any = "same") -> list[Any]:
        def compute() -> list[Any]:
            self.real += 1
            return [self.function(x)]

        return replay.step(key, [x], compute)


def test_most_steps_are_replayed_and_some_are_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(game_replay, "CHECK_EVERY", 10)
    steps, replay = Steps(torch.tanh), Replay()
    for seed in range(32):
        assert torch.equal(steps(replay, numbers(seed, 3))[0], numbers(seed, 3).tanh())
    assert steps.real == 2 + 3  # to see the form, to record, and at 0, 10 and 20 of 30 replays


def test_another_form_is_another_tape():
    steps, replay = Steps(torch.exp), Replay()
    for shape in [(2,), (2,), (2,), (2,), (3,), (3,), (3,), (3,)]:
        steps(replay, numbers(0, *shape))
    assert steps.real == 6
    for key in "abcd":
        steps(replay, numbers(0, 3), key)
    assert steps.real == 10
    steps(replay, numbers(0, 3, 2).T, "d")
    assert steps.real == 11


def test_what_changes_at_once_is_never_replayed():
    calls: list[int] = []

    def moody(x: Tensor) -> Tensor:
        calls.append(1)
        return x * len(calls)

    steps, replay = Steps(moody), Replay()
    for _ in range(6):
        steps(replay, torch.ones(2))
    assert steps.real == 6


def test_what_changes_later_is_found_at_the_next_check(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(game_replay, "CHECK_EVERY", 4)
    factor = [1.0]
    steps, replay = Steps(lambda x: x * factor[0]), Replay()
    for _ in range(5):
        steps(replay, torch.ones(2))
    factor[0] = 2.0
    assert steps(replay, torch.ones(2))[0].tolist() == [1.0, 1.0]  # replayed, and wrong
    with pytest.raises(ReplayDiffersError):
        steps(replay, torch.ones(2))


def test_nan_is_equal_to_itself():
    steps, replay = Steps(lambda x: x / 0), Replay()
    for _ in range(8):
        assert bool(steps(replay, torch.zeros(2))[0].isnan().all())
    assert steps.real == 3


Weight = LoRAWeight.create(2, 4, noise_rank=1)


@hyperfunction(hp_type=Weight, optimize_hparams=True)
async def lean(x: Tensor, hp: Any) -> Tensor:
    return x @ hp.weight.T


class Remembering(HyperSystem):
    agent_type = "game"

    async def run(self, observation: Tensor, state: Tensor | None = None) -> GameResponse:
        mean = observation if state is None else 0.5 * state + 0.5 * observation
        return GameResponse((await lean(mean)).argmax(-1), state=mean)


def block_of(members: int, *, factored: bool) -> MemberBlock:
    if factored:
        return {"lean.hp": FactoredMembers(numbers(0, 2, 4), numbers(1, members, 2, 1), numbers(2, members, 4, 1), 0.5)}
    values = 0.3 * numbers(3, members, 2, 4)
    values[:, 1] += torch.tensor([0.1, 0.3, 2.0, 1.0])
    return {"lean.hp": DenseMembers(values)}


async def results(system: HyperSystem, env: str, seeds: int, *, factored: bool, times: int = 1) -> tuple[Any, Any]:
    examples = [e.inputs for e in episodes(env, seeds, max_steps=100)]
    await system.execute(examples[0])
    block = block_of(6, factored=factored)
    with PopulationRunner(system.program(), resolve_settings(Settings(execution="lifted", workers=1))) as runner:
        for _ in range(times):
            (outcome,) = await runner.run(lambda _: block, [0], ExampleBatch(examples), lambda _, outcome: outcome)
        return [list(row) for row in outcome], runner.program.block_executor


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("env", ["CartPole-v1", "tensor-cartpole"])
async def test_replayed_episodes_have_the_bits_of_real_ones(
    env: str, seeds: int, factored: bool, monkeypatch: pytest.MonkeyPatch
):
    replayed: list[int] = []
    real = game_replay.Tape.run

    def counted(self: Any, inputs: Any) -> Any:
        replayed.append(1)
        return real(self, inputs)

    monkeypatch.setattr(game_replay.Tape, "run", counted)
    found, _ = await results(Remembering(), env, seeds, factored=factored)
    assert replayed
    monkeypatch.setattr(game_replay, "CHECK_EVERY", 1)  # every step is computed really
    wanted, _ = await results(Remembering(), env, seeds, factored=factored)
    for many, one in zip(found, wanted, strict=True):
        for a, b in zip(many, one, strict=True):
            assert (a.total_reward, a.steps, a.done, a.truncated) == (b.total_reward, b.steps, b.done, b.truncated)
            assert torch.equal(a.final_observation, b.final_observation)


class Tiring(HyperSystem):
    """After its first calls it acts otherwise, which no tensor says."""

    agent_type = "game"
    calls = 0

    async def run(self, observation: Tensor) -> Tensor:
        type(self).calls += 1
        favoured = (await lean(observation)).argmax(-1)
        return favoured if type(self).calls < TIRED_AFTER else 1 - favoured


TIRED_AFTER = 10**9


async def test_a_block_whose_replay_went_wrong_is_played_again_without(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(game_replay, "CHECK_EVERY", 8)
    fresh, executor = await results(Tiring(), "CartPole-v1", 1, factored=False)
    assert executor._replays

    real = game_replay.Replay.step

    def tire(self: Any, *arguments: Any) -> Any:
        if self._replayed == 12:
            monkeypatch.setattr(f"{__name__}.TIRED_AFTER", 0)
        return real(self, *arguments)

    monkeypatch.setattr(game_replay.Replay, "step", tire)
    tired, executor = await results(Tiring(), "CartPole-v1", 1, factored=False, times=2)
    assert not executor._replays
    assert [r.steps for row in tired for r in row] != [r.steps for row in fresh for r in row]
    monkeypatch.setattr(game_replay, "CHECK_EVERY", 1)
    wanted, _ = await results(Tiring(), "CartPole-v1", 1, factored=False)
    assert [r.steps for row in tired for r in row] == [r.steps for row in wanted for r in row]
