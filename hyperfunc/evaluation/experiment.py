"""What several candidates scored on one data set, compared and kept as JSON. Knows nothing of how they were run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.dataset import Dataset
from hyperfunc.evaluation.dataset_files import write_whole
from hyperfunc.evaluation.results import ScoreResult, check_lengths, mean_score
from hyperfunc.evaluation.statistics import Alternative, Comparison, compare
from hyperfunc.usage import Usage

__all__ = ["Evaluation", "ExampleScore", "Experiment", "TagScore"]

_FORMAT = "hyperfunc.experiment/1"


@dataclass(frozen=True)
class ExampleScore:
    """One example's part in an evaluation.

    Attributes:
        id: of the example.
        result: its score, ``None`` or NaN where there is none.
        tags: of the example.
        weight: of the example.
    """

    id: str
    result: ScoreResult
    tags: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class TagScore:
    """What the examples of one tag scored: weighted mean, their number, and how many have no finite score."""

    mean: float
    count: int
    unscored_count: int


@dataclass(frozen=True)
class Evaluation:
    """One candidate's scores on a data set.

    Attributes:
        name: of the candidate.
        examples: one entry per example, in the data set's order.
        dataset_version: content hash of the data set.
        usage: what the run and its scoring used.
        metadata: anything that identifies the candidate (hash of θ, seed, settings, …), JSON values.
    """

    name: str
    examples: tuple[ExampleScore, ...]
    dataset_version: str
    usage: Usage = field(default_factory=Usage)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.examples:
            raise EvaluationError(f"evaluation {self.name!r} has no examples")

    @classmethod
    def from_results(
        cls,
        name: str,
        dataset: Dataset,
        results: Sequence[ScoreResult],
        *,
        usage: Usage | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Put scores and examples together.

        Args:
            name: of the candidate.
            dataset: what was evaluated.
            results: one per example, in order.
            usage: of the run; the costs of the results are added to it.
            metadata: see the class.
        """
        check_lengths(examples=dataset, results=results)
        rows = tuple(
            ExampleScore(example.id, result, example.tags, example.weight)
            for example, result in zip(dataset, results, strict=True)
        )
        costs = sum((result.cost for result in results if result.cost is not None), usage or Usage())
        return cls(name, rows, dataset.version, costs, dict(metadata or {}))

    @property
    def scores(self) -> list[float | None]:
        """The score of every example."""
        return [row.result.score for row in self.examples]

    @property
    def weights(self) -> list[float]:
        """The weight of every example."""
        return [row.weight for row in self.examples]

    @property
    def mean(self) -> float:
        """Weighted mean of the scores; see :func:`mean_score` for missing ones."""
        return mean_score([row.result for row in self.examples], self.weights)

    @property
    def unscored_count(self) -> int:
        """How many examples have no finite score."""
        return sum(not row.result.scored for row in self.examples)

    @property
    def tags(self) -> dict[str, TagScore]:
        """Scores by tag, in the tags' order."""
        names = sorted({tag for row in self.examples for tag in row.tags})
        return {name: self.with_tag(name)._total() for name in names}

    @property
    def objectives(self) -> dict[str, float]:
        """Weighted mean of every objective over the examples that have it."""
        names = sorted({name for row in self.examples for name in row.result.objectives})
        means = {}
        for name in names:
            rows = [row for row in self.examples if name in row.result.objectives]
            values = [ScoreResult(row.result.objectives[name]) for row in rows]
            means[name] = mean_score(values, [row.weight for row in rows])
        return means

    def with_tag(self, tag: str) -> Evaluation:
        """The part of this evaluation that has ``tag``."""
        rows = tuple(row for row in self.examples if tag in row.tags)
        if not rows:
            known = sorted({name for row in self.examples for name in row.tags})
            raise EvaluationError(
                f"no example of {self.name!r} has the tag {tag!r}; known: {', '.join(known) or 'none'}"
            )
        return Evaluation(self.name, rows, self.dataset_version, self.usage, self.metadata)

    def compare_to(self, baseline: Evaluation, *, alternative: Alternative = "two-sided", **options: Any) -> Comparison:
        """This candidate (b) against ``baseline`` (a), paired by example; ``options`` go to :func:`compare`.

        Raises:
            EvaluationError: the two were not evaluated on the same examples.
        """
        baseline = baseline.aligned_to(self)
        weights = self.weights
        if len(set(weights)) > 1:
            options.setdefault("weights", weights)
        return compare(baseline.scores, self.scores, alternative=alternative, **options)

    def aligned_to(self, other: Evaluation) -> Evaluation:
        """This evaluation with its examples in ``other``'s order.

        Raises:
            EvaluationError: the two do not have the same examples, or have them in different orders with ids that are
                not unique.
        """
        mine, theirs = [row.id for row in self.examples], [row.id for row in other.examples]
        if mine == theirs:
            return self
        if Counter(mine) != Counter(theirs):
            missing, extra = len(set(theirs) - set(mine)), len(set(mine) - set(theirs))
            raise EvaluationError(
                f"{self.name!r} and {other.name!r} were evaluated on different examples ({len(mine)} and "
                f"{len(theirs)}; {missing} missing and {extra} additional in {self.name!r}); "
                "evaluate both on one data set"
            )
        if len(set(mine)) < len(mine):
            raise EvaluationError(
                f"{self.name!r} and {other.name!r} have their examples in different orders, and ids that are not "
                "unique; deduplicate the data set"
            )
        by_id = {row.id: row for row in self.examples}
        return Evaluation(self.name, tuple(by_id[id] for id in theirs), self.dataset_version, self.usage, self.metadata)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the inverse is :meth:`from_dict`."""
        return {
            "name": self.name,
            "dataset_version": self.dataset_version,
            "mean": _number(self.mean),
            "usage": self.usage.to_dict(),
            "metadata": dict(self.metadata),
            "examples": [
                {
                    **row.result.to_dict(),
                    "id": row.id,
                    "tags": list(row.tags),
                    "weight": row.weight,
                    "score": _number(row.result.score),
                    "objectives": {name: _number(value) for name, value in row.result.objectives.items()},
                    "details": _json_values(row.result.details),
                }
                for row in self.examples
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`to_dict`; details that were no JSON values come back as text."""
        rows = []
        for entry in data["examples"]:
            score = entry["score"]
            objectives = {name: float(value) for name, value in entry["objectives"].items()}
            result = ScoreResult.from_dict(
                {**entry, "score": None if score is None else float(score), "objectives": objectives}
            )
            rows.append(ExampleScore(entry["id"], result, tuple(entry["tags"]), float(entry["weight"])))
        return cls(data["name"], tuple(rows), data["dataset_version"], Usage.from_dict(data["usage"]), data["metadata"])

    def _total(self) -> TagScore:
        return TagScore(self.mean, len(self.examples), self.unscored_count)


class Experiment:
    """Evaluations of several candidates on one data set, one of them the baseline.

    Args:
        name: of the experiment.
        evaluations: in the order in which they were made; the first is the baseline unless another is named.
        baseline: name of the evaluation that others are compared with.
    """

    def __init__(self, name: str, evaluations: Iterable[Evaluation] = (), *, baseline: str | None = None) -> None:
        self.name = name
        self._evaluations: dict[str, Evaluation] = {}
        for evaluation in evaluations:
            self.add(evaluation)
        if baseline is not None:
            self[baseline]
        self._baseline = baseline

    def add(self, evaluation: Evaluation) -> None:
        """Add a candidate.

        Raises:
            EvaluationError: the name is taken, or its examples are not those of the others.
        """
        if evaluation.name in self._evaluations:
            raise EvaluationError(f"experiment {self.name!r} already has an evaluation named {evaluation.name!r}")
        for first in self._evaluations.values():
            evaluation.aligned_to(first)
            break
        self._evaluations[evaluation.name] = evaluation

    @property
    def baseline(self) -> Evaluation:
        """What candidates are compared with."""
        if self._baseline is not None:
            return self[self._baseline]
        for evaluation in self._evaluations.values():
            return evaluation
        raise EvaluationError(f"experiment {self.name!r} has no evaluations yet")

    @property
    def best(self) -> Evaluation:
        """The evaluation of the highest mean; the earliest of equals. One whose mean is NaN is never best."""
        finite = [e for e in self._evaluations.values() if not math.isnan(e.mean)]
        if not finite:
            raise EvaluationError(f"no evaluation of experiment {self.name!r} has a mean that is a number")
        return max(finite, key=lambda evaluation: evaluation.mean)

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """All evaluations in order."""
        return tuple(self._evaluations.values())

    def __getitem__(self, name: str) -> Evaluation:
        try:
            return self._evaluations[name]
        except KeyError:
            known = ", ".join(self._evaluations) or "none"
            raise EvaluationError(
                f"experiment {self.name!r} has no evaluation named {name!r}; known: {known}"
            ) from None

    def __len__(self) -> int:
        return len(self._evaluations)

    def compare(self, name: str, baseline: str | None = None, **options: Any) -> Comparison:
        """The candidate ``name`` against the baseline; ``options`` go to :func:`compare`."""
        return self[name].compare_to(self.baseline if baseline is None else self[baseline], **options)

    def table(self, **options: Any) -> str:
        """A Markdown table: a line per candidate, with its difference to the baseline.

        Costs are shown where any were counted, tags where there are any. ``options`` are those of :meth:`compare`.
        """
        baseline = self.baseline
        tags = sorted({tag for evaluation in self.evaluations for tag in evaluation.tags})
        paid = any(evaluation.usage.usd for evaluation in self.evaluations)
        header = ["candidate", "mean", "difference", "interval", "p", "wins/ties/losses", "unscored", *tags]
        lines = [header + (["USD"] if paid else [])]
        for evaluation in self.evaluations:
            against = ["", "", "", ""]
            if evaluation is not baseline:
                result = evaluation.compare_to(baseline, **options)
                against = [
                    f"{result.difference:+.4g}",
                    f"[{result.interval.low:+.3g}, {result.interval.high:+.3g}]",
                    f"{result.p_value:.3g}",
                    f"{result.wins}/{result.ties}/{result.losses}",
                ]
            scores = evaluation.tags
            lines.append(
                [evaluation.name, f"{evaluation.mean:.4g}", *against, str(evaluation.unscored_count)]
                + [f"{scores[tag].mean:.4g}" if tag in scores else "" for tag in tags]
                + ([f"{evaluation.usage.usd:.4f}"] if paid else [])
            )
        lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([rows[0], rule, *rows[1:]])

    def save(self, path: str | Path) -> None:
        """Write all evaluations as one JSON file, at once."""
        data = {
            "format": _FORMAT,
            "name": self.name,
            "baseline": self._baseline,
            "evaluations": [evaluation.to_dict() for evaluation in self.evaluations],
        }
        try:
            text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
            content = text.encode()
        except (TypeError, ValueError) as error:  # ValueError: NaN in metadata, or text that UTF-8 cannot hold
            raise EvaluationError(f"metadata and texts of {self.name!r} must be JSON values: {error}") from error
        write_whole(Path(path), content + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """Read what :meth:`save` wrote.

        Raises:
            EvaluationError: the file is missing, damaged or of another format.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EvaluationError(f"cannot read the experiment {path}: {error}") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise EvaluationError(f"{path} is no experiment: expected the format {_FORMAT!r}, got {found!r}")
        try:
            return cls(data["name"], map(Evaluation.from_dict, data["evaluations"]), baseline=data["baseline"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(f"the experiment {path} is damaged: {type(error).__name__}: {error}") from error


def _number(value: float | None) -> float | str | None:
    """JSON has no NaN and no infinity; their names are read back by ``float()``."""
    return value if value is None or math.isfinite(value) else str(value)


def _json_values(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {str(key): _json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_values(item) for item in value]
    return str(value)
