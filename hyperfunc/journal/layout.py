"""Places the nodes of a directed graph in layers, left to right, so that few edges cross.

Sugiyama's method in its simplest form: break cycles, put each node one layer after its farthest predecessor, give long
edges a waypoint in each layer that they pass, order each layer by the mean position of its neighbours. Knows nothing
of what is drawn.

K. Sugiyama, S. Tagawa, M. Toda: Methods for visual understanding of hierarchical system structures. IEEE Transactions
on Systems, Man, and Cybernetics 11(2), 1981.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Layout", "lay_out"]

N = TypeVar("N", bound=Hashable)
_Slot = tuple[str, object]  # ("node", name), or ("way", (edge index, layer))
_SWEEPS = 6


@dataclass(frozen=True, slots=True)
class Layout(Generic[N]):
    """Layers and ranks: ``position[node] = (layer, rank)``, both from 0.

    Attributes:
        paths: for each edge in the order given, the positions that it passes, its ends included.
        layers: how many there are.
        ranks: the size of the largest one.
    """

    position: Mapping[N, tuple[int, float]]
    paths: Sequence[Sequence[tuple[int, float]]]
    layers: int
    ranks: int


def lay_out(nodes: Iterable[N], edges: Sequence[tuple[N, N]]) -> Layout[N]:
    """Lay out ``nodes`` (kept in their order where nothing speaks against it); edges may form cycles and loops."""
    names = list(dict.fromkeys(nodes))
    forward = _without_cycles(names, edges)
    layer = _layers(names, forward)
    columns: list[list[_Slot]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name in names:
        columns[layer[name]].append(("node", name))
    links: list[tuple[_Slot, _Slot]] = []
    chains: list[list[_Slot]] = []
    for index, (source, target) in enumerate(forward):
        chain: list[_Slot] = [("node", source)]
        for between in range(layer[source] + 1, layer[target]):
            chain.append(("way", (index, between)))
            columns[between].append(chain[-1])
        if source != target:
            chain.append(("node", target))
        links += list(itertools.pairwise(chain))
        chains.append(chain if edges[index] == (source, target) else chain[::-1])
    _order(columns, links)
    tallest = max((len(column) for column in columns), default=0)
    place: dict[_Slot, tuple[int, float]] = {}
    for number, column in enumerate(columns):
        for rank, slot in enumerate(column):
            place[slot] = (number, rank + (tallest - len(column)) / 2)  # centred
    return Layout(
        position={name: place["node", name] for name in names},
        paths=[[place[slot] for slot in chain] for chain in chains],
        layers=len(columns),
        ranks=tallest,
    )


def _without_cycles(names: Sequence[N], edges: Sequence[tuple[N, N]]) -> list[tuple[N, N]]:
    """The edges, with those turned round that close a cycle."""
    out: dict[N, list[int]] = {name: [] for name in names}
    for index, (source, _) in enumerate(edges):
        out[source].append(index)
    result = list(edges)
    state: dict[N, int] = {}  # 1: on the path, 2: done
    for root in names:
        if root in state:
            continue
        state[root] = 1
        path = [(root, iter(out[root]))]
        while path:
            name, following = path[-1]
            for index in following:
                target = edges[index][1]
                if state.get(target) == 1 and target != name:
                    result[index] = (target, name)
                elif target not in state:
                    state[target] = 1
                    path.append((target, iter(out[target])))
                    break
            else:
                state[name] = 2
                path.pop()
    return result


def _layers(names: Sequence[N], edges: Sequence[tuple[N, N]]) -> dict[N, int]:
    layer = dict.fromkeys(names, 0)
    waiting = dict.fromkeys(names, 0)
    out: dict[N, list[N]] = {name: [] for name in names}
    for source, target in edges:
        if source != target:
            out[source].append(target)
            waiting[target] += 1
    ready = [name for name in names if waiting[name] == 0]
    for name in ready:
        for target in out[name]:
            layer[target] = max(layer[target], layer[name] + 1)
            waiting[target] -= 1
            if waiting[target] == 0:
                ready.append(target)
    return layer


def _order(columns: list[list[_Slot]], links: Sequence[tuple[_Slot, _Slot]]) -> None:
    before: dict[_Slot, list[_Slot]] = {}
    after: dict[_Slot, list[_Slot]] = {}
    for source, target in links:
        after.setdefault(source, []).append(target)
        before.setdefault(target, []).append(source)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = before if down else after
        for number in range(1, len(columns)) if down else range(len(columns) - 2, -1, -1):
            fixed = {slot: rank for rank, slot in enumerate(columns[number - 1 if down else number + 1])}
            column = columns[number]
            means = {}
            for rank, slot in enumerate(column):
                ranks = [fixed[other] for other in neighbours.get(slot, ()) if other in fixed]
                means[slot] = sum(ranks) / len(ranks) if ranks else float(rank)
            column.sort(key=means.__getitem__)  # stable: equal means keep their order
