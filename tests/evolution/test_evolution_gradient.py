"""Gradient ascent as a function: the same numbers as torch's own loop, for any optimizer and scheduler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.clipup import ClipUp
from hyperfunc.evolution.gradient import GradientAscent, OptimizerName
from hyperfunc.evolution.schedules import ConstantSigma, CosineSigma, ExponentialSigma, LinearSigma

START = {"a": torch.linspace(-1, 1, 6).reshape(2, 3), "b": torch.tensor(0.5)}
OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.1),
    "amsgrad": partial(torch.optim.AdamW, lr=0.1, amsgrad=True, weight_decay=0.1),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.05, centered=True),
    "clipup": partial(ClipUp, lr=0.2),
}
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any] | None] = {
    "none": None,
    "step": partial(StepLR, step_size=2, gamma=0.5),
    "cosine": partial(CosineAnnealingLR, T_max=7),
    "one cycle": partial(OneCycleLR, max_lr=0.3, total_steps=20),
    "lambda": partial(LambdaLR, lr_lambda=lambda generation: 1 / (1 + generation)),
}


def slope(values: dict[str, Tensor], generation: int) -> dict[str, Tensor]:
    return {name: torch.sin(3 * value + generation) for name, value in values.items()}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_functional_steps_equal_torchs_own(optimizer: str, scheduler: str) -> None:
    ascent = GradientAscent(OPTIMIZERS[optimizer], scheduler=SCHEDULERS[scheduler])
    ours: dict[str, Tensor] = dict(START)
    state: dict[str, Any] = {}
    theirs = [torch.nn.Parameter(START[name].clone()) for name in sorted(START)]
    live = OPTIMIZERS[optimizer](theirs)
    make_scheduler = SCHEDULERS[scheduler]
    live_scheduler = make_scheduler(live) if make_scheduler is not None else None
    for generation in range(6):
        gradient = slope(ours, generation)
        ours, state = ascent.step(ours, gradient, state)
        for name, parameter in zip(sorted(START), theirs, strict=True):
            parameter.grad = -gradient[name]
        live.step()
        if live_scheduler is not None:
            live_scheduler.step()
        for name, parameter in zip(sorted(START), theirs, strict=True):
            assert torch.equal(ours[name], parameter.detach())


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_named_optimizers_are_torchs(name: str) -> None:
    """Fused and maximizing for speed, the same step to rounding; a factory may maximize as well."""
    factory = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    ascents = [
        GradientAscent(name, lr=0.1),  # type: ignore[arg-type]
        GradientAscent(partial(factory, lr=0.1)),
        GradientAscent(partial(factory, lr=0.1, maximize=True)),
    ]
    ends = []
    for ascent in ascents:
        values: dict[str, Tensor] = dict(START)
        state: dict[str, Any] = {}
        for generation in range(5):
            values, state = ascent.step(values, slope(values, generation), state)
        ends.append(values)
    for other in ends[1:]:
        for key in START:
            torch.testing.assert_close(ends[0][key], other[key])


OBJECTS: dict[OptimizerName, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, lr=0.1, fused=True, maximize=True),
    "clipup": partial(ClipUp, lr=0.1),
    "sgd": partial(torch.optim.SGD, lr=0.1, maximize=True),
}
MIXED = {"a": torch.float32, "b": torch.float64, "c": torch.bfloat16, "d": torch.float16}


@pytest.mark.parametrize("dtypes", [*MIXED.values(), None], ids=str)
@pytest.mark.parametrize("name", OBJECTS)
def test_named_optimizers_have_the_bits_and_the_state_of_the_objects(
    name: OptimizerName, dtypes: torch.dtype | None
) -> None:
    start = {key: torch.linspace(-1, 1, 7).to(dtypes or own) for key, own in MIXED.items()}
    by_name, by_object = GradientAscent(name, lr=0.1), GradientAscent(OBJECTS[name], lr=0.1)
    ours, theirs, crossed = start, start, start
    our_state, their_state, crossed_state = {}, {}, {}
    for generation in range(50):
        ours, our_state = by_name.step(ours, slope(ours, generation), our_state)
        theirs, their_state = by_object.step(theirs, slope(theirs, generation), their_state)
        # Either goes on from what the other left behind: snapshots that objects wrote are still of use.
        turn = by_name if generation % 3 == 1 else by_object
        crossed, crossed_state = turn.step(crossed, slope(crossed, generation), crossed_state)
    assert our_state["scheduler"] is None
    assert our_state["optimizer"]["param_groups"] == their_state["optimizer"]["param_groups"]
    assert our_state["optimizer"]["state"].keys() == their_state["optimizer"]["state"].keys()
    for key in start:
        assert torch.equal(ours[key], theirs[key])
        assert torch.equal(ours[key], crossed[key])
        assert not torch.equal(ours[key], start[key])
    for index, entry in our_state["optimizer"]["state"].items():
        other = their_state["optimizer"]["state"][index]
        assert entry.keys() == other.keys()
        assert all(torch.equal(entry[key], other[key]) and entry[key].dtype == other[key].dtype for key in entry)


def test_a_named_optimizer_imports_no_compiler() -> None:
    program = """
import sys
import torch
from hyperfunc.evolution.gradient import GradientAscent, OptimizerName
for name in ("adam", "clipup", "sgd"):
    values, state = {"a": torch.ones(3)}, {}
    for _ in range(2):
        values, state = GradientAscent(name, weight_decay=0.1).step(values, {"a": torch.ones(3)}, state, decayed=["a"])
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_step_writes_into_none_of_its_arguments() -> None:
    ascent = GradientAscent("adam")
    first, state = ascent.step(START, slope(START, 0), {})
    before = {n: v.clone() for n, v in first.items()}
    moments = state["optimizer"]["state"][0]["exp_avg"].clone()
    once = ascent.step(first, slope(first, 1), state)[0]
    again = ascent.step(first, slope(first, 1), state)[0]
    assert all(torch.equal(once[n], again[n]) for n in once)
    assert all(torch.equal(first[n], before[n]) for n in first)
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], moments)


def test_weight_decay_shrinks_what_it_is_told_to() -> None:
    ascent = GradientAscent("sgd", lr=0.5, weight_decay=0.1)
    zero = {name: torch.zeros_like(value) for name, value in START.items()}
    after, _ = ascent.step(START, zero, {}, decayed=["a"])
    torch.testing.assert_close(after["a"], START["a"] * 0.95)
    assert torch.equal(after["b"], START["b"])


def test_weight_decay_follows_the_scheduled_rate() -> None:
    ascent = GradientAscent("sgd", lr=0.5, scheduler=partial(ExponentialLR, gamma=0.5), weight_decay=0.1)
    zero = {"a": torch.zeros(2)}
    values, state = ascent.step({"a": torch.ones(2)}, zero, {}, decayed=["a"])
    values, state = ascent.step(values, zero, state, decayed=["a"])
    torch.testing.assert_close(values["a"], torch.full((2,), 0.95 * 0.975))


def test_clipup_follows_its_paper() -> None:
    """Two steps by hand: lr 1, momentum 0.9, speed at most 1.5, norms over all parameters together."""
    x, y = torch.zeros(1), torch.zeros(1)
    optimizer = ClipUp([x, y], lr=1.0, momentum=0.9, max_speed=1.5)
    for velocity in ((0.6, 0.8), (0.6 * 1.5, 0.8 * 1.5)):  # 0.9 v + ĝ would be 1.9 long
        x.grad, y.grad = torch.tensor([-30.0]), torch.tensor([-40.0])
        before = float(x), float(y)
        optimizer.step()
        assert (float(x) - before[0], float(y) - before[1]) == pytest.approx(velocity)


def test_clipup_without_a_gradient_only_coasts() -> None:
    x = torch.zeros(2)
    optimizer = ClipUp([x], lr=1.0)
    x.grad = torch.zeros(2)
    optimizer.step()
    assert x.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"optimizer": "lion"}, "optimizer"), ({"lr": 0.0}, "lr"), ({"weight_decay": -1.0}, "weight_decay")],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GradientAscent(**settings)


def test_a_scheduler_that_needs_a_metric_is_refused() -> None:
    ascent = GradientAscent("sgd", scheduler=ReduceLROnPlateau)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="ReduceLROnPlateau"):
        ascent.step(START, slope(START, 0), {})


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"momentum": 1.0}, {"max_speed": 0.0}])
def test_clipup_refuses_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        ClipUp([torch.zeros(1)], **settings)


def test_sigma_schedules() -> None:
    assert [ConstantSigma()(g) for g in (0, 9)] == [1, 1]
    assert [ExponentialSigma(0.5, floor=0.2)(g) for g in range(4)] == [1, 0.5, 0.25, 0.2]
    assert [LinearSigma(4, final=0.2)(g) for g in (0, 2, 4, 9)] == pytest.approx([1, 0.6, 0.2, 0.2])
    assert [CosineSigma(4, final=0.2)(g) for g in (0, 2, 4, 9)] == pytest.approx([1, 0.6, 0.2, 0.2])
    for wrong in (lambda: ExponentialSigma(0.0), lambda: LinearSigma(0), lambda: CosineSigma(3, final=0.0)):
        with pytest.raises(ConfigurationError):
            wrong()
