"""One drawing of family trees for claims and for what weights alone say: every state of an arc can be told apart."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from pedigree.records.family_tree import FamilyTree, TreeEdge, TreeNode, TreeResult
from pedigree.report.lineage_figure import LineageArc, LineageNode, lineage_figure, parents_first
from pedigree.report.tree_figure import tree_svg


def measured(*edges: TreeEdge, names: tuple[str, ...] = ("a", "b", "c")) -> FamilyTree:
    nodes = [TreeNode(id=f"m{at}", kind="model", locations=[name]) for at, name in enumerate(names)]
    return FamilyTree(result=TreeResult(nodes=[*nodes, TreeNode(id="h0", kind="hidden", locations=[])], edges=edges))


def line(parent: str, child: str, **more: object) -> TreeEdge:
    return TreeEdge.model_validate({"from": parent, "to": child, **more})


def test_every_state_of_an_arc_is_told_without_color() -> None:
    nodes = [LineageNode(name) for name in "abcde"]
    arcs = [LineageArc("a", "b", "solid"), LineageArc("a", "c", "dashed"), LineageArc("a", "d", "hatched"),
            LineageArc("a", "e", "dashed", open=True)]  # fmt: skip
    drawn = lineage_figure(nodes, arcs)
    root = ElementTree.fromstring(drawn)
    groups = [group for group in root.iter("g") if " to " in group.findtext("title", "")]
    shapes = {tuple(str(path.get("stroke-dasharray")) for path in group.iter("path")) for group in groups}
    assert len(groups) == len(shapes) == 4
    assert lineage_figure(nodes, arcs) == drawn


def test_the_tree_of_weights_is_drawn_by_the_same_hand() -> None:
    tree = measured(
        line("m0", "m1", directed=True, log_odds=7.0, length=0.01), line("m2", "h0", length=0.5),
        line("m1", "m2", kind="same-weights"),
        names=("/runs/base/model", "/runs/left/model", "/x/<b>"),
    )  # fmt: skip
    picture = tree_svg(tree)
    root = ElementTree.fromstring(picture)
    texts = "".join(root.itertext())
    assert all(words in texts for words in ("base", "left", "<b>", "not among them"))
    assert "base to left: distance 0.01, log odds 7.0" in texts
    assert "h0 to <b>: distance 0.5" in texts  # an open line hangs from the ancestor that nobody has
    assert tree_svg(tree) == picture


def test_weights_of_a_merge_stand_at_its_lines_and_an_unread_model_says_so() -> None:
    tree = measured(
        line("m0", "m2", kind="merge", directed=True, weight=0.3), line("m1", "m2", kind="merge", weight=0.7)
    )
    unread = tree.model_copy(update={"result": tree.result.model_copy(update={"unread": ["b"]})})
    texts = [element.text for element in ElementTree.fromstring(tree_svg(unread)).iter() if element.text]
    assert {"0.30", "0.70", "could not be compared", "a to c: weight 0.300"} <= set(texts)


def test_parents_stand_before_children_and_circles_end() -> None:
    nodes = [LineageNode(name) for name in ("c", "b", "a")]
    arcs = [LineageArc("a", "b", "solid"), LineageArc("b", "c", "solid")]
    assert [node.name for node in parents_first(nodes, arcs)] == ["a", "b", "c"]
    assert len(parents_first(nodes, [*arcs, LineageArc("c", "a", "solid")])) == 3
