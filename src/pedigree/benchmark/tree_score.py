"""How right a family tree is: lines, arrows, ancestors that are not there, strangers, merges.

What is compared are lines between places. Models of equal weights share one (no number tells their order), and an
ancestor that is not among the models is a place without a name: one that was drawn stands for the true one whose
neighbors it shares most of, two at the least.

A line that is not right is one of four, from harmless to bad: it *skips* a model that stands between (the one is an
ancestor of the other), it ends at an ancestor that never was (*invented*), it joins *relatives* of which neither
descends from the other, or it joins *strangers*.

Laws
1. The truth scores full marks: every line right, every arrow right, nothing false.
2. Renaming hidden places or turning an open line changes no count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

Line = tuple[str, str, bool]
"""From, to, and whether it has an arrow; places that are no shown model are hidden."""


@dataclass(frozen=True)
class TreeTally:
    """Counts over one tree, or the sum over several.

    Attributes:
        lines, right: true lines, and those drawn, whatever their arrow.
        arrows_right, arrows_wrong, open: of those drawn rightly.
        skipping, invented, relatives, strangers: lines that are not right, see the module's text.
        arrows_false: arrows of lines between relatives or strangers.
        hidden, hidden_found, hidden_invented: ancestors that are not among the models: there, drawn, drawn without
            being there.
        merges, merges_found: models of two parents, and those joined to both and to nothing else above them.
        ancestors, ancestors_right, ancestors_wrong: ordered pairs of models of which the first is an ancestor of the
            second; those of them that a way of arrows leads along; pairs of which it says so against the truth.
        trees: how many.
        perfect: trees with every line right and no wrong arrow, nothing false or invented.
    """

    lines: int = 0
    right: int = 0
    arrows_right: int = 0
    arrows_wrong: int = 0
    open: int = 0
    skipping: int = 0
    invented: int = 0
    relatives: int = 0
    strangers: int = 0
    arrows_false: int = 0
    hidden: int = 0
    hidden_found: int = 0
    hidden_invented: int = 0
    merges: int = 0
    merges_found: int = 0
    ancestors: int = 0
    ancestors_right: int = 0
    ancestors_wrong: int = 0
    trees: int = 0
    perfect: int = 0

    def __add__(self, other: TreeTally) -> TreeTally:
        return TreeTally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def score_tree(
    found: Iterable[Line], parents: Mapping[str, Sequence[str]], shown: Sequence[str], same: Mapping[str, str]
) -> TreeTally:
    """Count what is right.

    Args:
        found: the lines that were drawn.
        parents: the true parents of every shown model, and of every hidden one that is a branch point.
        shown: the models that the tree was drawn from.
        same: for a model of the same weights as another (disguised, another container) that other one.
    """
    place = {name: _place(name, same) for name in parents}
    drawn = [(place.get(u, u), place.get(v, v), arrow) for u, v, arrow in found]
    truth = {(place[p], place[c]) for c, above in parents.items() for p in above if place[p] != place[c]}
    hidden = [name for name in parents if name not in shown]
    names = _named(drawn, truth, hidden, {place[name] for name in shown})
    drawn = [(names.get(u, u), names.get(v, v), arrow) for u, v, arrow in drawn]
    up = _ancestors(truth)
    counts = dict.fromkeys((f.name for f in fields(TreeTally)), 0)
    counts["lines"] = len(truth)
    there = {place[name] for name in parents}
    seen = set()
    for u, v, arrow in drawn:
        if u == v or frozenset((u, v)) in seen:
            continue
        seen.add(frozenset((u, v)))
        _count_line(u, v, arrow, truth, up, there, counts)
    _count_same(found, place, shown, counts)
    counts["hidden"], counts["hidden_found"] = len(hidden), sum(name in names.values() for name in hidden)
    counts["hidden_invented"] = len({end for u, v, _ in drawn for end in (u, v)} - there)
    _count_merges(drawn, truth, counts)
    _count_ancestors(drawn, up, {place[name] for name in shown}, counts)
    false = counts["relatives"] + counts["strangers"] + counts["invented"] + counts["skipping"]
    counts["trees"] = 1
    counts["perfect"] = int(counts["right"] == counts["lines"] and not false and not counts["arrows_wrong"])
    return TreeTally(**counts)


def _place(name: str, same: Mapping[str, str]) -> str:
    while name in same:
        name = same[name]
    return name


def _named(
    drawn: Sequence[Line], truth: set[tuple[str, str]], hidden: Sequence[str], known: set[str]
) -> dict[str, str]:
    """Which true hidden place a drawn one stands for; the pairs that share most neighbors first."""
    strange = sorted({end for u, v, _ in drawn for end in (u, v)} - known)

    def near(name: str, lines: Iterable[tuple[str, str]]) -> set[str]:
        return {v if u == name else u for u, v in lines if name in (u, v)} & known

    plain = [(u, v) for u, v, _ in drawn]
    pairs = sorted(
        ((len(near(f, plain) & near(h, truth)), f, h) for f in strange for h in hidden), key=lambda row: (-row[0], row)
    )
    out: dict[str, str] = {}
    for shared, f, h in pairs:
        if shared >= 2 and f not in out and h not in out.values():
            out[f] = h
    return out


def _ancestors(truth: set[tuple[str, str]]) -> dict[str, set[str]]:
    above: dict[str, set[str]] = {}
    for p, c in truth:
        above.setdefault(c, set()).add(p)

    def climb(name: str) -> set[str]:
        direct = above.get(name, set())
        return direct.union(*(climb(p) for p in direct)) if direct else set()

    return {name: climb(name) for name in {end for line in truth for end in line}}


def _count_line(
    u: str, v: str, arrow: bool, truth: set[tuple[str, str]], up: Mapping[str, set[str]], there: set[str],
    counts: dict[str, int],
) -> None:  # fmt: skip
    if (u, v) in truth or (v, u) in truth:
        counts["right"] += 1
        counts["open" if not arrow else "arrows_right" if (u, v) in truth else "arrows_wrong"] += 1
    elif u not in there or v not in there:
        counts["invented"] += 1
    elif u in up.get(v, ()) or v in up.get(u, ()):
        counts["skipping"] += 1
        counts["arrows_wrong"] += arrow and v in up.get(u, ())
    else:
        roots = [up.get(name, set()) | {name} for name in (u, v)]
        counts["relatives" if roots[0] & roots[1] else "strangers"] += 1
        counts["arrows_false"] += arrow


def _count_same(found: Iterable[Line], place: Mapping[str, str], shown: Sequence[str], counts: dict[str, int]) -> None:
    """Models of one place are as many lines as it takes to join them; what joins them has no arrow that is right."""
    groups: dict[str, list[set[str]]] = {}
    for name in shown:
        groups.setdefault(place[name], []).append({name})
    for u, v, _ in found:
        parts = groups.get(place.get(u, u), [])
        if place.get(u, u) == place.get(v, v):
            both = [part for part in parts if u in part or v in part]
            parts[:] = [part for part in parts if part not in both] + [set().union(*both)]
    for name, parts in groups.items():
        size = sum(place[other] == name for other in shown)
        counts["lines"] += size - 1
        counts["right"] += size - len(parts)
        counts["open"] += size - len(parts)


def _count_merges(drawn: Sequence[Line], truth: set[tuple[str, str]], counts: dict[str, int]) -> None:
    for child in {c for _, c in truth}:
        above = {p for p, c in truth if c == child}
        if len(above) < 2:
            continue
        below = {c for p, c in truth if p == child}
        ends = {v if u == child else u for u, v, _ in drawn if child in (u, v)} - below - {child}
        counts["merges"] += 1
        counts["merges_found"] += ends == above


def _count_ancestors(
    drawn: Sequence[Line], up: Mapping[str, set[str]], shown: set[str], counts: dict[str, int]
) -> None:
    said = _ancestors_of({(u, v) for u, v, arrow in drawn if arrow and u != v})
    for name in shown:
        true, told = up.get(name, set()) & shown, said.get(name, set()) & shown
        counts["ancestors"] += len(true)
        counts["ancestors_right"] += len(true & told)
        counts["ancestors_wrong"] += len(told - true - {name})


def _ancestors_of(arrows: set[tuple[str, str]]) -> dict[str, set[str]]:
    """Everything that arrows lead to each end from; a circle of arrows ends where it began."""
    out: dict[str, set[str]] = {}
    for end in {v for _, v in arrows}:
        seen, stack = set(), [end]
        while stack:
            at = stack.pop()
            for u, v in arrows:
                if v == at and u not in seen:
                    seen.add(u)
                    stack.append(u)
        out[end] = seen
    return out
