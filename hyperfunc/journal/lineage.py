"""Draws which candidate came from which. Knows candidates and their scores, nothing of how they are proposed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape

from hyperfunc.journal.layout import lay_out
from hyperfunc.journal.records import CandidateRecord

__all__ = ["lineage_svg"]

_STEP_X, _STEP_Y, _MARGIN = 120, 46, 40
_MOST_LABEL = 14


def lineage_svg(candidates: Sequence[CandidateRecord], scores: Mapping[str, float]) -> str:
    """An SVG element: candidates as dots, parents to the left, the best one ringed.

    Args:
        candidates: in order of proposal; parents that are not among them are left out.
        scores: mean score by key, higher is better.
    """
    known = dict.fromkeys(candidate.key for candidate in candidates)
    edges = [(parent, c.key) for c in candidates for parent in c.parents if parent in known and parent != c.key]
    layout = lay_out(known, edges)
    width = 2 * _MARGIN + max(0, layout.layers - 1) * _STEP_X + 60
    height = 2 * _MARGIN + max(0, layout.ranks - 1) * _STEP_Y

    def place(position: tuple[int, float]) -> tuple[float, float]:
        return _MARGIN + position[0] * _STEP_X, _MARGIN + position[1] * _STEP_Y

    accepted = [c.key for c in candidates if c.verdict not in {"rejected", "failed"} and c.key in scores]
    best = max(accepted, key=scores.__getitem__, default=None)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lineage" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="lineage of candidates">'
    ]
    for path in layout.paths:
        points = [place(position) for position in path]
        commands = f"M{points[0][0]:g} {points[0][1]:g}"
        for (x, y), (next_x, next_y) in itertools.pairwise(points):
            middle = (x + next_x) / 2
            commands += f" C{middle:g} {y:g} {middle:g} {next_y:g} {next_x:g} {next_y:g}"
        parts.append(f'<path d="{commands}"/>')
    for candidate in candidates:
        x, y = place(layout.position[candidate.key])
        score = scores.get(candidate.key)
        label = candidate.key if len(candidate.key) <= _MOST_LABEL else f"{candidate.key[: _MOST_LABEL - 1]}…"
        shown = "" if score is None else f" {score:.3g}"
        tip = escape(f"{candidate.key}: {candidate.verdict or 'no verdict'}{shown}\n{candidate.reason}".strip())
        ring = f'<circle class="best" cx="{x:g}" cy="{y:g}" r="12"/>' if candidate.key == best else ""
        parts.append(
            f'<g class="{escape(candidate.verdict)}"><title>{tip}</title>{ring}<circle cx="{x:g}" cy="{y:g}" r="7"/>'
            f'<text x="{x:g}" y="{y + 24:g}" text-anchor="middle">{escape(label + shown)}</text></g>'
        )
    return "".join([*parts, "</svg>"])
