"""A family tree of several models: who descends from whom, who are siblings, which ancestor is not among them.

Relatives are joined by squared distances, which add along branches; a model on a branch of (nearly) no length is the
branch point itself, so third models decide between ancestor and sibling where a pair alone cannot: between two siblings
the pair test names the one that drifted less. The root is weighed by the directions of pairs that are neighbors in the
tree; across a hidden branch point only structural evidence counts (copies, grids). What stays open is drawn without an
arrow. A model related to two strangers is taken for a merge of their families. Models that share a random start and
nothing learned are joined by no line: they are named beside the tree, as are pairs of which it is open.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from pedigree.forensics.rooted_tree import Rooted, rooted_tree
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
            near = [k for k in members if kinship(pairs, k, child).descends]
            if near:
                parent = _nearest(near, child, pairs)
                edges.append(_merge_edge(place[parent], place[child], kinship(pairs, parent, child)))
    siblings = _siblings(nodes, edges)
    return TreeResult(
        families=[[names[k] for k in members] for members in families],
        nodes=nodes,
        edges=edges,
        siblings=siblings,
        shared_starts=_joined(families, names, pairs, lambda pair: pair.verdict == "shared-initialization"),
        open_pairs=_joined(families, names, pairs, lambda pair: pair.open_origin),
        pairs_compared=sum(pair.error is None for pair in pairs.values()),
        not_compared=[f"{names[i]} and {names[j]}: {p.error}" for (i, j), p in pairs.items() if p.error],
        not_checked=[
            "ancestors of the roots, and models that are not among the given ones but for the branch points they leave",
            "whether a model between others is their merge; pedigree unmerge MODEL --parents A B tells",
        ],
    )


def _joined(
    families: Sequence[Sequence[int]], names: Sequence[str], pairs: Pairs, joins: Callable[[Kinship], bool]
) -> list[list[str]]:
    """For every two families that a pair joins, the names of the nearest such pair."""
    found = []
    for x, one in enumerate(families):
        for other in families[x + 1 :]:
            hits = [(_distance(pairs, i, j), i, j) for i in one for j in other if joins(kinship(pairs, i, j))]
            if hits:
                _, i, j = min(hits)
                found.append([names[i], names[j]])
    return found


def _nearest(near: Sequence[int], child: int, pairs: Pairs) -> int:
    """The model nearest to a merge, among those of the usual shape: of others only the parts that are nearest match."""
    counts = Counter(kinship(pairs, k, child).matched for k in near)
    usual = max(counts, key=lambda count: (counts[count], count))
    alike = [k for k in near if kinship(pairs, k, child).matched == usual]
    return min(alike, key=lambda k: _distance(pairs, k, child))


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
            near = [k for k in range(n) if k != x and k not in found and kinship(pairs, x, k).descends]
            apart = sum(kinship(pairs, y, z).verdict == "unrelated" for y in near for z in near if y < z)
            if apart:
                counts[x] = apart
        if not counts:
            return found
        most = max(counts, key=lambda x: counts[x])
        found[most] = counts[most]


def _families(members: Sequence[int], pairs: Pairs) -> list[list[int]]:
    """Models that lines of descent join. Trainings of one random start are families of their own."""
    families: list[list[int]] = []
    for k in members:
        mine = [f for f in families if any(kinship(pairs, k, other).descends for other in f)]
        families = [f for f in families if f not in mine] + [sorted([k, *(m for f in mine for m in f)])]
    return sorted(families)


def _distance(pairs: Pairs, i: int, j: int) -> float:
    if i == j:
        return 0.0
    pair = kinship(pairs, i, j)
    return FAR if pair.distance2 is None or not pair.related else pair.distance2


def _distances(pairs: Pairs, heads: Sequence[int]) -> npt.NDArray[np.float64]:
    """Squared distances of a family on one scale, since lengths grow along branches and only differences add up.

    Of feed-forward units alone where every pair has them: heads that were moved cannot be laid side by side, and what
    is matched has to be the same in all pairs.
    """
    both = [kinship(pairs, i, j) for i in heads for j in heads if i < j]
    by_units = bool(both) and all(pair.units is not None for pair in both if pair.related)
    scale = float(np.median([_length(pair, by_units)[1] for pair in both] or [1.0])) or 1.0
    out = np.zeros((len(heads), len(heads)))
    for x, i in enumerate(heads):
        for y, j in enumerate(heads):
            if x != y:
                pair = kinship(pairs, i, j)
                known = pair.distance2 is not None and pair.related
                distance, length = _length(pair, by_units)
                out[x, y] = distance * length / scale if known else _distance(pairs, i, j)
    return out


def _length(pair: Kinship, by_units: bool) -> tuple[float, float]:
    """Squared distance and scale of a pair, of units alone or of all that was matched."""
    if by_units and pair.units is not None:
        return pair.units
    return (FAR if pair.distance2 is None else pair.distance2), pair.mean_square


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
    between = {x: sources for x, sources in find_between(distances).items() if not _is_step(x, sources, heads, pairs)}
    for x, sources in between.items():
        edges += [_between_edge(place[heads[s]], place[heads[x]], kinship(pairs, heads[s], heads[x])) for s in sources]
    stay = [x for x in range(len(heads)) if x not in between]
    heads, groups = [heads[x] for x in stay], [groups[x] for x in stay]
    if len(heads) < 2:
        return
    before_NN = _all_odds(groups, pairs)
    rooted = rooted_tree(distances[np.ix_(stay, stay)], before_NN)
    if rooted is not None:
        _add_rooted(rooted, number, heads, before_NN, pairs, nodes, edges, place)
        return
    graph = neighbor_joining(distances[np.ix_(stay, stay)])
    collapse(graph, lambda v, hidden: _came_before(graph, v, hidden, heads, pairs))
    ids = {v: place[heads[v]] if v < graph.n else f"h{number}.{v - graph.n}" for v in graph.edges}
    nodes += [TreeNode(id=ids[v], kind="hidden", family=number) for v in graph.edges if v >= graph.n]
    for u, v, odds in oriented_edges(graph, heads, groups, pairs):
        reasons = kinship(pairs, heads[u], heads[v]).reasons if max(u, v) < graph.n else ()
        edges.append(_edge(ids[u], ids[v], odds, graph.edges[u][v], "descent", reasons))


def _add_rooted(
    rooted: Rooted,
    number: int,
    heads: Sequence[int],
    odds: npt.NDArray[np.float64],
    pairs: Pairs,
    nodes: list[TreeNode],
    edges: list[TreeEdge],
    place: dict[int, str],
) -> None:
    """The lines of a family whose first model is among the given ones. A hidden point stands between a model and those
    below it, and its lines have the odds of the model before them."""
    n = len(heads)
    ids = {v: place[heads[v]] if v < n else f"h{number}.{v - n}" for v in range(n + rooted.hidden)}
    nodes += [TreeNode(id=ids[v], kind="hidden", family=number) for v in ids if v >= n]
    above = {v: u for u, v, _ in rooted.edges if v >= n}
    below = {v: [w for u, w, _ in rooted.edges if u == v] for v in above}
    for u, v, length in rooted.edges:
        first = above.get(u, u)
        value = min(float(odds[first, w]) for w in below.get(v, [v]))
        reasons = kinship(pairs, heads[u], heads[v]).reasons if max(u, v) < n else ()
        edges.append(_edge(ids[u], ids[v], value, length, "descent", reasons))


def _all_odds(groups: Sequence[Sequence[int]], pairs: Pairs) -> npt.NDArray[np.float64]:
    """Log-odds of every two groups that the first came before the second, if one descends from the other."""
    out = np.zeros((len(groups), len(groups)))
    for x in range(len(groups)):
        for y in range(len(groups)):
            if x != y:
                out[x, y] = _odds(groups[x], groups[y], pairs, True)
    return out


def _is_step(x: int, sources: Sequence[int], heads: Sequence[int], pairs: Pairs) -> bool:
    """Whether a model between others is a step from one to the rest, by who came first, and not their merge."""
    odds = [kinship(pairs, heads[x], heads[s]).log_odds for s in sources]
    before = [value <= -ABSTAIN_BELOW for value in odds]
    after = [value >= ABSTAIN_BELOW for value in odds]
    return sum(before) == 1 and sum(after) == len(odds) - 1


def _came_before(graph: Graph, leaf: int, hidden: int, heads: Sequence[int], pairs: Pairs) -> bool:
    """Whether a leaf came before the models next to it across a hidden vertex, but for those of one branch at most that
    came before it."""
    older = 0
    for neighbor in graph.edges[hidden]:
        if neighbor == leaf:
            continue
        odds = [kinship(pairs, heads[leaf], heads[v]).log_odds for v in _next_models(graph, neighbor, hidden)]
        if all(value <= -ABSTAIN_BELOW for value in odds):
            older += 1
        elif not all(value >= ABSTAIN_BELOW for value in odds):
            return False
    return older <= 1 and older < len(graph.edges[hidden]) - 1


def _next_models(graph: Graph, start: int, origin: int) -> list[int]:
    """The observed vertices that are met first on the way from `origin` over `start`."""
    if start < graph.n:
        return [start]
    return [v for w in graph.edges[start] if w != origin for v in _next_models(graph, w, start)]


STRAIGHT = 0.25
"""Branch ratio (see `mixture`) below which a model lies between relatives rather than on branches of a tree."""


EXACTLY = 0.05
"""The same for a model between two others of which no mixture of all models knows."""

LEAST_WEIGHT = 0.1
"""Weight of a source below which a model is not said to lie between it and others."""


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
            several, two = _straightness(distance_NN, x, others), _between_two(distance_NN, x, others)
            for most, (ratio, sources) in ((STRAIGHT, several), (EXACTLY, two)):
                if ratio < most and (best is None or ratio < best[0]):
                    best = (ratio, x, sources)
        if best is None:
            return found
        found[best[1]] = best[2]


def _straightness(distance_NN: npt.NDArray[np.float64], x: int, others: Sequence[int]) -> tuple[float, list[int]]:
    """Branch ratio of the best mixture of some models, infinite where there is none, and those that take part."""
    d = torch.from_numpy(distance_NN[np.ix_([x, *others], [x, *others])])
    gram = 0.5 * (d[0, :, None] + d[0, None, :] - d)  # inner products, counted from x
    mixture = select_sources([gram, gram, gram], list(range(1, len(others) + 1)))
    if len(mixture.sources) < 2 or min(mixture.weights) < LEAST_WEIGHT:
        return math.inf, []
    return max(mixture.branch_ratios), [others[s - 1] for s in mixture.sources]


def _between_two(distance_NN: npt.NDArray[np.float64], x: int, others: Sequence[int]) -> tuple[float, list[int]]:
    """The same for the two models between which x lies most nearly in a straight line."""
    near_N = distance_NN[x, others]
    apart_NN = np.maximum(distance_NN[np.ix_(others, others)], 1e-300)
    weight_NN = (near_N[:, None] - near_N[None, :] + apart_NN) / (2 * apart_NN)  # of the second
    rest_NN = near_N[:, None] - weight_NN**2 * apart_NN
    inside_NN = np.triu((weight_NN >= LEAST_WEIGHT) & (weight_NN <= 1 - LEAST_WEIGHT), 1)
    inside_NN &= np.minimum(near_N[:, None], near_N[None, :]) >= LEAST_WEIGHT**2 * apart_NN
    if not inside_NN.any():
        return math.inf, []
    ratio_NN = np.where(inside_NN, np.maximum(rest_NN, 0.0) / (weight_NN * (1 - weight_NN) * apart_NN), np.inf)
    y, z = np.unravel_index(int(np.argmin(ratio_NN)), ratio_NN.shape)
    return float(ratio_NN[y, z]), [others[int(y)], others[int(z)]]


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
