"""``hyperfunc gate``: may this candidate pass? For CI: exit code 0 yes, 1 no, 2 it could not be judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperfunc.errors import EvaluationError

if TYPE_CHECKING:
    from hyperfunc.evaluation import EvalGate, Evaluation, Experiment, GateResult

__all__ = ["gate"]


def gate(
    candidate: Annotated[Path, typer.Argument(help="Experiment file (Experiment.save) with the candidate.")],
    baseline: Annotated[
        Path | None, typer.Argument(help="Experiment file with the baseline; without it the candidate's own file.")
    ] = None,
    name: Annotated[str, typer.Option(help="The candidate's name, where its file has several.")] = "",
    baseline_name: Annotated[str, typer.Option(help="The baseline's name; else its experiment's baseline.")] = "",
    threshold: Annotated[float | None, typer.Option(help="Lowest mean score.")] = None,
    tag_threshold: Annotated[list[str] | None, typer.Option(help="TAG=SCORE, may be repeated.")] = None,
    objective_threshold: Annotated[list[str] | None, typer.Option(help="OBJECTIVE=VALUE, may be repeated.")] = None,
    no_regression: Annotated[bool, typer.Option("--no-regression", help="Not worse than the baseline.")] = False,
    no_regression_tag: Annotated[
        list[str] | None, typer.Option(help="Not worse on the examples of this tag; may be repeated.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="How much worse is acceptable, in units of the score.")] = 0.0,
    significance: Annotated[float, typer.Option(help="How rare chance must make a drop to count as one.")] = 0.05,
    max_unscored: Annotated[int, typer.Option(help="How many examples may have no score.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the permutation test.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Judge a candidate by thresholds and against a baseline; exit code 0 passed, 1 failed, 2 not to be judged."""
    from hyperfunc.evaluation import EvalGate, Experiment  # need torch

    try:
        judge = EvalGate(
            threshold=threshold,
            tag_thresholds=_limits("--tag-threshold", tag_threshold or ()),
            objective_thresholds=_limits("--objective-threshold", objective_threshold or ()),
            no_regression=no_regression,
            no_regression_tags=tuple(no_regression_tag or ()),
            tolerance=tolerance,
            significance=significance,
            max_unscored=max_unscored,
            seed=seed,
        )
        result = _judged(judge, Experiment.load(candidate), baseline, name, baseline_name)
    except EvaluationError as error:
        typer.echo(f"hyperfunc: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(
            json.dumps({"passed": result.passed, "checks": [asdict(check) for check in result.checks]}, indent=2)
        )
    else:
        typer.echo(str(result))
    raise typer.Exit(result.exit_code)


def _judged(
    judge: EvalGate, experiment: Experiment, baseline: Path | None, name: str, baseline_name: str
) -> GateResult:
    from hyperfunc.evaluation import Experiment

    against: Evaluation | None = None
    if baseline is not None or judge.compares:
        other = experiment if baseline is None else Experiment.load(baseline)
        against = other[baseline_name] if baseline_name else other.baseline
    return judge.check(_chosen(experiment, name, against), against)


def _chosen(experiment: Experiment, name: str, against: Evaluation | None) -> Evaluation:
    """The evaluation of that name; without one, the only one that is not the baseline."""
    if name:
        return experiment[name]
    others = [evaluation for evaluation in experiment.evaluations if evaluation is not against]
    if len(others) != 1:
        known = ", ".join(evaluation.name for evaluation in experiment.evaluations) or "none"
        raise EvaluationError(f"{experiment.name!r} has {len(others)} candidates; choose one with --name from: {known}")
    return others[0]


def _limits(option: str, given: Sequence[str]) -> dict[str, float]:
    limits = {}
    for entry in given:
        key, _, value = entry.rpartition("=")
        try:
            limits[key] = float(value)
        except ValueError:
            key = ""
        if not key:
            raise EvaluationError(f"{option}: expected NAME=NUMBER, got {entry!r}")
    return limits
