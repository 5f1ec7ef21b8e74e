"""Dataset: version, sequence, splits, tags, minibatches, files."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfunc.errors import EvaluationError, MissingDependencyError
from hyperfunc.evaluation import Dataset, Example


def numbers(count: int) -> Dataset:
    return Dataset([Example({"x": n}, n * n, tags=("even" if n % 2 == 0 else "odd",)) for n in range(count)], name="n")


# --- a sequence -------------------------------------------------------------------------------------------------------


def test_a_dataset_is_a_sequence():
    data = numbers(5)
    assert len(data) == 5
    assert data[1].expected == 1
    assert data[-1].expected == 16
    assert isinstance(data[1:3], Dataset)
    assert [e.expected for e in data[1:3]] == [1, 4]
    assert data[2] in data
    assert data.index(data[3]) == 3
    assert [e.expected for e in reversed(data)] == [16, 9, 4, 1, 0]
    assert len(data[:2] + data[3:]) == 4
    assert (data.inputs[2], data.expected[2], data.weights[2]) == ({"x": 2}, 4, 1.0)


def test_an_empty_dataset_is_refused_and_says_why():
    with pytest.raises(EvaluationError, match="'dataset' has no examples"):
        Dataset([])
    with pytest.raises(EvaluationError, match="the filter keeps none of the 3 examples of 'n'"):
        numbers(3).filter(lambda example: False)
    with pytest.raises(EvaluationError, match="slice 5:9"):
        numbers(3)[5:9]


def test_only_examples_with_different_ids():
    with pytest.raises(EvaluationError, match=r"\[1\] must be an Example, got tuple"):
        Dataset([Example({}, 1), ({}, 1)])
    with pytest.raises(EvaluationError, match="'a' stands 2 times"):
        Dataset([Example({}, 1, id="a"), Example({}, 2, id="a")])


def test_version_is_the_content_in_order():
    data = numbers(4)
    assert data.version == numbers(4).version
    assert data == numbers(4)
    assert data.version != numbers(5).version
    assert data.version != Dataset(reversed(data)).version
    assert data.version != data.map(lambda e: e.replace(weight=2)).version
    assert data.version != data.map(lambda e: e.replace(tags=())).version
    assert data.version == data.map(lambda e: e.replace(metadata={"seen": True})).version
    assert data.version == Dataset(data, name="another").version


# --- tags, filters, duplicates ----------------------------------------------------------------------------------------


def test_tags_select():
    data = Dataset([Example({"x": 1}, 1, tags="a"), Example({"x": 2}, 1, tags=("a", "b")), Example({"x": 3}, 1)])
    assert data.tags == {"a": 2, "b": 1}
    assert [e.inputs["x"] for e in data.with_tags("a", "b")] == [2]
    assert [e.inputs["x"] for e in data.with_tags("a", "b", match="any")] == [1, 2]
    assert [e.inputs["x"] for e in data.without_tags("b")] == [1, 3]
    with pytest.raises(EvaluationError, match="'c'; known: a, b"):
        data.with_tags("c")
    with pytest.raises(EvaluationError, match="at least one tag"):
        data.without_tags()


def test_duplicates_go_and_the_first_stays():
    data = Dataset([Example({"x": 1}, 1, tags="first"), Example({"x": 1}, 2), Example({"x": 1}, 1, tags="second")])
    kept = data.deduplicated()
    assert [(e.expected, e.tags) for e in kept] == [(1, ("first",)), (2, ())]


@given(st.integers(1, 30), st.integers(-3, 3))
def test_shuffles_and_samples_are_drawn_from_the_seed(count, seed):
    data = numbers(count)
    assert data.shuffled(seed) == data.shuffled(seed)
    assert sorted(data.shuffled(seed).expected) == sorted(data.expected)
    sample = data.sample((count + 1) // 2, seed)
    assert sample == data.sample((count + 1) // 2, seed)
    assert sample.expected == sorted(set(sample.expected))


def test_seeds_differ_and_zero_is_one_of_them():
    orders = {tuple(numbers(20).shuffled(seed).expected) for seed in (-1, 0, 1, 2**70)}
    assert len(orders) == 4
    with pytest.raises(EvaluationError, match="1 to 3 examples, got count=4"):
        numbers(3).sample(4, 0)


def test_the_order_of_a_seed_never_changes():
    assert numbers(8).shuffled(0).expected == [16, 25, 9, 4, 1, 0, 36, 49]


def test_global_generators_are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    numbers(9).shuffled(3).split(0.5, 0.5, 0)
    next(numbers(9).minibatches(2, 1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


# --- splits -----------------------------------------------------------------------------------------------------------


def test_split_sizes_follow_the_fractions():
    train, val, test = numbers(100).split(seed=0)
    assert (len(train), len(val), len(test)) == (80, 10, 10)
    train, val, test = numbers(7).split(0.5, 0.5, 0, seed=0)
    assert (len(train), len(val), test) == (4, 3, None)
    assert (train.name, val.name) == ("n/train", "n/val")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=2, max_size=20).map(
        lambda rows: rows + [(x, 0) for x in range(20, 40)]  # enough different inputs for three parts
    ),
    st.integers(0, 5),
)
def test_parts_share_no_inputs_and_lose_nothing_but_duplicates(rows, seed):
    data = Dataset(Example({"x": x}, y) for x, y in rows)
    parts = data.split(0.4, 0.3, 0.3, seed=seed)
    inputs = [{e.inputs["x"] for e in part} for part in parts]
    assert len(set.union(*inputs)) == sum(map(len, inputs))
    assert Counter((e.inputs["x"], e.expected) for part in parts for e in part) == Counter(set(rows))


@given(st.integers(0, 10), st.permutations(range(12)))
def test_a_split_does_not_depend_on_the_order(seed, order):
    data = numbers(12)
    split = data.split(0.5, 0.25, 0.25, seed=seed)
    again = Dataset(data[p] for p in order).split(0.5, 0.25, 0.25, seed=seed)
    assert [set(part) for part in split] == [set(part) for part in again]


def test_splits_differ_by_seed():
    assert len({numbers(20).split(0.5, 0.5, 0, seed=seed).train.version for seed in range(5)}) == 5


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (0, 0.5, 0.5), (1.2, -0.2, 0)])
def test_fractions_are_checked(fractions):
    with pytest.raises(EvaluationError, match="sum to 1"):
        numbers(10).split(*fractions)


def test_a_part_without_examples_is_refused():
    with pytest.raises(EvaluationError, match=r"3 different inputs are too few for a test part of 0\.1"):
        numbers(3).split()


# --- minibatches ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 25), st.data(), st.integers(0, 3))
def test_minibatches_by_number_are_those_of_the_stream(count, data, seed):
    size = data.draw(st.integers(1, count))
    examples = numbers(count)
    stream = list(examples.minibatches(size, seed, epochs=3, drop_last=True))
    assert len(stream) == 3 * (count // size)
    fresh = numbers(count)
    for index in reversed(range(len(stream))):
        assert fresh.minibatch(index, size, seed).expected == stream[index].expected


@given(st.integers(1, 25), st.data())
def test_a_pass_holds_every_example_once(count, data):
    size = data.draw(st.integers(1, count))
    batches = list(numbers(count).minibatches(size, 0))
    assert sorted(value for batch in batches for value in batch.expected) == [n * n for n in range(count)]
    assert {len(batch) for batch in batches[:-1]} <= {size}


def test_epochs_are_shuffled_anew():
    first, second = numbers(20).minibatches(20, 0, epochs=2)
    assert first.expected != second.expected
    assert first.expected != next(numbers(20).minibatches(20, 1)).expected


def test_minibatch_arguments_are_checked():
    with pytest.raises(EvaluationError, match="size=4"):
        numbers(3).minibatch(0, 4, 0)
    with pytest.raises(EvaluationError, match="size=0"):
        numbers(3).minibatches(0, 0)
    with pytest.raises(EvaluationError, match="index"):
        numbers(3).minibatch(-1, 1, 0)
    with pytest.raises(EvaluationError, match="epochs"):
        numbers(3).minibatches(1, 0, epochs=0)


# --- files ------------------------------------------------------------------------------------------------------------

RICH = Dataset(
    [
        Example(
            {
                "tensor": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,
                "scalar": torch.tensor(True),
                "array": np.arange(4, dtype=">f4").reshape(2, 2),
                "pair": (1, [2.5, None], {"k": b"\x00\xff"}),
                "text": "naïve\u2028line\n\ud800",
            },
            {"nan": math.nan, "inf": -math.inf},
            id="rich",
            tags=("a", "b"),
            weight=0.25,
            metadata={"source": ("hand", 1)},
        ),
        Example({"x": 1}, None),
    ]
)


def test_jsonl_round_trip_keeps_every_type(tmp_path):
    path = tmp_path / "rich.jsonl"
    RICH.to_jsonl(path)
    again = Dataset.from_jsonl(path)
    assert again.version == RICH.version
    assert again.name == "rich"
    assert again[0].inputs["tensor"].dtype == torch.bfloat16
    assert again[0].inputs["pair"] == RICH[0].inputs["pair"]
    assert again[0].metadata == {"source": ("hand", 1)}
    assert math.isnan(again[0].expected["nan"])
    again[0].inputs["tensor"].add_(1)  # memory of its own, writable


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_jsonl_round_trip_of_anything(tmp_path):
    path = tmp_path / "any.jsonl"

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.tuples(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), VALUES), min_size=1, max_size=4)
    )
    def check(rows):
        data = Dataset(Example(inputs, expected) for inputs, expected in rows)
        data.to_jsonl(path)
        assert Dataset.from_jsonl(path).version == data.version

    check()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: expected an object with inputs and expected .*got list"),
        ('{"inputs": {}}', r"line 2: expected an object .*got \['inputs'\]"),
        ('{"inputs": {}, "expected": 1, "tag": 1}', "'tag'"),
        ('{"inputs": [], "expected": 1}', "line 2: inputs of an Example must be a mapping"),
        ('{"inputs": {"x": {"$hyperfunc": "tensor", "dtype": "load"}}, "expected": 1}', "damaged tensor"),
        ('{"inputs": {"x": {"$hyperfunc": "pickle"}}, "expected": 1}', "unknown kind of value in JSON: 'pickle'"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"inputs": {}, "expected": 1}\n' + line)
    with pytest.raises(EvaluationError, match=message):
        Dataset.from_jsonl(path)


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.jsonl"
    numbers(2).to_jsonl(path)
    before = path.read_bytes()
    with pytest.raises(EvaluationError, match="cannot write a object"):
        Dataset([Example({"x": object()}, 1)]).to_jsonl(path)
    with pytest.raises(EvaluationError, match="cannot write a dict"):
        Dataset([Example({"x": {"$hyperfunc": 1}}, 1)]).to_jsonl(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["kept.jsonl"]


def test_missing_files_are_our_error(tmp_path):
    with pytest.raises(EvaluationError, match=r"cannot read .*nowhere\.jsonl"):
        Dataset.from_jsonl(tmp_path / "nowhere.jsonl")
    with pytest.raises(EvaluationError, match="cannot write"):
        numbers(2).to_jsonl(tmp_path / "no" / "folder.jsonl")
    with pytest.raises(EvaluationError, match="as parquet"):
        Dataset.from_parquet(tmp_path / "nowhere.parquet")


def test_csv_with_types_and_labels(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text(
        '\ufeffname,age,label,tags,weight,id\n"Ann, B.",31,yes,a;b,2,first\nBo,7,no,,,\n\n', encoding="utf-8"
    )
    data = Dataset.from_csv(path, expected="label", types={"age": int})
    assert data.inputs == [{"name": "Ann, B.", "age": 31}, {"name": "Bo", "age": 7}]
    assert data.expected == ["yes", "no"]
    assert (data[0].given_id, data[0].tags, data[0].weight) == ("first", ("a", "b"), 2.0)
    assert (data[1].given_id, data[1].tags, data[1].weight) == (None, (), 1.0)
    renamed = Dataset.from_csv(path, inputs={"age": "years", "tags": "labels"}, expected="label")
    assert renamed[0].inputs == {"years": "31", "labels": "a;b"}
    assert renamed[0].tags == ()
    assert Dataset.from_csv(path, inputs=["name"], expected="label")[0].inputs == {"name": "Ann, B."}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "no column 'expected'; the header has 'a', 'b'"),
        ("a,expected\n1,2\n", {"inputs": ["c"]}, "no column 'c'"),
        ("a,expected\n1,2\n", {"types": {"c": int}}, "no column 'c'"),
        ("a,expected\n1,2\n", {"inputs": "a"}, "list of columns"),
        ("a,a,expected\n1,2,3\n", {}, "two columns have one name"),
        ("a,expected\n1,2,3\n", {}, "line 2: 3 cells, but the header has 2"),
        ("a,expected\nx,2\n", {"types": {"a": int}}, "line 2, column 'a': cannot convert 'x'"),
        ("a,expected,weight\nx,2,heavy\n", {}, "line 2, column 'weight'"),
        ("a,expected,weight\nx,2,-1\n", {}, "line 2: weight"),
        ("", {}, "no column 'expected'"),
        ("a,expected\n", {}, "has no examples"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, options, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        Dataset.from_csv(path, **options)


def test_csv_round_trip(tmp_path):
    path = tmp_path / "table.csv"
    data = Dataset(
        [Example({"q": 'say "hi",\nthere', "n": 1}, "a", id="i", tags=("x", "y"), weight=0.5), Example({"q": "b"}, "c")]
    )
    data.to_csv(path)
    again = Dataset.from_csv(path, types={"n": lambda cell: int(cell) if cell else None})
    assert again[0] == data[0]
    assert again[1].inputs == {"q": "b", "n": None}


def test_parquet_round_trip_keeps_types(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "table.parquet"
    data = Dataset(
        [
            Example({"x": torch.tensor([1.5, 2.5]), "n": 1}, True, id="i", tags=("x", "y"), weight=0.5),
            Example({"x": [3.0], "n": None}, False),
        ]
    )
    data.to_parquet(path)
    again = Dataset.from_parquet(path)
    assert again.inputs == [{"x": [1.5, 2.5], "n": 1}, {"x": [3.0], "n": None}]
    assert again.expected == [True, False]
    assert (again[0].given_id, again[0].tags, again[0].weight) == ("i", ("x", "y"), 0.5)
    with pytest.raises(EvaluationError, match="no column 'label'"):
        Dataset.from_parquet(path, expected="label")
    with pytest.raises(EvaluationError, match="write JSONL instead"):
        Dataset([Example({"x": 1}, 1), Example({"x": "one"}, 1)]).to_parquet(path)
    assert len(Dataset.from_parquet(path)) == 2


def test_parquet_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"hyperfunc\[parquet\]"):
        numbers(2).to_parquet(tmp_path / "x.parquet")


def test_tables_refuse_what_would_not_come_back(tmp_path):
    with pytest.raises(EvaluationError, match="input named 'tags'"):
        Dataset([Example({"tags": 1}, 1)]).to_csv(tmp_path / "x.csv")
    with pytest.raises(EvaluationError, match="'a;b'"):
        Dataset([Example({"x": 1}, 1, tags="a;b")]).to_csv(tmp_path / "x.csv")


def test_jsonl_written_by_hand_is_plain(tmp_path):
    path = tmp_path / "hand.jsonl"
    path.write_text(json.dumps({"inputs": {"q": "1+1"}, "expected": 2, "tags": ["sum"]}) + "\n\n")
    assert list(Dataset.from_jsonl(path)) == [Example({"q": "1+1"}, 2, tags="sum")]
