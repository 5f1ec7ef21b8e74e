"""``hyperfunc gate``: what it reads, says and exits with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from hyperfunc.cli import build_app
from hyperfunc.evaluation import Dataset, Evaluation, Example, Experiment, ScoreResult

DATA = Dataset([Example({"x": i}, i, tags=("even",) if i % 2 == 0 else ("odd",)) for i in range(20)])


def _saved(path: Path, *evaluations: tuple[str, Callable[[int], float | None]]) -> Path:
    experiment = Experiment(path.stem)
    for name, score in evaluations:
        results = [ScoreResult(score(i), objectives={"brevity": 0.5}) for i in range(20)]
        experiment.add(Evaluation.from_results(name, DATA, results))
    experiment.save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return {
        "base": str(_saved(tmp_path / "base.json", ("main", lambda i: 0.6))),
        "better": str(_saved(tmp_path / "better.json", ("branch", lambda i: 0.8))),
        "worse": str(_saved(tmp_path / "worse.json", ("branch", lambda i: 0.5))),
        "mixed": str(_saved(tmp_path / "mixed.json", ("branch", lambda i: 0.9 if i % 2 == 0 else 0.5))),
        "holes": str(_saved(tmp_path / "holes.json", ("branch", lambda i: None if i == 3 else 0.8))),
        "both": str(_saved(tmp_path / "both.json", ("main", lambda i: 0.6), ("branch", lambda i: 0.8))),
        "three": str(
            _saved(tmp_path / "three.json", ("main", lambda i: 0.6), ("a", lambda i: 0.8), ("b", lambda i: 0.1))
        ),
        "damaged": str(tmp_path / "damaged.json"),
    }


def gate(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["gate", *arguments])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["better", "--threshold", "0.7"], 0, "gate passed"),
        (["worse", "--threshold", "0.7"], 1, "FAIL  threshold: mean 0.5"),
        (["better", "base", "--no-regression"], 0, "pass  no regression"),
        (["worse", "base", "--no-regression"], 1, "FAIL  no regression"),
        (["worse", "base", "--no-regression", "--tolerance", "0.2"], 0, "tolerance 0.2"),
        (["mixed", "base", "--no-regression"], 0, "gate passed"),
        (["mixed", "base", "--no-regression-tag", "even"], 0, "gate passed"),
        (
            ["mixed", "base", "--no-regression-tag", "odd", "--no-regression-tag", "even"],
            1,
            "FAIL  no regression of odd",
        ),
        (["mixed", "--tag-threshold", "even=0.8", "--tag-threshold", "odd=0.6"], 1, "FAIL  threshold of odd"),
        (["mixed", "--objective-threshold", "brevity=0.4"], 0, "objective brevity"),
        (["holes", "--threshold", "0.5"], 1, "1 of 20 examples without a score, 0 allowed"),
        (["holes", "--threshold", "0.5", "--max-unscored", "1"], 0, "gate passed"),
        (["both", "--no-regression"], 0, "gate passed"),
        (["three", "--no-regression", "--name", "b"], 1, "FAIL"),
        (["three", "--no-regression", "--name", "main", "--baseline-name", "a"], 1, "FAIL"),
    ],
)
def test_conditions_and_exit_codes(files: dict[str, str], arguments: list[str], code: int, said: str) -> None:
    result = gate(*[files.get(argument, argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert said in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["better"], "no condition"),
        (["damaged", "--threshold", "0.5"], "cannot read the experiment"),
        (["three", "--threshold", "0.5"], "choose one with --name from: main, a, b"),
        (["better", "--tag-threshold", "even"], "expected NAME=NUMBER"),
        (["better", "--tag-threshold", "dark=0.5"], "no example of 'branch' has the tag 'dark'"),
        (["better", "--objective-threshold", "=1"], "expected NAME=NUMBER"),
        (["better", "--threshold", "0.5", "--name", "x"], "no evaluation named 'x'"),
        (["better", "--threshold", "nan"], "finite"),
    ],
)
def test_what_cannot_be_judged_has_not_passed_and_says_why(
    files: dict[str, str], arguments: list[str], said: str
) -> None:
    result = gate(*[files.get(argument, argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert said in result.output


def test_json_for_machines(files: dict[str, str]) -> None:
    result = gate(files["worse"], files["base"], "--no-regression", "--threshold", "0.4", "--json")
    said = json.loads(result.stdout)
    assert (result.exit_code, said["passed"]) == (1, False)
    assert [check["passed"] for check in said["checks"]] == [True, True, False]
