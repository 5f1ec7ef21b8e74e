"""A run as one self-contained HTML page: no scripts, no fonts, no addresses; it opens from a mail attachment.

Reads a journal and writes one file. Knows nothing of how runs are made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfunc.errors import JournalError
from hyperfunc.files import write_atomically
from hyperfunc.journal.charts import line_chart
from hyperfunc.journal.graph import graph_of_components, to_svg
from hyperfunc.journal.history import JournalHistory
from hyperfunc.journal.lineage import lineage_svg
from hyperfunc.journal.records import GenerationRecord, RunRecord, ScoreRecord, TraceRecord
from hyperfunc.journal.settings_text import setting_text
from hyperfunc.journal.style import STYLE
from hyperfunc.journal.textdiff import text_diff
from hyperfunc.journal.timefmt import duration, moment
from hyperfunc.usage import Usage

if TYPE_CHECKING:  # a run without tensors is reported without torch
    from torch import Tensor

    from hyperfunc.parameters.theta import Theta

__all__ = ["render_report", "write_report"]

_MOST_ROWS = 20
_MOST_TENSORS = 200


def write_report(history: JournalHistory, name: str, path: str | os.PathLike[str]) -> Path:
    """Render the report of a run to ``path``; an older file is replaced in one step.

    Raises:
        JournalError: there is no such run, or the file cannot be written.
    """
    target = Path(path)
    page = render_report(history, name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, page.encode("utf-8", errors="xmlcharrefreplace"))
    except OSError as error:
        raise JournalError(f"cannot write the report {target}: {error}") from error
    return target


def render_report(history: JournalHistory, name: str) -> str:
    """The page as text."""
    run = history.run(name)
    generations = history.generations(name)
    traces = history.traces(name)
    spend = history.spend(name)
    first = next((g.theta for g in generations if g.theta is not None), None)
    before = None if first is None else history.load_theta(first)
    after = history.best_theta(name) if first is not None or run.best_theta is not None else None
    sections = [
        ("Progress", _curves(generations)),
        ("Parameters", _parameters(before, after)),
        ("Lineage", _lineage(history, name)),
        ("Spend", _spend(spend)),
        ("Slowest calls", _slowest(history, name, traces)),
        ("Events and failures", _failures(history, name, traces)),
        ("Call graph", _graph(traces)),
        ("Configuration", _configuration(run)),
    ]
    body = "".join(f'<section><h2 id="{_anchor(t)}">{t}</h2>{content}</section>' for t, content in sections)
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title, _ in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.name)} · hyperfunc</title><style>{STYLE}</style></head><body><main>"
        f"{_header(run, sum(spend.values(), Usage()))}<nav>{links}</nav>{body}</main></body></html>\n"
    )


# -- sections ---------------------------------------------------------------------------------------------------


def _header(run: RunRecord, usage: Usage) -> str:
    facts = [
        ("status", f'<span class="status {run.status}">{run.status}</span>'),
        ("ended by", escape(run.finish_reason or "–")),
        ("best score", "–" if run.best_score is None else f"{run.best_score:.6g}"),
        ("generations", f"{run.generations:,}"),
        ("began", moment(run.created_at)),
        ("took", duration(run.updated_at - run.created_at)),
        ("calls", f"{usage.calls:,}"),
        ("tokens", f"{usage.total_tokens:,}"),
        ("spent", f"${usage.usd:,.4f}"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f"<header><h1>{escape(run.name)}</h1><dl>{cells}</dl></header>"


def _curves(generations: Sequence[GenerationRecord]) -> str:
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {"fitness": {}, "validation": {}, "sigma": {}}
    for generation in generations:
        for name, value in generation.fitness.items():
            chart = next((c for c in ("validation", "sigma") if c in name), None)
            chart = chart or ("fitness" if name in _FITNESS_NAMES or "fitness" in name else name)
            charts.setdefault(chart, {}).setdefault(name, []).append((generation.number, value))
    drawn = [(title, series) for title, series in charts.items() if series and not _says_nothing(title, series)]
    total = Usage()
    spent: dict[str, list[tuple[float, float]]] = {"usd": [], "tokens": [], "calls": []}
    for generation in generations:
        total = sum(generation.spend.values(), total)
        for name, amount in (("usd", total.usd), ("tokens", total.total_tokens), ("calls", total.calls)):
            spent[name].append((generation.number, float(amount)))
    for name, line in spent.items():
        if line and line[-1][1] > 0:
            drawn.append((f"spend, {'US dollars' if name == 'usd' else name}", {name: line}))
    if not drawn:
        return _empty("no statistics were recorded")
    figures = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{line_chart(series, x_label='generation', title=title)}"
        "</figure>"
        for title, series in drawn
    )
    return f'<div class="charts">{figures}</div>'


def _says_nothing(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> bool:
    """The number of the generation once more, or a count of mishaps that never happened."""
    return title == "index" or (title == "dropped" and all(value == 0 for line in series.values() for _, value in line))


_FITNESS_NAMES = frozenset({"best", "mean", "median", "worst", "min", "max", "std", "score", "center", "current"})


def _parameters(before: Theta | None, after: Theta | None) -> str:
    if before is None or after is None:
        return _empty("no parameters were recorded")
    parts = []
    tensors, texts = after.tensors, after.texts
    if tensors:
        rows = [
            _tensor_row(name, before.tensors.get(name), tensor)
            for name, tensor in list(tensors.items())[:_MOST_TENSORS]
        ]
        parts.append(_table(["tensor", "shape", "norm before", "norm after", "moved by", "before → after"], rows))
        if len(tensors) > _MOST_TENSORS:
            parts.append(f"<p>{len(tensors) - _MOST_TENSORS} more tensors are not shown.</p>")
    for name, text in texts.items():
        old = before.texts.get(name)
        heading = f"<h3>{escape(name)}</h3>"
        parts.append(heading + ('<p class="empty">unchanged</p>' if old == text else text_diff(old, text)))
    return "".join(parts)


def _tensor_row(name: str, before: Tensor | None, after: Tensor) -> list[str]:
    shape = "×".join(map(str, after.shape)) or "scalar"
    kind = f"{shape} {str(after.dtype).removeprefix('torch.')}"
    now = after.double().flatten()
    if before is None or before.shape != after.shape:
        return [escape(name), kind, "–", f"{float(now.norm()):.5g}", "–", _values(now)]
    then = before.double().flatten()
    moved = float((now - then).norm())
    share = f" ({moved / float(then.norm()):.1%})" if float(then.norm()) > 0 else ""
    numbers = [f"{float(then.norm()):.5g}", f"{float(now.norm()):.5g}", f"{moved:.5g}{share}"]
    return [escape(name), kind, *numbers, f"{_values(then)} → {_values(now)}"]


def _values(flat: Tensor) -> str:
    if flat.numel() == 0:
        return "[]"
    if flat.numel() <= 4:
        return "[" + ", ".join(f"{value:.4g}" for value in flat.tolist()) + "]"
    return f"[{float(flat.min()):.3g} … {float(flat.max()):.3g}]"


def _lineage(history: JournalHistory, name: str) -> str:
    candidates = history.candidates(name)
    if not candidates:
        return _empty("no candidates were recorded")
    scores: dict[str, list[ScoreRecord]] = {}
    for score in history.scores(name):
        scores.setdefault(score.candidate, []).append(score)
    rows = []
    for candidate in candidates:
        means = []
        for split in sorted({score.split for score in scores.get(candidate.key, ())}):
            values = [s.score for s in scores[candidate.key] if s.split == split and s.score is not None]
            means.append(
                f"{escape(split)} {sum(values) / len(values):.4g} ({len(values)})" if values else escape(split)
            )
        changed = "".join(
            f"<h4>{escape(text)}</h4><pre>{escape(value)}</pre>" for text, value in candidate.texts.items()
        )
        rows.append(
            [
                escape(candidate.key),
                str(candidate.generation),
                escape(", ".join(candidate.parents) or "–"),
                escape(candidate.proposer or "–"),
                f'<span class="verdict {escape(candidate.verdict)}">{escape(candidate.verdict or "–")}</span>',
                "<br>".join(means) or "–",
                f"${candidate.usage.usd:.4f}",
                escape(candidate.reason) + (f"<details><summary>texts</summary>{changed}</details>" if changed else ""),
            ]
        )
    mean_scores = {
        key: sum(values) / len(values)
        for key, found in scores.items()
        if (values := [s.score for s in found if s.score is not None])
    }
    heads = ["candidate", "generation", "parents", "proposer", "verdict", "mean score (examples)", "cost", "reason"]
    return f'<div class="scroll">{lineage_svg(candidates, mean_scores)}</div>{_table(heads, rows)}'


def _spend(by_component: Mapping[str, Usage]) -> str:
    if not by_component:
        return _empty("nothing was spent")
    ordered = sorted(by_component.items(), key=lambda item: (-item[1].usd, -item[1].total_tokens, item[0]))
    heads = [
        "component",
        "calls",
        "input tokens",
        "output tokens",
        "cached",
        "US dollars",
        "seconds in calls",
    ]
    rows = [_usage_row(escape(component), usage) for component, usage in ordered]
    return _table(heads, [*rows, _usage_row("<b>total</b>", sum(by_component.values(), Usage()))])


def _usage_row(name: str, usage: Usage) -> list[str]:
    counts = (usage.calls, usage.input_tokens, usage.output_tokens, usage.cached_tokens)
    return [name, *(f"{count:,}" for count in counts), f"{usage.usd:.4f}", f"{usage.seconds:.2f}"]


def _slowest(history: JournalHistory, name: str, traces: Sequence[TraceRecord]) -> str:
    rows: list[tuple[float, list[str]]] = []
    for trace in traces:
        for call in trace.calls:
            where = escape(f"example {trace.example}, {trace.label or f'generation {trace.generation}'}")
            cells = [escape(call.function), where, f"{call.seconds * 1000:,.1f} ms", str(call.usage.total_tokens)]
            rows.append((call.seconds, [*cells, f"<code>{escape(call.inputs[:120])}</code>"]))
    for paid in history.paid_calls(name):
        if paid.usage.seconds > 0:
            cells = [
                escape(f"{paid.component or paid.kind} (paid call)"),
                moment(paid.created_at),
                f"{paid.usage.seconds * 1000:,.1f} ms",
            ]
            key = f"<code>{escape(paid.key[:16])}</code>"
            rows.append((paid.usage.seconds, [*cells, str(paid.usage.total_tokens), key]))
    if not rows:
        return _empty("no calls were recorded one by one")
    rows.sort(key=lambda row: -row[0])
    table = _table(["call", "where", "took", "tokens", "input or key"], [cells for _, cells in rows[:_MOST_ROWS]])
    return table + _more(len(rows))


def _failures(history: JournalHistory, name: str, traces: Sequence[TraceRecord]) -> str:
    rows = []
    for event in history.events(name):
        facts = ", ".join(f"{key}: {value}" for key, value in event.data.items())
        rows.append([moment(event.created_at), escape(event.kind), escape(facts)])
    for trace in traces:
        for call in trace.calls:
            if call.error is not None:
                where = f"{call.function} failed on example {trace.example}"
                rows.append([moment(trace.created_at), escape(where), escape(call.error)])
    failed = [score for score in history.scores(name) if score.score is None]
    for score in failed:
        what = f"no score for {score.candidate} on {score.split} example {score.example}"
        rows.append(["", escape(what), escape(score.feedback)])
    if not rows:
        return _empty("none")
    return _table(["when", "what", "details"], rows[: 5 * _MOST_ROWS]) + _more(len(rows), 5 * _MOST_ROWS)


def _graph(traces: Sequence[TraceRecord]) -> str:
    if not traces:
        return _empty("no execution was recorded call by call")
    return f'<div class="scroll">{to_svg(graph_of_components(traces))}</div>'


def _configuration(run: RunRecord) -> str:
    facts: Mapping[str, Any] = {
        **run.config,
        "seed": run.seed,
        "git revision": run.git_revision or "none",
        "program": run.program_hash,
        "data": run.data_hash,
        **run.environment,
    }
    rows = [
        [f'<span class="name">{escape(str(name))}</span>', f"<code>{escape(setting_text(value))}</code>"]
        for name, value in facts.items()
        if value is not None
    ]
    return _table(["setting", "value"], rows)


# -- pieces -----------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _empty(text: str) -> str:
    return f'<p class="empty">{text}</p>'


def _more(count: int, shown: int = _MOST_ROWS) -> str:
    return f'<p class="empty">{count - shown:,} more are not shown</p>' if count > shown else ""


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
