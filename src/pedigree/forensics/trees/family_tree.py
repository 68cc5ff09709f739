"""A family tree of several models: who descends from whom, who are siblings, which ancestor is not among them.

1. Families and hybrids are told apart (`strains`): a hybrid is a merge of strangers, or descends from one.
2. In a family, models that lie between two others in a straight line are merges of them (`tree_merges`).
3. Where one model came before all others, everyone else is placed below it (`placement`, `rooted_tree`): third models
   decide between ancestor and sibling where a pair alone cannot: it names the sibling that drifted less.
4. Elsewhere relatives are joined by squared distances (`joining`); a model on a branch of (nearly) no length is the
   branch point itself. The root is weighed by the directions of pairs that are neighbors in the tree; across a hidden
   branch point only structural evidence counts (copies, grids).

What stays open is drawn without an arrow.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pedigree.forensics.comparison.direction import ABSTAIN_BELOW
from pedigree.forensics.comparison.measure import Progress
from pedigree.forensics.comparison.record import producer
from pedigree.forensics.trees.family_rows import CommonRows, common_rows
from pedigree.forensics.trees.joining import Graph, collapse, neighbor_joining
from pedigree.forensics.trees.kinship import KeptPairs, Kinship, compare_all
from pedigree.forensics.trees.placement import MORE
from pedigree.forensics.trees.rooted_tree import Rooted, rooted_tree, tree_below
from pedigree.forensics.trees.strains import Pairs, kinship, split
from pedigree.forensics.trees.tree_merges import (
    EXACT,
    Merge,
    Mixed,
    Weigh,
    find_joint_merges,
    find_merges,
    first_hand,
    nearest_first,
    parents_of_hybrid,
    unmerged,
)
from pedigree.forensics.trees.tree_odds import (
    all_odds,
    before_most,
    drift_odds,
    exact_odds,
    pair_odds,
    told_odds,
    worn_odds,
)
from pedigree.forensics.trees.ways import Ways, ways_of
from pedigree.records.family_tree import FamilyTree, TreeEdge, TreeNode, TreeResult

Floats = npt.NDArray[np.float64]


def grow_tree(
    locations: Sequence[str | Path],
    *,
    allow_pickle: bool = False,
    progress: Progress | None = None,
    workers: int = 1,
    fleet: str | None = None,
    keep: Path | None = None,
) -> FamilyTree:
    """Compare all pairs of models and draw their tree.

    Args:
        locations: two or more models.
        allow_pickle: read torch files (weights only).
        progress: called with (stage, fraction, message).
        workers, fleet: processes here, or the address of a Ray cluster, that compare pairs.
        keep: file of pairs that were compared before, to which those of this run are added.
    """
    start = time.monotonic()
    names = [str(place) for place in locations]
    kept = None if keep is None else KeptPairs(keep)
    pairs = compare_all(
        locations, allow_pickle=allow_pickle, progress=progress, workers=workers, fleet=fleet, kept=kept
    )

    def lay_out(hub: int, members: Sequence[int]) -> CommonRows | None:
        tell("laying side by side", 0.0, f"{len(members)} models beside {names[hub]}")
        places = [names[k] for k in members]
        return common_rows(members.index(hub), places, allow_pickle=allow_pickle, workers=workers, fleet=fleet)

    tell = progress or (lambda stage, fraction, message: None)
    result = build_tree(names, pairs, lay_out, unmerged(names, allow_pickle=allow_pickle))
    result = result.model_copy(update={"seconds": round(time.monotonic() - start, 3)})
    return FamilyTree(
        producer=producer(),
        created=datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z"),
        inputs={"models": names},
        options={"allow_pickle": allow_pickle},
        result=result,
    )


LEANS = ABSTAIN_BELOW / 2
"""Log-odds of a pair from which its places in the tree may make up the rest of an arrow."""

LayOut = Callable[[int, Sequence[int]], CommonRows | None]
"""(hub, members, the hub among them) -> their common rows, numbered as in `members`."""


def build_tree(
    names: Sequence[str], pairs: Pairs, lay_out: LayOut | None = None, weigh: Weigh | None = None
) -> TreeResult:
    """The tree of models whose pairs have been compared.

    Args:
        names: of the models.
        pairs: of every two of them.
        lay_out: lays the members of a family beside one of them; without it distances are those of pairs.
        weigh: tells the weights of merges; without it those of merges inside a family are by their distances, and
            those of strangers have none.
    """
    strains = split(len(names), pairs)
    drawn = _Drawn(names, pairs, lay_out, weigh)
    for number, members in enumerate(strains.families):
        drawn.family(number, members)
    for number, members in enumerate(strains.hybrids, start=len(strains.families)):
        drawn.hybrids(number, members, strains.families)
    is_open = [_is_open(edge, pairs) and (edge.source, edge.target) not in drawn.settled for edge in drawn.edges]
    # Who came first is no question where it is open whether one descends from the other at all.
    edges = [e.model_copy(update={"directed": False}) if o else e for e, o in zip(drawn.edges, is_open, strict=True)]
    return TreeResult(
        families=[[names[k] for k in members] for members in strains.families],
        nodes=drawn.nodes,
        edges=edges,
        siblings=_siblings(drawn.nodes, edges),
        shared_starts=_shared_starts([*strains.families, *strains.hybrids], names, pairs),
        open_pairs=[_ends(e, names) for e, o in zip(edges, is_open, strict=True) if o],
        untold_pairs=[[names[i], names[j]] for (i, j), pair in pairs.items() if pair.is_untold],
        pairs_compared=sum(pair.error is None for pair in pairs.values()),
        not_compared=_not_compared(names, pairs),
        unread=[names[k] for k in _unread(names, pairs)],
        not_checked=_not_checked(edges),
    )


def _unread(names: Sequence[str], pairs: Pairs) -> dict[int, str]:
    """Models that failed in every pair, with what was said of them: a model among such failed in every pair, too."""
    out = {}
    for k, name in enumerate(names):
        told = [pair.error for both, pair in pairs.items() if k in both and pair.error is not None]
        own = [words for words in told if name in words]
        if own and len(told) == len(names) - 1:
            out[k] = own[0]
    return out


def _not_compared(names: Sequence[str], pairs: Pairs) -> list[str]:
    """What failed: a model that failed with all others in one line, other pairs one by one."""
    unread = _unread(names, pairs)
    left = [(i, j, p.error) for (i, j), p in pairs.items() if p.error is not None and not {i, j} & unread.keys()]
    return [f"{names[k]}: {told}" for k, told in unread.items()] + [
        f"{names[i]} and {names[j]}: {told}" for i, j, told in left
    ]


def _not_checked(edges: Sequence[TreeEdge]) -> list[str]:
    out = ["ancestors of the roots, and models that are not among the given ones but for the branch points they leave"]
    if any(edge.kind == "merge" and edge.weight is None for edge in edges):
        out.append("weights of the parents of merges that were reordered or trained on; pedigree unmerge says why")
    return out


def _is_open(edge: TreeEdge, pairs: Pairs) -> bool:
    """Whether a line joins two models that share numbers, a common start or descent not told."""
    if edge.source[0] != "m" or edge.target[0] != "m":
        return False
    return kinship(pairs, int(edge.source[1:]), int(edge.target[1:])).open_origin


def _ends(edge: TreeEdge, names: Sequence[str]) -> list[str]:
    return [names[int(end[1:])] for end in (edge.source, edge.target)]


def _shared_starts(groups: Sequence[Sequence[int]], names: Sequence[str], pairs: Pairs) -> list[list[str]]:
    """For every two families that a random start joins, the names of the nearest such pair."""
    found = []
    for one, other in itertools.combinations(groups, 2):
        alike = [(i, j) for i in one for j in other if kinship(pairs, i, j).verdict == "shared-initialization"]
        if alike:
            i, j = min(alike, key=lambda pair: (kinship(pairs, *pair).distance2 or 0.0, pair))
            found.append([names[i], names[j]])
    return found


@dataclass
class _Drawn:
    """A tree that is being drawn."""

    names: Sequence[str]
    pairs: Pairs
    lay_out: LayOut | None = None
    weigh: Weigh | None = None
    nodes: list[TreeNode] = field(default_factory=list)
    edges: list[TreeEdge] = field(default_factory=list)
    settled: set[tuple[str, str]] = field(default_factory=set)  # lines of descent by more than their pair
    same: dict[int, list[int]] = field(default_factory=dict)  # models of equal weights, by the one that stands for them

    def family(self, number: int, members: Sequence[int]) -> None:
        """A family of its own: one first model, known or not."""
        groups, heads = self._places(number, members)
        if len(heads) < 2:
            return
        odds, drift = all_odds(groups, self.pairs), drift_odds(heads, self.pairs)
        ways = self._ways(heads, odds)
        exact = exact_odds(heads, self.pairs, ways)
        odds, drift = odds + exact, drift + exact
        merges = find_merges(ways)
        if self.weigh is not None:
            merges |= find_joint_merges(ways, odds, merges, _among(heads, self.weigh))
        for x, merge in merges.items():
            self._merge(heads[x], [heads[s] for s in merge.sources], merge)
        worn, near = worn_odds(ways, drift), {x: nearest_first(ways, x, merge) for x, merge in merges.items()}
        rooted = rooted_tree(ways, odds, drift + worn, near)
        if rooted is not None:
            told = told_odds(heads, odds, drift, ways)
            self._rooted(rooted, number, heads, np.where(worn * told < 0, 0.0, told), set(merges))
            return
        stay = [x for x in range(len(heads)) if x not in merges]
        self._unrooted(number, [heads[x] for x in stay], [groups[x] for x in stay], ways.part(stay))

    def hybrids(self, number: int, members: Sequence[int], families: Sequence[Sequence[int]]) -> None:
        """Merges of strangers, each below a model of either family, and what descends from them."""
        groups, heads = self._places(number, members)
        odds = all_odds(groups, self.pairs)
        ways = self._ways(heads, odds)
        exact = exact_odds(heads, self.pairs, ways)
        odds = odds + exact
        pure = [k for family in families for k in family]
        near = {x: [k for f in families if (k := [y for y in f if kinship(self.pairs, y, heads[x]).related])]
                for x in range(len(heads))}  # fmt: skip
        made = {x: parents_of_hybrid(heads[x], near[x], self.pairs, self.weigh) for x in near}
        exact_ones = [x for x in made if self.weigh is not None and all(sure for *_, sure in made[x])]
        firsts = first_hand(heads, pure, ways, odds, self.pairs, exact_ones)
        for x in firsts:
            self.edges += [
                _merge_edge(parent, heads[x], kinship(self.pairs, parent, heads[x]), weight, directed=sure)
                for parent, weight, sure in made[x]
            ]
        own = {x: min(firsts, key=lambda f: ways.length(f, x)) for x in range(len(heads))}
        for first in firsts:
            mine = [x for x in range(len(heads)) if own[x] == first or x == first]
            part = ways.part(mine)
            drift = drift_odds([heads[x] for x in mine], self.pairs) + exact[np.ix_(mine, mine)]
            below = tree_below(mine.index(first), part, drift)
            own_heads = [heads[x] for x in mine]
            told = told_odds(own_heads, odds[np.ix_(mine, mine)], drift, part)
            self._rooted(below, number, own_heads, told, set())

    def _ways(self, heads: Sequence[int], odds: Floats) -> Ways:
        """Distances of a family; the model that most odds name as the first is the one beside which all are laid."""
        ways = ways_of(heads, self.pairs)
        if self.lay_out is not None and len(heads) > 2:
            hub = max(range(len(odds)), key=lambda x: (before_most(odds, x), -x))
            ways.rows = self.lay_out(heads[hub], heads)
            ways.numbers = tuple(range(len(heads)))
        return ways

    def _places(self, number: int, members: Sequence[int]) -> tuple[list[list[int]], list[int]]:
        """Groups of equal weights, and the first of each; their nodes and lines are drawn."""
        groups = _same_weights(members, self.pairs)
        heads = [_head(group, len(self.names), self.pairs) for group in groups]
        for group, head in zip(groups, heads, strict=True):
            self.same[head] = group
            self.nodes += [TreeNode(id=f"m{k}", locations=[self.names[k]], family=number) for k in group]
            for k in group:
                if k != head:
                    pair = kinship(self.pairs, head, k)
                    self.edges.append(_edge(f"m{head}", f"m{k}", pair.log_odds, 0.0, "same-weights", pair.reasons))
        return groups, heads

    def _merge(self, child: int, sources: Sequence[int], merge: Merge) -> None:
        """Lines from the models between which another lies, with arrows and weights where it does so exactly."""
        exact = merge.ratio <= EXACT
        mixed = self.weigh(child, sources) if exact and not merge.told and self.weigh is not None else None
        weights = merge.weights if mixed is None or min(mixed.weights) <= 0 else mixed.weights
        for source, weight in zip(sources, weights, strict=True):
            pair = kinship(self.pairs, source, child)
            if exact:
                reasons = ["it is made of its parents, and of nothing else"]
                self.settled.add((f"m{source}", f"m{child}"))
                self.edges.append(_merge_edge(source, child, pair, weight, reasons))
            else:
                self.edges.append(_between_edge(f"m{source}", f"m{child}", pair))

    def _rooted(self, rooted: Rooted, number: int, heads: Sequence[int], odds: Floats, merged: set[int]) -> None:
        """The lines of a family whose first model is known. A hidden point stands between a model and those below it,
        and its lines have the odds of the model before them; one that stands above all others came first. A first model
        that is in doubt has lines without arrows."""
        n, before = len(heads), sum(node.kind == "hidden" for node in self.nodes)
        ids = {v: f"m{heads[v]}" if v < n else f"h{number}.{before + v - n}" for v in range(n + rooted.hidden)}
        self.nodes += [TreeNode(id=ids[v], kind="hidden", family=number) for v in ids if v >= n]
        above = {v: u for u, v, _ in rooted.edges if v >= n}
        below = {v: [w for u, w, _ in rooted.edges if u == v] for v in above}
        for u, v, length in rooted.edges:
            if v in merged:
                continue
            first = above.get(u, u)
            if first >= n:
                value = ABSTAIN_BELOW
            elif first == rooted.root and not rooted.is_first:
                value = 0.0
            else:
                value = min(_order(rooted, odds, first, w) for w in below.get(v, [v]))
            sure = min(rooted.sure.get(w, math.inf) for w in below.get(v, [v]))
            ends: tuple[str, str] = (ids[u], ids[v])
            reasons: tuple[str, ...] = ()
            if max(u, v) < n:
                one, two = self._likest(heads[u], heads[v])
                ends, reasons = (f"m{one}", f"m{two}"), kinship(self.pairs, one, two).reasons
                if self._is_settled(rooted, heads, u, v):
                    self.settled.add(ends)
            edge = _edge(*ends, max(0.0, min(value, sure)), length, "descent", reasons)
            if max(u, v) < n:
                edge = edge.model_copy(update={"or_from": self._equals(one, two)})
            self.edges.append(edge)

    def _likest(self, one: int, two: int) -> tuple[int, int]:
        """Of models of equal weights at both ends of a line, those of which most stands in place: what descends from a
        disguised model keeps its order. Those that stand for the others, where none matches more."""
        ends = [(x, y) for x in self.same[one] for y in self.same[two]]
        best = max(ends, key=lambda pair: kinship(self.pairs, *pair).matched)
        more = kinship(self.pairs, *best).matched > MORE * kinship(self.pairs, one, two).matched
        return best if more else (one, two)

    def _equals(self, parent: int, child: int) -> list[str]:
        """Models of the same weights as a parent that match the child as widely: it may have been made of any."""
        group = next((group for group in self.same.values() if parent in group), [parent])
        least = kinship(self.pairs, parent, child).matched
        return [f"m{k}" for k in group if k != parent and MORE * kinship(self.pairs, k, child).matched >= least]

    def _is_settled(self, rooted: Rooted, heads: Sequence[int], u: int, v: int) -> bool:
        """Whether two models of which a pair alone leaves descent open are below each other by a third one: the first
        model, of which both surely descend."""
        if v in rooted.exact or not rooted.is_first:
            return v in rooted.exact
        both = (kinship(self.pairs, heads[rooted.root], heads[x]) for x in (u, v) if x != rooted.root)
        surely = rooted.sure.get(v, math.inf) >= ABSTAIN_BELOW and not any(pair.open_origin for pair in both)
        return u != rooted.root and surely

    def _unrooted(self, number: int, heads: Sequence[int], groups: Sequence[Sequence[int]], ways: Ways) -> None:
        """The lines of a family of which no model came first."""
        if len(heads) < 2:
            return
        graph = neighbor_joining(ways.all_NN if bool(ways.whole_NN.all()) else ways.units_NN)
        collapse(graph, lambda v, hidden: _came_before(graph, v, hidden, heads, self.pairs))
        ids = {v: f"m{heads[v]}" if v < graph.n else f"h{number}.{v - graph.n}" for v in graph.edges}
        self.nodes += [TreeNode(id=ids[v], kind="hidden", family=number) for v in graph.edges if v >= graph.n]
        for u, v, odds in oriented_edges(graph, heads, groups, self.pairs):
            reasons = kinship(self.pairs, heads[u], heads[v]).reasons if max(u, v) < graph.n else ()
            self.edges.append(_edge(ids[u], ids[v], odds, graph.edges[u][v], "descent", reasons))


def _among(heads: Sequence[int], weigh: Weigh) -> Weigh:
    """The same of models by their places among those of a family."""

    def weigh_places(child: int, sources: Sequence[int], base: int | None = None) -> Mixed | None:
        return weigh(heads[child], [heads[s] for s in sources], None if base is None else heads[base])

    return weigh_places


def _order(rooted: Rooted, odds: Floats, parent: int, child: int) -> float:
    """Log-odds that a model came before one below it: by their pair, or, where that leans the same way, by their places
    below a root that came before both. Places alone would name the sibling that stayed near to a parent that is not
    among the models."""
    pair = float(odds[parent, child])
    above = {v: u for u, v, _ in rooted.edges}
    if child in rooted.exact and above.get(parent, len(odds)) < len(odds):
        # Their ways part at the parent itself, which has one parent and no other: who is below is decided there.
        pair = max(pair, _order(rooted, odds, above[parent], parent))
    if parent == rooted.root or not rooted.is_first or pair < LEANS or child not in rooted.order:
        return pair
    root = rooted.root
    return max(pair, min(rooted.order[child], float(odds[root, parent]), float(odds[root, child])))


def _merge_edge(
    parent: int, child: int, pair: Kinship, weight: float | None, reasons: Sequence[str] = (), *, directed: bool = True
) -> TreeEdge:
    return TreeEdge(
        **{"from": f"m{parent}", "to": f"m{child}"}, kind="merge", directed=directed, length=pair.distance2,
        weight=weight, reasons=list(reasons) or ["related to models that are strangers to each other"],
    )  # fmt: skip


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
        mine = next((g for g in groups if kinship(pairs, g[0], k).is_same), None)
        if mine is None:
            groups.append([k])
        else:
            mine.append(k)
    return groups


def _head(group: Sequence[int], n: int, pairs: Pairs) -> int:
    """The member that stands for equal weights: of those that match (nearly) widest with all others, since a disguise
    that was undone is never undone to the last digit, the one that most directions name as the first; of several such
    the one whose order with all others is told most surely, since a disguise only takes away from that."""
    others = [k for k in range(n) if k not in group]
    matched = {k: sum(kinship(pairs, k, other).matched for other in others) for k in group}
    widest = [k for k in group if MORE * matched[k] >= max(matched.values())]

    def rank(k: int) -> tuple[float, float]:
        first = sum(kinship(pairs, k, other).log_odds for other in group if other != k)
        return first, sum(abs(kinship(pairs, k, other).log_odds) for other in others)

    return max(widest, key=rank)


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
                total += 0.5 * pair_odds(groups[above], groups[v], pairs, direct)
            above, direct = v, True
        elif above >= 0:
            direct = False
        stack += [(w, v, above, direct) for w in graph.edges[v] if w != parent]
    return total


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
