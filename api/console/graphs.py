"""A graph of a few named nodes as SVG that the server draws, from what comes first, above, to what comes of it.

Here is only where boxes and lines stand; colours come from the style sheets, by class. The page shows a table with
the same edges beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

_WIDTH: Final = 208
_HEIGHT: Final = 50
_GAP: Final = 20
_BETWEEN: Final = 40
_MARGIN: Final = 2
_LONGEST: Final = 26


@dataclass(frozen=True, slots=True)
class Node:
    """A box: its label, a note below it, and where the table leads; `strong` is what the graph is about."""

    id: str
    label: str
    note: str
    href: str | None = None
    strong: bool = False
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes, and edges (from, to) by their ids, without circles."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]

    def node(self, node_id: str) -> Node:
        """The node of this id; raises StopIteration for none."""
        return next(node for node in self.nodes if node.id == node_id)


def draw(graph: Graph, *, title: str) -> Markup:
    """The drawing in its own size, in CSS pixels; `title` says what is shown to whoever cannot see it."""
    rows = _rows(graph)
    widest = max(map(len, rows), default=1)
    width = widest * (_WIDTH + _GAP) - _GAP + 2 * _MARGIN
    height = len(rows) * (_HEIGHT + _BETWEEN) - _BETWEEN + 2 * _MARGIN
    places = {
        node.id: (
            _MARGIN + (widest - len(row)) * (_WIDTH + _GAP) // 2 + number * (_WIDTH + _GAP),
            _MARGIN + level * (_HEIGHT + _BETWEEN),
        )
        for level, row in enumerate(rows)
        for number, node in enumerate(row)
    }
    lines = Markup("").join(_line(places[start], places[end]) for start, end in graph.edges)
    boxes = Markup("").join(_box(node, *places[node.id]) for node in graph.nodes)
    return Markup(
        '<svg class="graph" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" aria-label="{2}">{3}{4}</svg>'
    ).format(width, height, title, lines, boxes)


def _rows(graph: Graph) -> list[list[Node]]:
    """Each node one row below the lowest that it comes from."""
    levels = {node.id: 0 for node in graph.nodes}
    # Each pass settles at least one more row; without circles there are no more rows than nodes.
    for _ in graph.nodes:
        for start, end in graph.edges:
            levels[end] = min(max(levels[end], levels[start] + 1), len(levels) - 1)
    rows: list[list[Node]] = [[] for _ in range(max(levels.values(), default=-1) + 1)]
    for node in graph.nodes:
        rows[levels[node.id]].append(node)
    return rows


def _line(start: tuple[int, int], end: tuple[int, int]) -> Markup:
    x1, y1, x2, y2 = start[0] + _WIDTH // 2, start[1] + _HEIGHT, end[0] + _WIDTH // 2, end[1]
    middle = (y1 + y2) // 2
    return Markup(
        '<path class="edge" d="M{} {}C{} {} {} {} {} {}"/><circle class="tip" cx="{}" cy="{}" r="3"/>'
    ).format(x1, y1, x1, middle, x2, middle, x2, y2, x2, y2)


def _box(node: Node, x: int, y: int) -> Markup:
    tone = "strong" if node.strong else "outside" if node.outside else "plain"
    label = node.label if len(node.label) <= _LONGEST else f"…{node.label[1 - _LONGEST :]}"
    return Markup(
        '<g class="node {}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="8"/>'
        '<text x="{}" y="{}">{}</text><text class="note" x="{}" y="{}">{}</text></g>'
    ).format(tone, node.label, x, y, _WIDTH, _HEIGHT, x + 14, y + 21, label, x + 14, y + 39, node.note)
