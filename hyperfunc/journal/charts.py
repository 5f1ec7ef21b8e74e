"""Line charts as inline SVG, without a plotting library. Knows nothing of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["COLOURS", "line_chart"]

COLOURS = ("#2f6fde", "#e07b22", "#2a9d5c", "#b33fb5", "#8a6d3b", "#d5383b", "#178a99", "#6b7280")
"""Distinct on white and on black, also to most colour-blind readers in this order."""

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 34
_MOST_POINTS = 1500


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, title: str) -> str:
    """An SVG element with one line per series.

    Args:
        series: name -> (x, y) pairs in order of x; y that is not finite leaves a gap.
        x_label: under the axis.
        title: for readers who cannot see it.
    """
    points = [(x, y) for line in series.values() for x, y in line if math.isfinite(y)]
    if not points:
        return '<p class="empty">nothing recorded</p>'
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    y_low, y_high = y_ticks[0], y_ticks[-1]
    x_ticks = [t for t in _ticks(x_low, x_high) if x_low <= t <= x_high and t == int(t)] or [x_low]

    def place(x: float, y: float) -> tuple[float, float]:
        across = 0.5 if x_high == x_low else (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">'
    ]
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{_number(tick)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle:.1f}" y="{_HEIGHT - 3}" text-anchor="middle">{escape(x_label)}</text>'
    )
    for index, (name, line) in enumerate(series.items()):
        parts.append(_line(name, [(place(x, y), (x, y)) for x, y in _thinned(line)], COLOURS[index % len(COLOURS)]))
    parts.append("</svg>")
    names = "".join(
        f'<li><span style="background:{COLOURS[index % len(COLOURS)]}"></span>{escape(name)}</li>'
        for index, name in enumerate(series)
    )
    return f'{"".join(parts)}<ul class="legend">{names}</ul>'


def _line(name: str, points: Sequence[tuple[tuple[float, float], tuple[float, float]]], colour: str) -> str:
    pieces: list[list[tuple[float, float]]] = [[]]
    last = None
    for place, (x, y) in points:
        if math.isfinite(y):
            pieces[-1].append(place)
            last = (place, x, y)
        elif pieces[-1]:
            pieces.append([])
    drawn = []
    for piece in pieces:
        if len(piece) == 1:
            drawn.append(f'<circle cx="{piece[0][0]:.1f}" cy="{piece[0][1]:.1f}" r="3" fill="{colour}"/>')
        elif piece:
            coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            drawn.append(f'<polyline points="{coordinates}" stroke="{colour}"/>')
    if last is not None:
        (place_x, place_y), x, y = last
        tip = escape(f"{name}: {_number(y)} at {_number(x)}")
        drawn.append(
            f'<circle cx="{place_x:.1f}" cy="{place_y:.1f}" r="3.2" fill="{colour}"><title>{tip}</title></circle>'
        )
    return "".join(drawn)


def _thinned(line: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most twice _MOST_POINTS points, with the extremes of each bucket, so that no spike disappears."""
    if len(line) <= 2 * _MOST_POINTS:
        return line
    size = math.ceil(len(line) / _MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(line), size):
        bucket = [point for point in line[start : start + size] if math.isfinite(point[1])]
        if bucket:
            ends = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
            kept += sorted(ends)
    return kept


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers around [low, high]."""
    if low == high:
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if 1e4 <= abs(value) < 1e15:
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:.3g}"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.6g}"
    return f"{value:.3g}"
