"""Runs and comparisons as tables and lines for a terminal. Knows records, no journal and no files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from hyperfunc.cli.runs_loading import make_table
from hyperfunc.journal.records import GenerationRecord, RunRecord
from hyperfunc.journal.settings_text import SOURCE_KINDS, plain, setting_text, short_hash
from hyperfunc.journal.timefmt import duration, moment
from hyperfunc.usage import Usage

if TYPE_CHECKING:
    from hyperfunc.journal.comparing import Comparison

__all__ = ["comparison_parts", "run_parts"]

_STATISTICS = ("best", "mean", "worst", "center", "sigma", "evaluations")
_HEADS = {"center": "centre"}


def run_parts(
    run: RunRecord, spend: Usage, generations: Sequence[GenerationRecord], parameters: Mapping[str, Any], *, most: int
) -> Iterable[Any]:
    """What ``runs show`` prints: facts, configuration, parameters, and the last ``most`` generations."""
    yield _facts(
        {
            "name": run.name,
            "status": run.status,
            "ended by": run.finish_reason if run.status in ("finished", "failed") else None,
            "best score": run.best_score,
            "generations": run.generations,
            "began": moment(run.created_at),
            "took": duration(run.updated_at - run.created_at),
            "spent": _spent(spend),
            "seed": run.seed,
            "git revision": run.git_revision,
            "program": short_hash(run.program_hash),
            "data": short_hash(run.data_hash),
        }
    )
    yield _head("configuration")
    yield _facts({name: setting_text(value) for name, value in run.config.items() if name != "seed"})
    if parameters:
        yield _head("parameters")
        yield _facts(parameters, keep_empty=True)
    yield _head("environment")
    yield _facts(run.environment)
    steps = [generation for generation in generations if generation.number > 0]
    shown = steps[len(steps) - min(most, len(steps)) :]
    if shown:
        first = f"the last {len(shown)} of {len(steps)} " if len(shown) < len(steps) else ""
        yield _head(f"{first}generations")
        columns = [name for name in _STATISTICS if any(name in g.fitness for g in shown)]
        table = make_table("generation", *(_HEADS.get(name, name) for name in columns))
        for generation in shown:
            table.add_row(str(generation.number), *(plain(generation.fitness.get(name)) for name in columns))
        yield table


def comparison_parts(found: Comparison) -> Iterable[Any]:
    """What ``runs compare`` prints."""
    first, second = found.runs
    for what, changes in (("program", found.program), ("data", found.data)):
        yield f"{what}: {'the same' if not changes else 'differs'}"
        yield from (Text(f"  {line}") for line in changes)
    if found.config:
        yield _head("configuration")
        yield from _configuration(found)
    yield _head("results")
    results: dict[str, tuple[Any, Any]] = {
        "status": (first.status, second.status),
        "ended by": (first.finish_reason, second.finish_reason),
        "best score": (first.best_score, second.best_score),
        "generations": (first.generations, second.generations),
        "took": tuple(duration(run.updated_at - run.created_at) for run in found.runs),  # type: ignore[dict-item]
        **{f"last {_HEADS.get(n, n)}": found.fitness[n] for n in _STATISTICS if n in found.fitness},
        "spent": (_spent(found.spend[0]), _spent(found.spend[1])),
    }
    yield _side_by_side(first.name, second.name, results)
    if found.tensor_distances or found.tensor_shapes:
        yield _head("tensors")
        table = make_table("", "distance between the best")
        for name, distance in found.tensor_distances.items():
            table.add_row(name, plain(distance))
        for name, shapes in found.tensor_shapes.items():
            one, other = (shape if shape is None else "×".join(map(str, shape)) or "scalar" for shape in shapes)
            table.add_row(name, f"{one or 'absent'} in {first.name}, {other or 'absent'} in {second.name}")
        yield table
    for name, (one, other) in found.texts.items():
        yield _head(f"text {name}")
        yield _diff(first.name, second.name, one, other)


def _configuration(found: Comparison) -> Iterable[Any]:
    first, second = (run.name for run in found.runs)
    rows, sources = {}, []
    for name, (one, other) in found.config.items():
        setting, _, part = name.partition(": ")
        if part.startswith(SOURCE_KINDS):
            sources.append((f"{setting}: {part}", _diff(first, second, one, other)))
        else:
            rows[name.replace(": constant ", ": ").replace(": object ", ": ")] = (
                setting_text(one),
                setting_text(other),
            )
    if rows:
        yield _side_by_side(first, second, rows)
    for name, difference in sources:
        yield f"{name}:"
        yield difference


def _diff(first: str, second: str, one: Any, other: Any) -> Text:
    lines = difflib.unified_diff(plain(one).splitlines(), plain(other).splitlines(), first, second, lineterm="", n=1)
    return Text("\n".join(line for line in lines if not line.startswith("@@")))


def _spent(usage: Usage) -> str:
    return f"{usage.calls} calls, {usage.total_tokens} tokens, ${usage.usd:.4f}"


def _head(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _facts(facts: Mapping[str, Any], *, keep_empty: bool = False) -> Any:
    table = make_table("", "")
    table.show_header = False
    for name, value in facts.items():
        if value not in (None, "", [], {}):
            table.add_row(name, plain(value))
        elif keep_empty:
            table.add_row(name, "(empty)")
    return table


def _side_by_side(first: str, second: str, rows: Mapping[str, tuple[Any, Any]]) -> Any:
    table = make_table("", first, second)
    for name, (one, other) in rows.items():
        table.add_row(name, plain(one), plain(other))
    return table
