"""A family tree as one SVG: models from left to right, the oldest first, an arc from each parent to its child.

How an arc is drawn says how well it stands: solid where the weights corroborate it, dashed where it is only claimed or
the weights cannot say, hatched where the weights contradict it. An arc without a tip leaves open which end came first.
No color is needed to read it. What is drawn comes from two sides: claims (`certificate`, `family_page`) and the tree
that weights alone give (`tree_figure`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from pedigree.report.plain_text import printable

ArcStyle = Literal["solid", "dashed", "hatched"]
Tint = Literal["plain", "merge", "same"]

_BOX, _HEIGHT, _GAP, _ROW = 188, 34, 40, 46
_LETTERS, _SMALL_LETTERS = 24, 31  # that fit into a box
_INK, _MARK = "currentColor", "#b4440a"
_TINTS: Mapping[Tint, str] = {"plain": _INK, "merge": "#8250df", "same": "#0969da"}
_TIP = 7  # length of the tip of an arc


@dataclass(frozen=True)
class LineageNode:
    """A model: its name, a line of facts below it, the whole name for who points at it; `hidden`: nobody has it."""

    name: str
    below: str = ""
    title: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class LineageArc:
    """From a parent to a child, by name; `open`: which of the two was first is not known; `words` stand at its tip."""

    parent: str
    child: str
    style: ArcStyle
    label: str = ""
    open: bool = False
    tint: Tint = "plain"
    words: str = ""


@dataclass(frozen=True)
class Drawing:
    """Lines and boxes, and the room that they take, in pixels."""

    content: str
    width: int
    height: int


def lineage_figure(nodes: Sequence[LineageNode], arcs: Sequence[LineageArc]) -> str:
    """The tree as an SVG element for a page; see `lineage_drawing`."""
    drawn = lineage_drawing(nodes, arcs)
    return (
        f'<svg class="figure" role="img" aria-label="family tree" viewBox="0 0 {drawn.width} {drawn.height}" '
        f'style="max-width:{drawn.width}px">{drawn.content}</svg>'
    )


def lineage_drawing(nodes: Sequence[LineageNode], arcs: Sequence[LineageArc], *, apart: bool = False) -> Drawing:
    """The tree as a group of SVG; nodes in an order in which parents stand before their children.

    Arcs that name no node are left out. The same input gives the same bytes.

    Args:
        nodes, arcs: the tree.
        apart: keep rows free to the right of a node, so that what descends from it shares them with nothing else; for
            nodes in an order in which everything that descends from one stands behind it (`depth_first`).
    """
    column = _columns(nodes, arcs)
    row = _rows(nodes, arcs, column, apart)
    width = (max(column.values(), default=0) + 1) * (_BOX + _GAP) - _GAP + 4
    height = (max(row.values(), default=0) + 1) * _ROW
    place = {node.name: (2 + column[node.name] * (_BOX + _GAP), 4 + row[node.name] * _ROW) for node in nodes}
    taken = {(column[node.name], row[node.name]) for node in nodes}
    said: Counter[tuple[str, bool]] = Counter()
    lines = []
    for arc in arcs:
        if arc.parent in place and arc.child in place:
            lane = _lane(arc, column, row, taken)
            side = arc.child, _from_below(arc, place, lane)
            lines.append(_arc(arc, place, lane, said[side]))
            said[side] += bool(arc.words)
    boxes = [_box(node, *place[node.name]) for node in nodes]
    look = f'fill="none" stroke="{_INK}" font-size="11" font-family="system-ui, sans-serif"'
    return Drawing(f"<g {look}>{''.join(lines)}{''.join(boxes)}</g>", width, height)


def parents_first(nodes: Sequence[LineageNode], arcs: Sequence[LineageArc]) -> list[LineageNode]:
    """The nodes in an order in which parents stand before their children, as far as the arcs allow one."""
    left, placed = {node.name: node for node in nodes}, []
    while left:
        free = [name for name in left if not any(arc.child == name and arc.parent in left for arc in arcs)]
        name = free[0] if free else next(iter(left))
        placed.append(left.pop(name))
    return placed


def depth_first(nodes: Sequence[LineageNode], arcs: Sequence[LineageArc]) -> list[LineageNode]:
    """The nodes in an order in which each is followed by what descends from it, as far as other parents allow it."""
    named = {node.name: node for node in nodes}
    parents: dict[str, set[str]] = {name: set() for name in named}
    children: dict[str, list[str]] = {name: [] for name in named}
    for arc in arcs:
        if arc.parent in named and arc.child in named and arc.parent not in parents[arc.child]:
            parents[arc.child].add(arc.parent)
            children[arc.parent].append(arc.child)
    placed: dict[str, LineageNode] = {}

    def walk(name: str) -> None:
        if name in placed or not parents[name] <= placed.keys():
            return
        placed[name] = named[name]
        for child in children[name]:
            walk(child)

    for name in named:
        if not parents[name]:
            walk(name)
    return [*placed.values(), *parents_first([n for n in nodes if n.name not in placed], arcs)]


def _columns(nodes: Sequence[LineageNode], arcs: Sequence[LineageArc]) -> dict[str, int]:
    """How many arcs lie at most between a node and the oldest of its ancestors."""
    names = [node.name for node in nodes]
    before: dict[str, list[str]] = {name: [] for name in names}
    for arc in arcs:
        if arc.parent in before and arc.child in before and names.index(arc.parent) < names.index(arc.child):
            before[arc.child].append(arc.parent)
    column: dict[str, int] = {}
    for name in names:
        column[name] = 1 + max((column[parent] for parent in before[name]), default=-1)
    return column


def _rows(
    nodes: Sequence[LineageNode], arcs: Sequence[LineageArc], column: Mapping[str, int], apart: bool
) -> dict[str, int]:
    """A row for each node: beside its first parent where that place is free, else the next free one below."""
    parent: dict[str, str] = {}
    for arc in arcs:
        if arc.style != "hatched":
            parent.setdefault(arc.child, arc.parent)
    taken: set[tuple[int, int]] = set()
    row: dict[str, int] = {}
    lowest = -1
    for node in nodes:
        first = row.get(parent.get(node.name, ""))
        at = lowest + 1 if first is None else first
        while any(y == at and (x == column[node.name] or (apart and x > column[node.name])) for x, y in taken):
            at += 1
        # Nothing else may stand in this row further left than its parent: arcs would run through it.
        taken.add((column[node.name], at))
        row[node.name] = at
        lowest = max(lowest, at)
    return row


def _box(node: LineageNode, x: int, y: int) -> str:
    name, below = printable(node.name), printable(node.below)
    if node.hidden:
        return (
            f'<g><title>{escape(name)}</title><rect x="{x}" y="{y}" width="{_BOX}" height="{_HEIGHT}" '
            f'rx="{_HEIGHT // 2}" fill="var(--panel, #f5f6f8)" stroke-dasharray="3 3"/>'
            f'<text x="{x + _BOX // 2}" y="{y + 21}" font-size="9.5" text-anchor="middle" fill="{_INK}" '
            f'stroke="none">{escape(_cut(below, _SMALL_LETTERS))}</text></g>'
        )
    # Names of one family often begin alike and end apart.
    shown, told = escape(_cut(name, _LETTERS, _LETTERS // 2)), escape(_cut(below, _SMALL_LETTERS))
    return (
        f'<g><title>{escape(printable(node.title) or name)}</title><rect x="{x}" y="{y}" width="{_BOX}" '
        f'height="{_HEIGHT}" rx="3" fill="var(--panel, #f5f6f8)" stroke-width="0.9"/>'
        f'<g fill="{_INK}" stroke="none">'
        f'<text x="{x + 7}" y="{y + (14 if told else 21)}" font-weight="600">{shown}</text>'
        f'<text x="{x + 7}" y="{y + 27}" font-size="9.5">{told}</text></g></g>'
    )


def _cut(text: str, letters: int, end: int = 0) -> str:
    """As much of a text as fits, of which the last `end` letters."""
    if len(text) <= letters:
        return text
    return text[: letters - 1 - end] + "\u2026" + text[len(text) - end :]


def _lane(
    arc: LineageArc, column: Mapping[str, int], row: Mapping[str, int], taken: set[tuple[int, int]]
) -> int | None:
    """The height at which an arc runs between the rows of boxes, where a box stands in its way; None elsewhere. Arcs
    from other columns run beside each other."""
    if arc.parent not in column or arc.child not in column:
        return None
    (x0, y0), (x1, y1) = (column[arc.parent], row[arc.parent]), (column[arc.child], row[arc.child])
    between = range(min(x0, x1) + 1, max(x0, x1))
    if not any((x, y0) in taken for x in between):
        return None
    below = 4 + (y0 + (y1 >= y0)) * _ROW - (_ROW - _HEIGHT) // 2
    return below + (x0 % 3 - 1) * 3


def _way(start: int, end: int, heights: tuple[int, int], lane: int | None, stop: int) -> str:
    """The line of an arc that ends at `stop`, before `end`."""
    y0, y1 = heights
    if lane is not None:
        half = _GAP // 2 if end > start else -_GAP // 2
        out, back = start + half, end - half
        return (
            f"M{start} {y0}C{out} {y0} {out} {lane} {out + half} {lane}L{back - half} {lane}"
            f"C{back} {lane} {back} {y1} {stop} {y1}"
        )
    # A long arc leaves on its own height and crosses in the last gap, so that it passes between the boxes.
    if abs(end - start) <= 2 * _GAP:
        turn = start + (end - start) // 2
        return f"M{start} {y0}C{turn} {y0} {turn} {y1} {stop} {y1}"
    half = _GAP // 2 if end > start else -_GAP // 2
    return f"M{start} {y0}L{end - 2 * half} {y0}C{end - half} {y0} {end - half} {y1} {stop} {y1}"


def _from_below(arc: LineageArc, place: Mapping[str, tuple[int, int]], lane: int | None) -> bool:
    """Whether an arc comes to its child from below."""
    y1 = place[arc.child][1]
    return lane > y1 + _HEIGHT // 2 if lane is not None else place[arc.parent][1] > y1


def _arc(arc: LineageArc, place: Mapping[str, tuple[int, int]], lane: int | None, said: int) -> str:
    """One arc; `said` is how many words stand at the tip already, on the side from which it comes."""
    (x0, y0), (x1, y1) = place[arc.parent], place[arc.child]
    y0, y1 = y0 + _HEIGHT // 2, y1 + _HEIGHT // 2
    start, end = (x0 + _BOX, x1) if x1 > x0 else (x0, x1 + _BOX)
    ink = _MARK if arc.style == "hatched" else _TINTS[arc.tint]
    back = end - _TIP if x1 > x0 else end + _TIP
    tip = "" if arc.open else f'<path d="M{back} {y1 - 4}L{end} {y1}L{back} {y1 + 4}z" fill="{ink}" stroke="none"/>'
    line = _way(start, end, (y0, y1), lane, end if arc.open else back)
    title = f"<title>{escape(printable(f'{arc.parent} to {arc.child}: {arc.label or arc.style}'))}</title>"
    if arc.style == "hatched":
        # Short strokes across the line: a wide line of narrow dashes over a thin one.
        drawn = (
            f'<path d="{line}" stroke="{ink}" stroke-width="1"/>'
            f'<path d="{line}" stroke="{ink}" stroke-width="9" stroke-dasharray="1.4 4.6"/>'
        )
    else:
        dash = ' stroke-dasharray="5 4"' if arc.style == "dashed" else ""
        drawn = f'<path d="{line}" stroke="{ink}" stroke-width="1.3"{dash}/>'
    # Words stand behind the tip, on the side from which the line comes, where no other line of the child does.
    aside, away = (10, 12 + 10 * said) if _from_below(arc, place, lane) else (3, -4 - 10 * said)
    beside, anchor = (back - aside, "end") if x1 > x0 else (back + aside, "start")
    words = "" if not arc.words else (
        f'<text x="{beside}" y="{y1 + away}" font-size="8.5" fill="{ink}" stroke="none" text-anchor="{anchor}">'
        f'{escape(printable(arc.words))}</text>'
    )  # fmt: skip
    return f"<g>{title}{drawn}{tip}{words}</g>"
