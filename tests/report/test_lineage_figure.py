"""One drawing of family trees for claims and for what weights alone say: every state of an arc can be told apart."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ElementTree

from pedigree.records.family_tree import FamilyTree, TreeEdge, TreeNode, TreeResult
from pedigree.report.lineage_figure import (
    LineageArc,
    LineageNode,
    depth_first,
    lineage_drawing,
    lineage_figure,
    parents_first,
)
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


def points_of(path: str) -> list[tuple[float, float]]:
    """Points along a line of M, L and C with absolute places."""
    out: list[tuple[float, float]] = []
    for letter, told in re.findall(r"([MLC])([^MLC]*)", path):
        numbers = [float(n) for n in told.split()]
        ends = list(zip(numbers[::2], numbers[1::2], strict=True))
        start = out[-1] if out else ends[0]
        corners = [start, *ends] if letter == "C" else [start, start, ends[0], ends[0]]
        for step in range(1, 41):
            t = step / 40
            parts = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
            out.append(tuple(sum(p * c[k] for p, c in zip(parts, corners, strict=True)) for k in (0, 1)))  # type: ignore[arg-type]
    return out


def test_no_line_runs_under_a_box_in_trees_of_forty_models_with_merges() -> None:
    g = random.Random(3)
    for _ in range(5):
        nodes = [LineageNode(f"n{k}") for k in range(40)]
        arcs = [LineageArc(f"n{g.randrange(k)}", f"n{k}", "solid") for k in range(3, 40)]
        arcs += [LineageArc(f"n{g.randrange(k)}", f"n{k}", "solid", tint="merge") for k in range(6, 40, 4)]
        root = ElementTree.fromstring(lineage_drawing(depth_first(nodes, arcs), arcs, apart=True).content)
        boxes = [[float(box.get(key, "")) for key in ("x", "y", "width", "height")] for box in root.iter("rect")]
        lines = [path.get("d", "") for path in root.iter("path") if path.get("stroke-width") == "1.3"]
        assert (len(boxes), len(lines)) == (40, len(arcs))
        under = [
            (line, box) for line in lines for box in boxes for x, y in points_of(line)
            if 1 < x - box[0] < box[2] - 1 and 1 < y - box[1] < box[3] - 1
        ]  # fmt: skip
        assert under == []


def test_long_names_of_one_family_are_told_apart_and_strangers_stand_last() -> None:
    long = [f"qwen3-of-a-long-name-trained-on-english-{step}" for step in ("100", "200")]
    picture = tree_svg(measured(line("m1", "m2", directed=True), names=("alone", *long)))
    texts = [element.text for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("text")]
    texts = [text for text in texts if text]
    assert [text[-3:] for text in texts[:3]] == ["100", "200", "one"]
    assert all(text.startswith("qwen3") and "\u2026" in text for text in texts[:2])
