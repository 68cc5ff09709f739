"""Units that were kept in a model otherwise foreign: handed down, or drawn twice from one seed?

Models of one seed and other depth, vocabulary or number of experts draw the same numbers for whole layers or experts,
perhaps at other places: the stream of random numbers is the same, and only shifted. Such layers agree as those of two
trainings of one random start do, in a model that is foreign otherwise. So the rows of the units that were kept are
followed as matrices are elsewhere (`survival.py`), and where they do not show descent:

 - whole layers or experts may have been drawn alike: the answer is open, or a shared start;
 - scattered units of a layer cannot: a shift that leaves rows of the readers in line breaks the columns of the writers.
   So single units count as handed down if every projection agrees, and are no kin if one of them does not;
 - but a program that widens a layer, or draws a part of it anew, may draw the same units into strangers. They learned
   nothing: where directions could be seen and none are, the answer is open.

Shapes: K = kept units, D = residual width.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from pedigree.forensics.descent.origin import RAW, Origin, OriginEvidence, weigh_origin
from pedigree.forensics.descent.share import ShareMeter
from pedigree.forensics.descent.survival import SurvivalMeter
from pedigree.forensics.sides.gauge import unit_rows
from pedigree.forensics.sides.side import Side
from pedigree.forensics.sides.views import UnitSet
from pedigree.forensics.units.shared_units import KeptUnits

WHOLE = 0.5
"""Share of the units of a layer, or of an expert, from which it counts as kept whole."""

SILENT = 0.25
"""Agreement of a projection, relative to the one that agrees best, below which it is not the units that were kept."""


@dataclass(frozen=True)
class KeptOrigin:
    """Where kept units come from.

    Attributes:
        origin: "descent", "start" or "unknown", the answer to be given.
        whole: whether whole layers or experts were kept.
        evidence: what following their directions says.
    """

    origin: Origin
    whole: bool
    evidence: OriginEvidence


def origin_of_kept(a: Side, b: Side, kept: KeptUnits) -> KeptOrigin:
    """Follow the rows of kept units.

    Args:
        a, b: the two models.
        kept: what `find_kept_units` found; its pairs are rows of their unit sets.
    """
    rows, whole = _rows_of(a, b, kept)
    evidence = _weighed(rows)
    if evidence.origin == "start":
        return KeptOrigin("start", whole, evidence)
    if not whole:
        is_new = evidence.log_odds != 0.0 and evidence.learned < RAW  # odds of zero: nothing could be followed
        return KeptOrigin("descent" if _all_agree(rows) and not is_new else "unknown", whole, evidence)
    return KeptOrigin(evidence.origin, whole, evidence)


def _rows_of(a: Side, b: Side, kept: KeptUnits) -> tuple[dict[str, tuple[Tensor, Tensor]], bool]:
    """Rows of A and B of each projection, [K, D], signs of B's made A's, and whether any layer or expert is whole."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    whole = False
    for (i, j), pairs_K2 in kept.pairs.items():
        left, right = a.units("ffn", i), b.units("ffn", j)
        if left is None or right is None:
            continue
        whole = whole or _is_whole(left, pairs_K2[:, 0]) or _is_whole(right, pairs_K2[:, 1])
        for name in left.names:
            if name in right.names:
                x_KD, y_KD = left.rows(name, pairs_K2[:, 0]), right.rows(name, pairs_K2[:, 1])
                sign_K1 = torch.where((x_KD * y_KD).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
                found.setdefault(name, []).append((x_KD, y_KD * sign_K1))
    rows = {name: (torch.cat([x for x, _ in some]), torch.cat([y for _, y in some])) for name, some in found.items()}
    return rows, whole


def _is_whole(units: UnitSet, kept_K: Tensor) -> bool:
    of_all, of_kept = Counter(units.label_U.tolist()), Counter(units.label_U[kept_K].tolist())
    return any(count > WHOLE * of_all[label] for label, count in of_kept.items())


def _all_agree(rows: dict[str, tuple[Tensor, Tensor]]) -> bool:
    """Whether every projection agrees, readers and writers alike."""
    agreement = [float((unit_rows(x_KD) * unit_rows(y_KD)).sum(dim=1).median()) for x_KD, y_KD in rows.values()]
    return bool(agreement) and min(agreement) >= SILENT * max(agreement)


def _weighed(rows: dict[str, tuple[Tensor, Tensor]]) -> OriginEvidence:
    """By matrices alone: gains of a model that is foreign otherwise say nothing, and neither does a difference that is
    nothing where nothing can be seen to be learned, since numbers of one seed are equal, too."""
    forward, backward, share = SurvivalMeter(), SurvivalMeter(), ShareMeter()
    for x_KD, y_KD in rows.values():
        forward.add(x_KD, y_KD)
        backward.add(y_KD, x_KD)
        share.add(x_KD, y_KD)
    return weigh_origin(forward.result(), backward.result(), share.result(), None)
