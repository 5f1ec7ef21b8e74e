"""The call graph of a run: which component calls which, and whose output goes where. As Graphviz DOT or as SVG.

The SVG is drawn here, without Graphviz. Knows nothing of SQLite: it is made from traces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from hyperfunc.journal.layout import lay_out
from hyperfunc.journal.records import TracedCall, TraceRecord
from hyperfunc.usage import Usage

__all__ = ["CallGraph", "GraphEdge", "GraphNode", "graph_of_calls", "graph_of_components", "to_dot", "to_svg"]

EdgeKind = Literal["calls", "feeds"]

_NODE_WIDTH, _NODE_HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 250, 58, 70, 24, 16


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A component, or one call of it.

    Attributes:
        calls, errors: how many calls it stands for, and how many of them failed.
        seconds: their mean duration.
    """

    id: str
    label: str
    calls: int
    errors: int
    seconds: float
    usage: Usage


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """``calls``: the source called the target. ``feeds``: the source's output went into the target.

    ``certain`` is false where the data's way is only inferred from the order of calls.
    """

    source: str
    target: str
    kind: EdgeKind
    count: int
    certain: bool


@dataclass(frozen=True, slots=True)
class CallGraph:
    """Nodes in order of their first call, and the edges between them."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]


def graph_of_components(traces: Iterable[TraceRecord]) -> CallGraph:
    """One node per component, over all ``traces``."""
    grouped: dict[str, list[TracedCall]] = {}
    edges: dict[tuple[str, str, EdgeKind], list[bool]] = {}
    for trace in traces:
        for call in trace.calls:
            grouped.setdefault(call.function, []).append(call)
        for source, target, kind, certain in _trace_edges(trace):
            names = (trace.calls[source].function, trace.calls[target].function)
            edges.setdefault((*names, kind), []).append(certain)
    return CallGraph(
        tuple(_node(name, name, calls) for name, calls in grouped.items()),
        tuple(GraphEdge(s, t, kind, len(found), any(found)) for (s, t, kind), found in edges.items()),
    )


def graph_of_calls(trace: TraceRecord) -> CallGraph:
    """One node per call of one execution."""
    return CallGraph(
        tuple(_node(str(call.id), call.function, [call]) for call in trace.calls),
        tuple(GraphEdge(str(s), str(t), kind, 1, certain) for s, t, kind, certain in _trace_edges(trace)),
    )


def to_dot(graph: CallGraph, title: str = "hyperfunc") -> str:
    """Graphviz DOT; solid edges are calls, dashed ones dataflow, dotted ones dataflow inferred from the order."""
    lines = [
        f"digraph {_quoted(title)} {{",
        "  rankdir=LR;",
        '  node [shape=box, style=rounded, fontname="sans-serif"];',
    ]
    for node in graph.nodes:
        colour = ", color=red" if node.errors else ""
        lines.append(f"  {_quoted(node.id)} [label={_quoted(_caption(node))}{colour}];")
    for edge in graph.edges:
        style = "solid" if edge.kind == "calls" else "dashed" if edge.certain else "dotted"
        label = f", label={_quoted(f'×{edge.count}')}" if edge.count > 1 else ""
        lines.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [style={style}{label}];")
    return "\n".join([*lines, "}", ""])


def to_svg(graph: CallGraph, title: str = "call graph") -> str:
    """An SVG element with its own styles, readable on light and dark pages."""
    layout = lay_out([node.id for node in graph.nodes], [(edge.source, edge.target) for edge in graph.edges])
    width = 2 * _MARGIN + layout.layers * _NODE_WIDTH + max(0, layout.layers - 1) * _GAP_X
    height = 2 * _MARGIN + max(1, layout.ranks) * (_NODE_HEIGHT + _GAP_Y) - _GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(title)}">',
        _STYLE,
    ]
    for edge, path in zip(graph.edges, layout.paths, strict=True):
        style = "calls" if edge.kind == "calls" else "feeds" if edge.certain else "feeds guessed"
        count = f" ×{edge.count}" if edge.count > 1 else ""
        tip = escape(f"{edge.source} {edge.kind} {edge.target}{count}")
        parts.append(
            f'<path class="edge {style}" marker-end="url(#arrow)" d="{_curve(path)}"><title>{tip}</title></path>'
        )
    for node in graph.nodes:
        x, y = _corner(layout.position[node.id])
        label, *details = _caption(node).split("\n")
        shown = label if len(label) <= 34 else f"{label[:33]}…"
        failed = " failed" if node.errors else ""
        parts.append(
            f'<g class="node{failed}"><title>{escape(_caption(node))}</title>'
            f'<rect x="{x:g}" y="{y:g}" width="{_NODE_WIDTH}" height="{_NODE_HEIGHT}" rx="8"/>'
            f'<text x="{x + 10:g}" y="{y + 23:g}" class="name">{escape(shown)}</text>'
            f'<text x="{x + 10:g}" y="{y + 43:g}" class="detail">{escape(" · ".join(details))}</text></g>'
        )
    return "".join([*parts, "</svg>"])


_STYLE = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="#7a8699"/></marker></defs><style>'
    ".graph text{font-family:system-ui,sans-serif;fill:currentColor}.graph .name{font-size:13px;font-weight:600}"
    ".graph .detail{font-size:11px;opacity:.7}.graph rect{fill:none;stroke:#7a8699;stroke-width:1.2}"
    ".graph .failed rect{stroke:#d5383b;stroke-width:2}.graph .edge{fill:none;stroke:#7a8699;stroke-width:1.3}"
    ".graph .feeds{stroke-dasharray:6 4}.graph .guessed{stroke-dasharray:2 4}</style>"
)


def _trace_edges(trace: TraceRecord) -> list[tuple[int, int, EdgeKind, bool]]:
    edges: list[tuple[int, int, EdgeKind, bool]] = []
    for call in trace.calls:
        if call.parent is not None:
            edges.append((call.parent, call.id, "calls", True))
    for source, target, kind in trace.edges:
        edges.append((source, target, "feeds", kind != "order"))
    return edges


def _node(identity: str, label: str, calls: Sequence[TracedCall]) -> GraphNode:
    return GraphNode(
        id=identity,
        label=label,
        calls=len(calls),
        errors=sum(call.error is not None for call in calls),
        seconds=sum(call.seconds for call in calls) / len(calls),
        usage=sum((call.usage for call in calls), Usage()),
    )


def _caption(node: GraphNode) -> str:
    times = f"{node.calls} calls" if node.calls != 1 else "1 call"
    details = [times, f"{node.seconds * 1000:.3g} ms"]
    if node.errors:
        details.append(f"{node.errors} failed")
    if node.usage.usd:
        details.append(f"${node.usage.usd:.4g}")
    return "\n".join([node.label, *details])


def _corner(position: tuple[int, float]) -> tuple[float, float]:
    layer, rank = position
    return _MARGIN + layer * (_NODE_WIDTH + _GAP_X), _MARGIN + rank * (_NODE_HEIGHT + _GAP_Y)


def _curve(path: Sequence[tuple[int, float]]) -> str:
    corners = [_corner(position) for position in path]
    middle = _NODE_HEIGHT / 2
    if len(corners) == 1:  # a component that calls itself
        x, y = corners[0]
        return f"M{x + 40:g} {y:g} C{x + 30:g} {y - 22:g} {x + 90:g} {y - 22:g} {x + 80:g} {y:g}"
    backwards = corners[0][0] > corners[-1][0]
    leave, enter = (0, _NODE_WIDTH) if backwards else (_NODE_WIDTH, 0)
    x, y = corners[0][0] + leave, corners[0][1] + middle
    commands = [f"M{x:g} {y:g}"]
    for index, (left, top) in enumerate(corners[1:], start=1):
        next_x, next_y = left + enter, top + middle
        bend = (next_x - x) / 2
        commands.append(f"C{x + bend:g} {y:g} {next_x - bend:g} {next_y:g} {next_x:g} {next_y:g}")
        x, y = next_x, next_y
        if index < len(corners) - 1:  # straight through a waypoint's column
            x += leave - enter
            commands.append(f"L{x:g} {y:g}")
    return " ".join(commands)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
