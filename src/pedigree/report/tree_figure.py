"""The family tree that weights alone give, as a file of SVG: the drawing of `lineage_figure`, filled from the record.

    solid, with a tip      the weights say which was first          dashed, without    they leave it open
    round, dashed box      an ancestor that nobody has              purple, blue       a merge or between; same weights

The same record gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pedigree.records.family_tree import FamilyTree, TreeEdge, TreeNode
from pedigree.report.lineage_figure import LineageArc, LineageNode, Tint, depth_first, lineage_drawing

_TINTS: dict[str, Tint] = {"merge": "merge", "between": "merge", "same-weights": "same"}
_LEGEND = (
    "arrow: ancestor to descendant; dashed, without arrow: which was first is open",
    "round box: an ancestor that is not among the models",
    "purple: merge (with weights), or between two others; blue: same weights",
)
_FOOT, _LINE, _LEGEND_WIDTH = 18, 14, 480  # room above the legend, height of a line, width of the longest
_COLORS = "svg{color:#1b1f24;background:#fff;padding:12px}text{font-family:system-ui,sans-serif}"


def tree_svg(tree: FamilyTree) -> str:
    """The picture of a tree, complete as a file."""
    names = node_names(tree.result.nodes)
    linked = {end for edge in tree.result.edges for end in (edge.source, edge.target)}
    shown = sorted(tree.result.nodes, key=lambda node: node.id not in linked)  # families first, then who stands alone
    nodes = [_node(node, names[node.id], tree.result.unread) for node in shown]
    arcs = [_arc(edge, names) for edge in tree.result.edges]
    order = sorted(range(len(arcs)), key=lambda i: _weight(tree.result.edges[i]))
    ordered = [arcs[i] for i in order]
    drawn = lineage_drawing(depth_first(nodes, ordered), ordered, apart=True)
    legend = "".join(
        f'<text x="2" y="{drawn.height + _FOOT + _LINE * at}" font-size="10">{words}</text>'
        for at, words in enumerate(_LEGEND)
    )
    width, whole = max(drawn.width, _LEGEND_WIDTH), drawn.height + _FOOT + _LINE * len(_LEGEND)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{whole}" viewBox="0 0 {width} {whole}" '
        f'role="img" aria-label="Family tree of models">\n<style>{_COLORS}</style>\n{drawn.content}\n{legend}\n</svg>\n'
    )


def node_names(nodes: Sequence[TreeNode]) -> dict[str, str]:
    """What each node is called: its folder, with its id where two have one name."""
    short = {node.id: _folder(node.locations[0]) if node.locations else node.id for node in nodes}
    twice = Counter(short.values())
    return {node: name if twice[name] == 1 else f"{name} ({node})" for node, name in short.items()}


def _folder(location: str) -> str:
    """The name of a place; the folder `model` below that of a step is called like the step."""
    parts = [part for part in location.split("/") if part]
    return parts[-2] if len(parts) > 1 and parts[-1] == "model" else parts[-1] if parts else location


def _node(node: TreeNode, name: str, unread: Sequence[str]) -> LineageNode:
    if node.kind == "hidden":
        return LineageNode(name, "not among them", hidden=True)
    more = len(node.locations) - 1
    below = (
        "could not be compared" if node.locations[0] in unread else f"and {more} with the same weights" if more else ""
    )
    return LineageNode(name, below, title=node.locations[0])


def _arc(edge: TreeEdge, names: dict[str, str]) -> LineageArc:
    told = [] if edge.length is None else [f"distance {edge.length:.3g}"]
    told += [] if edge.log_odds is None else [f"log odds {edge.log_odds:.1f}"]
    weight = "" if edge.weight is None else f"{edge.weight:.2f}"
    told += [f"weight {edge.weight:.3f}"] if weight else []
    parent, child = edge.source, edge.target
    if not edge.directed and child.startswith("h"):  # an open line hangs from a hidden ancestor where it has one
        parent, child = child, parent
    return LineageArc(
        names[parent], names[child], "solid" if edge.directed else "dashed", ", ".join(told) or edge.kind,
        open=not edge.directed, tint=_TINTS.get(edge.kind, "plain"), words=weight,
    )  # fmt: skip


def _weight(edge: TreeEdge) -> tuple[bool, bool, float]:
    """Which of several parents a node is placed beside: the surest line of descent."""
    return edge.kind == "merge", not edge.directed, -(edge.log_odds or 0.0)
