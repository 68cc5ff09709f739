"""A family tree as SVG: ancestors above, directed lines with arrows, open ones dashed, hidden ancestors as empty rings.

Drawn from the record alone; the same record gives the same bytes.
"""

from __future__ import annotations

from html import escape

from pedigree.records.family_tree import FamilyTree, TreeEdge, TreeNode
from pedigree.report.plain_text import printable

WIDE, HIGH, GAP_X, GAP_Y, MARGIN = 168, 34, 20, 64, 24
_CLASSES = {"merge": "merge", "between": "merge", "same-weights": "same"}
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1b1f24 } .small { font-size: 10px; fill: #57606a }
rect { fill: #f6f8fa; stroke: #57606a } .hidden { fill: #fff; stroke: #57606a; stroke-dasharray: 3 3 }
path { fill: none; stroke: #1b1f24; stroke-width: 1.4 } .open { stroke-dasharray: 6 4; stroke: #8c959f }
.merge { stroke: #8250df } .same { stroke: #0969da }
"""


def tree_svg(tree: FamilyTree) -> str:
    """The picture of a tree."""
    nodes = {node.id: node for node in tree.result.nodes}
    places = _places(tree)
    width = max((x for x, _ in places.values()), default=0) + WIDE + MARGIN
    height = max((y for _, y in places.values()), default=0) + HIGH + MARGIN + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="img" aria-label="Family tree of models">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" style="fill:#1b1f24;stroke:none"/></marker></defs>',
        *(_line(edge, places) for edge in tree.result.edges),
        *(_box(node, *places[node.id]) for node in nodes.values()),
        f'<text class="small" x="{MARGIN}" y="{height - 14}">arrow: ancestor to descendant; dashed: direction open; '
        "ring: ancestor that is not among the models; purple: merge, or between; blue: same weights</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _places(tree: FamilyTree) -> dict[str, tuple[int, int]]:
    """Upper left corner of each node: leaves side by side, parents above the middle of their children."""
    below: dict[str, list[str]] = {node.id: [] for node in tree.result.nodes}
    above: dict[str, str] = {}
    for edge in sorted(tree.result.edges, key=lambda e: (e.kind == "merge", not e.directed, -(e.log_odds or 0.0))):
        parent, child = _upper(edge)
        if child not in above and not _is_above(above, child, parent):
            above[child] = parent
            below[parent].append(child)
    places: dict[str, tuple[int, int]] = {}
    column = 0
    for root in (node.id for node in tree.result.nodes if node.id not in above):
        column = _put(root, 0, column, below, places)
    return places


def _upper(edge: TreeEdge) -> tuple[str, str]:
    """Parent and child for the layout; an open line hangs from a hidden point where it has one."""
    if not edge.directed and edge.target.startswith("h"):
        return edge.target, edge.source
    return edge.source, edge.target


def _is_above(above: dict[str, str], high: str, low: str) -> bool:
    while low in above:
        low = above[low]
        if low == high:
            return True
    return low == high


def _put(root: str, depth: int, column: int, below: dict[str, list[str]], places: dict[str, tuple[int, int]]) -> int:
    """Place a node and what hangs below it from a column on; returns the next free column."""
    first = column
    for child in below[root]:
        column = _put(child, depth + 1, column, below, places)
    last = max(column - 1, first)
    x = MARGIN + (first + last) * (WIDE + GAP_X) // 2
    places[root] = (x, MARGIN + depth * (HIGH + GAP_Y))
    return max(column, first + 1)


def _line(edge: TreeEdge, places: dict[str, tuple[int, int]]) -> str:
    (x1, y1), (x2, y2) = places[edge.source], places[edge.target]
    start, end = (x1 + WIDE // 2, y1 + HIGH), (x2 + WIDE // 2, y2)
    if y2 < y1:
        start, end = (x1 + WIDE // 2, y1), (x2 + WIDE // 2, y2 + HIGH)
    elif y1 == y2:
        start, end = (x1 + WIDE // 2, y1), (x2 + WIDE // 2, y2)
    middle = (start[1] + end[1]) // 2 - (GAP_Y // 2 if y1 == y2 else 0)
    kinds = [_CLASSES[edge.kind]] if edge.kind in _CLASSES else []
    kinds += [] if edge.directed else ["open"]
    tip = ' marker-end="url(#tip)"' if edge.directed else ""
    told = "" if edge.length is None else f"distance {edge.length:.3g}"
    if edge.log_odds is not None:
        told += f", log odds {edge.log_odds:.1f}"
    return (
        f'<path class="{" ".join(kinds)}" d="M{start[0]} {start[1]} C{start[0]} {middle} {end[0]} {middle} '
        f'{end[0]} {end[1]}"{tip}><title>{escape(told)}</title></path>'
    )


def _box(node: TreeNode, x: int, y: int) -> str:
    if node.kind == "hidden":
        return (
            f'<circle class="hidden" cx="{x + WIDE // 2}" cy="{y + HIGH // 2}" r="{HIGH // 2 - 2}"/>'
            f'<text class="small" x="{x + WIDE // 2 + HIGH // 2 + 4}" y="{y + HIGH // 2 + 4}">not among them</text>'
        )
    name = printable(node.locations[0].rstrip("/").rsplit("/", maxsplit=1)[-1])
    short = name if len(name) <= 24 else name[:10] + "..." + name[-11:]
    return (
        f'<g><title>{escape(printable(node.locations[0]))}</title><rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" '
        f'rx="6"/><text x="{x + WIDE // 2}" y="{y + HIGH // 2 + 4}" text-anchor="middle">{escape(short)}</text></g>'
    )
