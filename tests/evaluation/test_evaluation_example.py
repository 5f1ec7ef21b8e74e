"""Example: 0.3's two arguments first, frozen, identified by content."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import Example
from hyperfunc.evaluation.content import content_digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@dataclass(frozen=True)
class Point:
    x: float
    y: float


class Colour(Enum):
    RED = 1
    BLUE = 2


def test_two_positional_arguments_as_in_0_3():
    example = Example({"x": 1}, 2)
    assert (example.inputs, example.expected) == ({"x": 1}, 2)
    assert (example.tags, example.weight, example.metadata, example.given_id) == ((), 1.0, {}, None)


def test_everything_else_by_name():
    example = Example({"x": 1}, 2, id="first", tags=["easy", "easy", "short"], weight=3, metadata={"source": "hand"})
    assert example.id == "first"
    assert example.tags == ("easy", "short")
    assert example.weight == 3.0
    assert Example({}, None, tags="easy").tags == ("easy",)


def test_assignment_and_deletion_are_refused():
    example = Example({"x": 1}, 2)
    with pytest.raises(AttributeError, match="frozen"):
        example.expected = 3
    with pytest.raises(AttributeError, match="frozen"):
        del example.inputs


def test_inputs_are_copied():
    inputs = {"x": 1}
    example = Example(inputs, 2)
    inputs["x"] = 99
    assert example.inputs == {"x": 1}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 2], 3), {}, "mapping of argument names"),
        (({1: 2}, 3), {}, "named by strings"),
        (({}, 3), {"weight": -1.0}, "weight"),
        (({}, 3), {"weight": float("nan")}, "weight"),
        (({}, 3), {"id": ""}, "non-empty string"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(EvaluationError, match=message):
        Example(*arguments, **options)


def test_equality_and_hash_go_by_content_of_tensors():
    first = Example({"x": torch.arange(3.0)}, torch.tensor(1.0))
    same = Example({"x": torch.arange(3.0)}, torch.tensor(1.0))
    other = Example({"x": torch.arange(3)}, torch.tensor(1.0))
    assert first == same
    assert hash(first) == hash(same)
    assert first != other
    assert len({first, same, other}) == 2


def test_replace_changes_one_argument_and_refuses_unknown_ones():
    example = Example({"x": 1}, 2, tags=("a",))
    assert example.replace(expected=3) == Example({"x": 1}, 3, tags=("a",))
    with pytest.raises(EvaluationError, match="no 'expectd'"):
        example.replace(expectd=3)


def test_pickle_keeps_everything():
    example = Example({"x": torch.ones(2)}, "y", id="n", tags=("t",), weight=0.5, metadata={"k": 1})
    again = pickle.loads(pickle.dumps(example))
    assert again == example
    assert again.metadata == {"k": 1}


def test_a_value_without_known_content_needs_an_id():
    example = Example({"x": object()}, 1)
    with pytest.raises(EvaluationError, match="own id="):
        _ = example.id
    assert Example({"x": object()}, 1, id="mine").id == "mine"


def test_local_functions_have_no_lasting_content():
    with pytest.raises(EvaluationError, match="no lasting name"):
        content_digest(lambda: 1)
    assert content_digest(content_digest) == content_digest(content_digest)


@given(JSON)
def test_content_digest_is_a_function_of_content(value):
    assert content_digest(value) == content_digest(pickle.loads(pickle.dumps(value)))


DIFFERENT = [
    None,
    True,
    1,
    1.0,
    "1",
    b"1",
    [1],
    (1,),
    {1},
    [1, 2],
    [[1], 2],
    [[1, 2]],
    ["a", "b"],
    ["ab"],
    {"a": 1},
    {"a": {"b": 1}},
    {"a": 1, "b": 1},
    float("nan"),
    -0.0,
    0.0,
    1j,
    torch.tensor(1.0),
    torch.tensor([1.0]),
    torch.tensor([1]),
    torch.tensor([1.0], dtype=torch.bfloat16),
    torch.tensor([1, 2, 3]),
    torch.tensor([1, 2, 4]),
    torch.tensor([0]),
    torch.tensor([0.0], dtype=torch.float64),
    torch.zeros(2, 3),
    torch.zeros(3, 2),
    torch.zeros(0),
    torch.zeros(0, 3),
    np.array([1.0]),
    np.array([1.0], dtype=np.float32),
    Point(1, 2),
    Point(1, 3),
    Colour.RED,
    Colour.BLUE,
    date(2025, 1, 2),
    Path("1"),
    Point,
]


def test_different_content_gives_different_digests():
    digests = [content_digest(value) for value in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)


def test_numpy_scalars_count_as_python_numbers_and_key_order_does_not_count():
    assert content_digest(np.float64(1.5)) == content_digest(1.5)
    assert content_digest(np.int32(7)) == content_digest(7)
    assert content_digest(math.nan) == content_digest(-math.nan)
    assert content_digest({"a": 1, 2: "b"}) == content_digest({2: "b", "a": 1})
    assert content_digest({"x", "y", "z"}) == content_digest({"z", "y", "x"})


def test_strided_tensors_hash_by_their_values():
    matrix = torch.arange(6.0).reshape(2, 3)
    assert content_digest(matrix.T) == content_digest(matrix.T.contiguous())


def test_ids_are_equal_in_another_process():
    program = (
        "from hyperfunc.evaluation import Example; import torch;"
        "print(Example({'b': {'z', 'y', 'x'}, 'a': torch.arange(3)}, 'ü').id, end='')"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout == Example({"a": torch.arange(3), "b": {"x", "y", "z"}}, "ü").id
