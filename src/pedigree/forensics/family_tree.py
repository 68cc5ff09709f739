"""A family tree of several models: who descends from whom, who are siblings, which ancestor is not among them.

Relatives are joined by squared distances, which add along branches; a model on a branch of (nearly) no length is the
branch point itself, so third models decide between ancestor and sibling where a pair alone cannot: between two siblings
the pair test names the one that drifted less. The root is weighed by the directions of pairs that are neighbors in the
tree; across a hidden branch point only structural evidence counts (copies, grids). What stays open is drawn without an
arrow. A model related to two strangers is taken for a merge of their families.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pedigree.forensics.direction import ABSTAIN_BELOW
from pedigree.forensics.joining import Graph, collapse, neighbor_joining
from pedigree.forensics.kinship import Kinship, compare_all
from pedigree.forensics.measure import Progress
from pedigree.forensics.mixture import select_sources
from pedigree.forensics.record import producer
from pedigree.records.family_tree import FamilyTree, TreeEdge, TreeNode, TreeResult

SAME = 1e-6
"""Squared distance below which two models have the same weights but for rounding and disguise."""

FAR = 2.0
"""Squared distance of relatives of which nothing could be matched row by row: that of strangers."""

Pairs = Mapping[tuple[int, int], Kinship]


def kinship(pairs: Pairs, i: int, j: int) -> Kinship:
    """Kinship of i and j, in that order."""
    return pairs[i, j] if i < j else pairs[j, i].turned()


def grow_tree(
    locations: Sequence[str | Path], *, allow_pickle: bool = False, progress: Progress | None = None
) -> FamilyTree:
    """Compare all pairs of models and draw their tree.

    Args:
        locations: two or more models.
        allow_pickle: read torch files (weights only).
        progress: called with (stage, fraction, message).
    """
    start = time.monotonic()
    names = [str(place) for place in locations]
    pairs = compare_all(locations, allow_pickle=allow_pickle, progress=progress)
    result = build_tree(names, pairs)
    result = result.model_copy(update={"seconds": round(time.monotonic() - start, 3)})
    return FamilyTree(
        producer=producer(),
        created=datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z"),
        inputs={"models": names},
        options={"allow_pickle": allow_pickle},
        result=result,
    )


def build_tree(names: Sequence[str], pairs: Pairs) -> TreeResult:
    """The tree of models whose pairs have been compared."""
    merges = find_merges(len(names), pairs)
    families = _families([k for k in range(len(names)) if k not in merges], pairs)
    nodes: list[TreeNode] = []
    edges: list[TreeEdge] = []
    place: dict[int, str] = {}
    for number, members in enumerate(families):
        _add_family(number, members, names, pairs, nodes, edges, place)
    for child in sorted(merges):
        place[child] = f"m{child}"
        nodes.append(TreeNode(id=place[child], locations=[names[child]], family=len(families)))
        for members in families:
            near = [k for k in members if kinship(pairs, k, child).related]
            if near:
                parent = min(near, key=lambda k: _distance(pairs, k, child))
                edges.append(_merge_edge(place[parent], place[child], kinship(pairs, parent, child)))
    siblings = _siblings(nodes, edges)
    return TreeResult(
        families=[[names[k] for k in members] for members in families],
        nodes=nodes,
        edges=edges,
        siblings=siblings,
        pairs_compared=sum(pair.error is None for pair in pairs.values()),
        not_compared=[f"{names[i]} and {names[j]}: {p.error}" for (i, j), p in pairs.items() if p.error],
        not_checked=[
            "ancestors of the roots, and models that are not among the given ones but for the branch points they leave",
            "whether a model between others is their merge; pedigree unmerge MODEL --parents A B tells",
        ],
    )


def _merge_edge(parent: str, child: str, pair: Kinship) -> TreeEdge:
    return TreeEdge(
        **{"from": parent, "to": child}, kind="merge", directed=True, length=pair.distance2,
        reasons=["related to models that are strangers to each other"],
    )  # fmt: skip


def find_merges(n: int, pairs: Pairs) -> dict[int, int]:
    """Models related to strangers, those with most of them first; value: how many pairs of strangers."""
    found: dict[int, int] = {}
    while True:
        counts = {}
        for x in range(n):
            if x in found:
                continue
            near = [k for k in range(n) if k != x and k not in found and kinship(pairs, x, k).related]
            apart = sum(kinship(pairs, y, z).verdict == "unrelated" for y in near for z in near if y < z)
            if apart:
                counts[x] = apart
        if not counts:
            return found
        most = max(counts, key=lambda x: counts[x])
        found[most] = counts[most]


def _families(members: Sequence[int], pairs: Pairs) -> list[list[int]]:
    families: list[list[int]] = []
    for k in members:
        mine = [f for f in families if any(kinship(pairs, k, other).related for other in f)]
        families = [f for f in families if f not in mine] + [sorted([k, *(m for f in mine for m in f)])]
    return sorted(families)


def _distance(pairs: Pairs, i: int, j: int) -> float:
    if i == j:
        return 0.0
    pair = kinship(pairs, i, j)
    return FAR if pair.distance2 is None or not pair.related else pair.distance2


def _distances(pairs: Pairs, heads: Sequence[int]) -> npt.NDArray[np.float64]:
    """Squared distances of a family on one scale, since lengths grow along branches and only differences add up."""
    scales = [kinship(pairs, i, j).mean_square for i in heads for j in heads if i < j]
    scale = float(np.median(scales or [1.0])) or 1.0
    out = np.zeros((len(heads), len(heads)))
    for x, i in enumerate(heads):
        for y, j in enumerate(heads):
            if x != y:
                pair = kinship(pairs, i, j)
                known = pair.distance2 is not None and pair.related
                out[x, y] = _distance(pairs, i, j) * (pair.mean_square / scale if known else 1.0)
    return out


def _add_family(
    number: int,
    members: list[int],
    names: Sequence[str],
    pairs: Pairs,
    nodes: list[TreeNode],
    edges: list[TreeEdge],
    place: dict[int, str],
) -> None:
    groups = _same_weights(members, pairs)
    heads = [_head(group, pairs) for group in groups]
    for group, head in zip(groups, heads, strict=True):
        for k in group:
            place[k] = f"m{k}"
            nodes.append(TreeNode(id=place[k], locations=[names[k]], family=number))
        for k in group:
            if k != head:
                odds = kinship(pairs, head, k).log_odds
                edges.append(_edge(place[head], place[k], odds, 0.0, "same-weights", kinship(pairs, head, k).reasons))
    distances = _distances(pairs, heads)
    between = find_between(distances)
    for x, sources in between.items():
        edges += [_between_edge(place[heads[s]], place[heads[x]], kinship(pairs, heads[s], heads[x])) for s in sources]
    stay = [x for x in range(len(heads)) if x not in between]
    heads, groups = [heads[x] for x in stay], [groups[x] for x in stay]
    if len(heads) < 2:
        return
    graph = neighbor_joining(distances[np.ix_(stay, stay)])
    collapse(graph)
    ids = {v: place[heads[v]] if v < graph.n else f"h{number}.{v - graph.n}" for v in graph.edges}
    nodes += [TreeNode(id=ids[v], kind="hidden", family=number) for v in graph.edges if v >= graph.n]
    for u, v, odds in oriented_edges(graph, heads, groups, pairs):
        reasons = kinship(pairs, heads[u], heads[v]).reasons if max(u, v) < graph.n else ()
        edges.append(_edge(ids[u], ids[v], odds, graph.edges[u][v], "descent", reasons))


STRAIGHT = 0.25
"""Branch ratio (see `mixture`) below which a model lies between relatives rather than on branches of a tree."""


def find_between(distance_NN: npt.NDArray[np.float64]) -> dict[int, list[int]]:
    """Models that lie between others in a straight line, with those others; what a merge inside a family looks like.

    A tree has no place for them, and would turn them into ancestors of what they were merged from.
    """
    found: dict[int, list[int]] = {}
    while True:
        best: tuple[float, int, list[int]] | None = None
        for x in range(len(distance_NN)):
            others = [k for k in range(len(distance_NN)) if k != x and k not in found]
            if x in found or len(others) < 2:
                continue
            d = torch.from_numpy(distance_NN[np.ix_([x, *others], [x, *others])])
            gram = 0.5 * (d[0, :, None] + d[0, None, :] - d)  # inner products, counted from x
            mixture = select_sources([gram, gram, gram], list(range(1, len(others) + 1)))
            ratio = max(mixture.branch_ratios)
            is_between = len(mixture.sources) > 1 and min(mixture.weights) > 0 and ratio < STRAIGHT
            if is_between and (best is None or ratio < best[0]):
                best = (ratio, x, [others[s - 1] for s in mixture.sources])
        if best is None:
            return found
        found[best[1]] = best[2]


def _between_edge(source: str, child: str, pair: Kinship) -> TreeEdge:
    return TreeEdge(
        **{"from": source, "to": child}, kind="between", directed=False, length=pair.distance2,
        reasons=["it lies between its neighbors: a merge of them, or a step on the way from one to the other"],
    )  # fmt: skip


def _edge(u: str, v: str, odds: float, length: float, kind: str, reasons: Sequence[str]) -> TreeEdge:
    if odds < 0:
        u, v, odds = v, u, -odds
    return TreeEdge(
        **{"from": u, "to": v}, kind=kind, directed=odds >= ABSTAIN_BELOW, log_odds=odds, length=length,
        reasons=list(reasons),
    )  # fmt: skip


def _same_weights(members: Sequence[int], pairs: Pairs) -> list[list[int]]:
    groups: list[list[int]] = []
    for k in members:
        mine = next((g for g in groups if _distance(pairs, g[0], k) <= SAME), None)
        if mine is None:
            groups.append([k])
        else:
            mine.append(k)
    return groups


def _head(group: Sequence[int], pairs: Pairs) -> int:
    """The member that most directions name as the first."""
    return max(group, key=lambda k: sum(kinship(pairs, k, other).log_odds for other in group if other != k))


def oriented_edges(
    graph: Graph, heads: Sequence[int], groups: Sequence[Sequence[int]], pairs: Pairs
) -> list[tuple[int, int, float]]:
    """Every edge once, with the log-odds that its first vertex is the ancestor.

    Each vertex is weighed as the root by the directions it implies; an edge points away from the heavier side.
    """
    score = {root: _root_score(graph, root, heads, groups, pairs) for root in graph.edges}
    out = []
    for u in graph.edges:
        for v in graph.edges[u]:
            if u < v:
                side = _side_of(graph, u, v)
                mine = _log_sum(score[w] for w in side)
                other = _log_sum(score[w] for w in graph.edges if w not in side)
                out.append((u, v, mine - other))
    return out


def _root_score(graph: Graph, root: int, heads: Sequence[int], groups: Sequence[Sequence[int]], pairs: Pairs) -> float:
    total, stack = 0.0, [(root, -1, -1, True)]
    while stack:
        v, parent, above, direct = stack.pop()
        if 0 <= v < graph.n:
            if above >= 0:
                # Half, since the opposite root counts the same pair against: their difference is the pair's log-odds.
                total += 0.5 * _odds(groups[above], groups[v], pairs, direct)
            above, direct = v, True
        elif above >= 0:
            direct = False
        stack += [(w, v, above, direct) for w in graph.edges[v] if w != parent]
    return total


def _odds(first: Sequence[int], second: Sequence[int], pairs: Pairs, direct: bool) -> float:
    """Log-odds between two groups of equal weights: the pair that says most."""
    found = [kinship(pairs, i, j) for i in first for j in second]
    values = [pair.log_odds if direct else pair.structural for pair in found]
    return max(values, key=abs)


def _side_of(graph: Graph, u: int, v: int) -> set[int]:
    """Vertices on u's side of the edge u-v."""
    seen, stack = {u}, [u]
    while stack:
        for w in graph.edges[stack.pop()]:
            if w not in seen and w != v:
                seen.add(w)
                stack.append(w)
    return seen


def _log_sum(values: Iterable[float]) -> float:
    found = list(values)
    top = max(found)
    return float(top + math.log(sum(math.exp(value - top) for value in found)))


def _siblings(nodes: Sequence[TreeNode], edges: Sequence[TreeEdge]) -> list[list[str]]:
    """Models that hang below one point: children of a model by directed edges, neighbors of a hidden point."""
    names = {node.id: node.locations[0] for node in nodes if node.kind == "model"}
    out = []
    for node in nodes:
        mine = [e for e in edges if e.kind == "descent" and node.id in (e.source, e.target)]
        below = [e.target for e in mine if e.source == node.id and (e.directed or node.kind == "hidden")]
        if node.kind == "hidden":
            below += [e.source for e in mine if e.target == node.id and not e.directed]
        found = sorted(names[b] for b in below if b in names)
        if len(found) > 1:
            out.append(found)
    return out
