"""Latent and value: bounds, integers, dtypes, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfunc.errors import ParameterError, ParameterTypeError, ShapeError, UnknownParameterError
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec
from hyperfunc.evolution.vectors import fold, pack, unpack

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(finite, finite, st.floats(-3, 4), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
@settings(max_examples=200, deadline=None)
def test_values_never_leave_their_bounds(a: float, b: float, latent: float, dtype: torch.dtype) -> None:
    low, high = sorted((round(a / 100, 6), round(b / 100, 6)))  # no subnormal bounds, which bfloat16 flushes
    if high - low < 1 + 0.02 * abs(high):  # a narrow dtype must be able to hold something in between
        high = low + 1 + 0.02 * max(abs(low), abs(high))
    spec = ParameterSpec((), dtype, (torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)))
    value = spec.to_value(torch.tensor(latent, dtype=spec.master_dtype))
    assert value.dtype == dtype
    assert low <= float(value) <= high


def test_latents_are_shares_of_the_range() -> None:
    spec = ParameterSpec((3,), bounds=(torch.tensor([0.0, -10.0, -math.inf]), torch.tensor([2.0, 10.0, math.inf])))
    latent = spec.to_latent(torch.tensor([0.5, 5.0, 42.0]))
    assert latent.tolist() == [0.25, 0.75, 42.0]
    assert spec.to_value(latent).tolist() == [0.5, 5.0, 42.0]
    assert spec.project(torch.tensor([1.5, -0.5, 1.5])).tolist() == [1.0, 0.0, 1.5]
    assert spec.to_latent(torch.tensor([9.0, -99.0, 1.0])).tolist() == [1.0, 0.0, 1.0]


def test_integer_dimensions_are_whole_and_reach_both_ends() -> None:
    spec = ParameterSpec((), bounds=(torch.tensor(1.0), torch.tensor(5.0)), integer=torch.tensor(True))
    values = spec.to_value(torch.linspace(-0.2, 1.2, 200))
    assert set(values.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_the_master_copy_is_at_least_float32() -> None:
    assert ParameterSpec((2,), torch.bfloat16).to_latent(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert ParameterSpec((2,), torch.float64).to_latent(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_a_latent_is_a_copy() -> None:
    value = torch.zeros(3)
    ParameterSpec((3,)).to_latent(value).add_(1)
    assert value.tolist() == [0, 0, 0]


def test_folding_is_the_identity_inside_and_mirrors_outside() -> None:
    group = ParameterGroup(
        {"x": ParameterSpec((1,), bounds=(torch.tensor(0.0), torch.tensor(8.0))), "y": ParameterSpec((1,))}
    )
    points = torch.tensor([[0.3, 3.0], [-0.25, -3.0], [1.25, 0.0], [2.1, 9.0], [1.0, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[0.3, 3.0], [0.25, -3.0], [0.75, 0.0], [0.1, 9.0], [1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(fold(group, points), expected)


def test_packing_is_undone_by_unpacking() -> None:
    values = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7.0)}
    group = ParameterGroup.of(values)
    assert group.names == ("a", "b")
    assert group.size == 7
    vector = pack(group, values)
    assert vector.tolist() == [7, 0, 1, 2, 3, 4, 5]
    assert all(torch.equal(v.float(), values[n]) for n, v in unpack(group, vector).items())


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.0, 0.0, "low < high"),
        (1.0, -1.0, "low < high"),
        (0.0, math.inf, "both"),
        (math.nan, math.nan, "low < high"),
    ],
)
def test_impossible_bounds_are_refused(low: float, high: float, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        ParameterSpec((2,), bounds=(torch.tensor(low), torch.tensor(high)))


def test_other_declarations_that_are_refused() -> None:
    with pytest.raises(ParameterTypeError, match="floating"):
        ParameterSpec((2,), torch.int64)
    with pytest.raises(ShapeError, match=r"\[2\].*\[3\]"):
        ParameterSpec((2,), bounds=(torch.zeros(3), torch.ones(3)))
    with pytest.raises(ParameterError, match="noise_rank"):
        ParameterSpec((2, 2), noise_rank=0)
    with pytest.raises(ParameterError, match="whole"):
        ParameterSpec((), bounds=(torch.tensor(0.5), torch.tensor(3.0)), integer=torch.tensor(True))


def test_values_that_do_not_fit_the_group_are_refused() -> None:
    group = ParameterGroup.of({"w": torch.zeros(2)})
    with pytest.raises(UnknownParameterError, match="w"):
        group.to_latent({})
    with pytest.raises(ParameterError, match="finite"):
        group.to_latent({"w": torch.tensor([0.0, math.nan])})
    with pytest.raises(UnknownParameterError, match="v"):
        group.select(["v"])
