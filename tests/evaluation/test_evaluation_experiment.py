"""Experiments: pairing by example, comparison with the baseline, JSON, table."""

from __future__ import annotations

import math

import pytest

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation import Dataset, Evaluation, Example, Experiment, ScoreResult
from hyperfunc.usage import Usage

DATA = Dataset(
    Example({"x": n}, n, tags=("easy",) if n < 10 else ("hard", "long"), weight=1.0 + (n == 0)) for n in range(20)
)


def evaluation(name, scores, data=DATA, **options):
    results = [score if isinstance(score, ScoreResult) else ScoreResult(score) for score in scores]
    return Evaluation.from_results(name, data, results, **options)


BASE = evaluation("base", [0.5] * 20)
BETTER = evaluation("better", [0.5] * 10 + [1.0] * 10, usage=Usage(usd=0.5), metadata={"seed": 0})


def test_means_by_weight_tag_and_objective():
    scored = evaluation("s", [ScoreResult(1, objectives={"brevity": 0.5})] + [0.0] * 18 + [None])
    assert scored.mean == pytest.approx(2 / 20)
    assert scored.tags["easy"].mean == pytest.approx(2 / 11)
    assert (scored.tags["hard"].mean, scored.tags["hard"].count, scored.tags["hard"].unscored_count) == (0.0, 10, 1)
    assert scored.objectives == {"brevity": 0.5}
    assert scored.unscored_count == 1
    assert math.isnan(evaluation("n", [math.nan] + [1] * 19).mean)


def test_costs_of_scoring_are_added_to_the_runs():
    paid = evaluation("p", [ScoreResult(1, cost=Usage(calls=1, usd=0.01))] * 20, usage=Usage(calls=5))
    assert paid.usage.calls == 25
    assert paid.usage.usd == pytest.approx(0.2)


def test_lengths_and_empty_parts_are_named():
    with pytest.raises(EvaluationError, match="20 examples and 3 results"):
        evaluation("s", [1, 2, 3])
    with pytest.raises(EvaluationError, match="'big'; known: easy, hard, long"):
        BASE.with_tag("big")


def test_candidates_are_paired_by_example_whatever_their_order():
    base = evaluation("base", [n / 20 for n in range(20)])
    shuffled = DATA.shuffled(1)
    same = evaluation("same", [e.expected / 20 for e in shuffled], shuffled)
    assert same.compare_to(base).ties == 20
    reordered = evaluation("r", [1.0 if e.expected >= 10 else 0.5 for e in shuffled], shuffled)
    result = reordered.compare_to(BASE, alternative="greater")
    assert (result.wins, result.ties, result.losses) == (10, 10, 0)
    assert result.significant
    assert result.difference == pytest.approx(5 / 21)


def test_other_examples_are_refused():
    with pytest.raises(
        EvaluationError, match=r"different examples \(20 and 5; 0 missing and 15 additional in 'base'\)"
    ):
        evaluation("five", [1] * 5, DATA[:5]).compare_to(BASE)
    twice = Dataset([Example({"x": 1}, 1), Example({"x": 1}, 1), Example({"x": 2}, 2)])
    turned = Dataset(reversed(twice))
    with pytest.raises(EvaluationError, match="not unique"):
        evaluation("a", [1, 1, 0], twice).compare_to(evaluation("b", [0, 1, 1], turned))


def test_an_experiment_compares_with_its_baseline():
    experiment = Experiment("e", [BASE, BETTER])
    assert experiment.baseline is BASE
    assert experiment.best is BETTER
    assert experiment.compare("better").wins == 10
    assert experiment.compare("base", "better").losses == 10
    assert Experiment("e", [BASE, BETTER], baseline="better").baseline is BETTER
    assert len(experiment) == 2
    assert experiment.evaluations == (BASE, BETTER)


def test_names_are_unique_and_known():
    experiment = Experiment("e", [BASE])
    with pytest.raises(EvaluationError, match="already has"):
        experiment.add(BASE)
    with pytest.raises(EvaluationError, match="'worse'; known: base"):
        experiment.compare("worse")
    with pytest.raises(EvaluationError, match="'worse'"):
        Experiment("e", [BASE], baseline="worse")
    with pytest.raises(EvaluationError, match="no evaluations yet"):
        _ = Experiment("e").baseline
    with pytest.raises(EvaluationError, match="different examples"):
        experiment.add(evaluation("five", [1] * 5, DATA[:5]))
    assert len(experiment) == 1


def test_nan_is_never_best():
    experiment = Experiment("e", [evaluation("nan", [math.nan] * 20), BASE])
    assert experiment.best is BASE
    with pytest.raises(EvaluationError, match="a number"):
        _ = Experiment("e", [evaluation("nan", [math.nan] * 20)]).best


def test_json_round_trip(tmp_path):
    rich = evaluation(
        "rich",
        [
            ScoreResult(None, "no verdict"),
            ScoreResult(math.nan, details={"raw": math.inf, "where": DATA}, objectives={"speed": -math.inf}),
            ScoreResult(0.1, "naïve", {"k": [1, (2,)]}, {"speed": 2}, Usage(calls=1)),
        ]
        + [1.0] * 17,
        metadata={"theta": "ab12", "sigma": 0.1},
    )
    path = tmp_path / "experiment.json"
    Experiment("e", [BASE, rich], baseline="rich").save(path)
    again = Experiment.load(path)
    assert again.baseline.name == "rich"
    assert again["base"] == BASE
    assert again["rich"].scores[0] is None
    assert math.isnan(again["rich"].scores[1])
    assert again["rich"].examples[1].result.details["raw"] == "inf"
    assert again["rich"].examples[1].result.objectives["speed"] == -math.inf
    assert again["rich"].examples[2].result.cost == Usage(calls=1)
    assert again["rich"].examples[2].result.feedback == "naïve"
    assert again["rich"].metadata == {"theta": "ab12", "sigma": 0.1}
    assert again["rich"].usage == rich.usage
    assert [row.tags for row in again["rich"].examples] == [row.tags for row in rich.examples]
    assert again.compare("base").to_dict() == Experiment("e", [BASE, rich], baseline="rich").compare("base").to_dict()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read"),
        ("[]", "expected the format 'hyperfunc.experiment/1', got 'list'"),
        ('{"format": "hyperfunc.experiment/2"}', "got 'hyperfunc.experiment/2'"),
        ('{"format": "hyperfunc.experiment/1", "name": "e", "evaluations": [{}], "baseline": null}', "damaged"),
    ],
)
def test_damaged_files_are_our_error(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        Experiment.load(path)
    with pytest.raises(EvaluationError, match="cannot read"):
        Experiment.load(tmp_path / "nowhere.json")


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "e.json"
    Experiment("e", [BASE]).save(path)
    before = path.read_bytes()
    for metadata in ({"x": object()}, {"x": math.nan}):
        with pytest.raises(EvaluationError, match="must be JSON values"):
            Experiment("e", [evaluation("b", [1] * 20, metadata=metadata)]).save(path)
    assert path.read_bytes() == before


def test_the_table_has_a_line_per_candidate():
    lines = Experiment("e", [BASE, BETTER, evaluation("a|b", [None] + [0.5] * 19)]).table().splitlines()
    assert len({len(line) for line in lines}) == 1
    header, rule, base, better, piped = lines
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "candidate",
        "mean",
        "difference",
        "interval",
        "p",
        "wins/ties/losses",
        "unscored",
        "easy",
        "hard",
        "long",
        "USD",
    ]
    assert set(rule) == {"|", "-"}
    assert "10/10/0" in better
    assert "0.5000" in better
    assert base.split("|")[3].strip() == ""
    assert "a\\|b" in piped
