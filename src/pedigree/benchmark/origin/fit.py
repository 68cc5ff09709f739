"""The weights of `forensics/descent/origin.py`: logistic fits in which false accusations are dear.

Rows are standardized, a small penalty holds the weights down. Twins have three times the weight of relatives, whatever
their number. Descendants of a parent that was hardly trained count a fifth: what such a parent knew cannot be seen,
and a weight that finds it would find it in twins. Thresholds are set where no twin of a family that took no part in the
fit is called related (a margin beyond), and where one relative in five hundred is called a twin. Trainings of one start
over the same text in the same order are twins like any others: with one rate and one length they are one run, and
nothing tells the longer from a descendant of the shorter, so what looks like either is open.

Relatives are of two kinds that do not look alike: in a child learned directions live on whole beside new ones, in a
merge everything shrinks by one share. One fit of both takes from each what the other has too little of. So with gains,
descendants and merges are told from twins by weights of their own, and what counts is the larger of the two odds.
Without gains nothing is won by it (docs/LOG.md, 2026-11-30), and one fit serves both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pedigree.benchmark.origin.kinsfolk import is_one_run
from pedigree.forensics.descent.gains import LearnedGains
from pedigree.forensics.descent.origin import TAKEN, numbers, odds
from pedigree.forensics.descent.share import Share
from pedigree.forensics.descent.survival import Survival

Floats = npt.NDArray[np.float64]
Row = Mapping[str, Any]

PENALTY, TWINS, BARE, MERGED = 1e-3, 3.0, 0.2, 0.5
MARGIN, LOST, LOST_BY_TOKENS = 0.25, 0.002, 0.02
"""Log-odds between the highest twin, of any text and order, and the threshold of descent; share of relatives below the
threshold of start, and the same in the frame of tokens."""

APART = ("twin", "one run")


def calibrate(rows: Sequence[Row]) -> dict[str, Any]:
    """The shipped numbers: weights and thresholds with gains and without, and what they did on families left out."""
    weighed = [(row, numbers_of(row)) for row in rows]
    every = [(row, found) for row, found in weighed if found]
    with_gains = [(row, found) for row, found in every if "gains" in found]
    return {"matrices": _fitted([(r, _bare(n)) for r, n in every]), "gains": _fitted(with_gains, merges_apart=True)}


def calibrate_by_tokens(rows: Sequence[Row], matrices: Mapping[str, Any]) -> dict[str, Any]:
    """Thresholds for rows in the frame of tokens, where no twin of any kind is called related.

    Args:
        rows: pairs, measured in that frame.
        matrices: the fit without gains, whose weights are taken: fitted on these rows alone weights do worse on
            families that were left out.
    """
    seen = [(row, _bare(found)) for row in rows if (found := numbers_of(row))]
    kinds = [kind_of(row) for row, _ in seen]
    odds_N = np.array([odds(matrices["weights"], found) for _, found in seen])
    start = _start(odds_N, kinds, LOST_BY_TOKENS)
    # What takes away from both what they learned is no descent, however likely else (`origin.weigh_origin`).
    taken_N = np.array([max(found["own"], found["own2"]) < TAKEN for _, found in seen])
    apart_N = np.array([kind in APART for kind in kinds])
    descent = round(float(odds_N[apart_N & ~taken_N].max(initial=0.0)) + MARGIN, 2)
    odds_N[taken_N] = np.minimum(odds_N[taken_N], descent - MARGIN)
    measured = {"families": len({row["family"] for row, _ in seen}), **_counted(kinds, odds_N, descent, start)}
    return {"descent": descent, "start": start, "weights": matrices["weights"], "measured": measured}


def numbers_of(row: Row) -> dict[str, float]:
    """What `forensics.origin` weighs, from a row of `pairs.measured`."""
    forward, backward = (None if row[side] is None else Survival(**row[side]) for side in ("forward", "backward"))
    share = None if row["share"] is None else Share(**row["share"])
    gains = None if row["gains"] is None else LearnedGains(**row["gains"])
    return numbers(forward, backward, share, gains)


def _bare(found: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if not name.startswith("gain")}


def _fitted(rows: Sequence[tuple[Row, Mapping[str, float]]], *, merges_apart: bool = False) -> dict[str, Any]:
    names = sorted(rows[0][1])
    x_NF = np.array([[found[name] for name in names] for _, found in rows])
    kinds = [kind_of(row) for row, _ in rows]
    family_N = np.array([row["family"] for row, _ in rows])
    left_out = {"merged"} if merges_apart else set()
    odds_N, weights = _weighed(x_NF, kinds, family_N, set(kinds) - left_out)
    descent = _threshold(odds_N, kinds)
    part: dict[str, Any] = {"descent": descent, "weights": _named(names, weights)}
    if merges_apart and "merged" in kinds:
        of_merges_N, weights = _weighed(x_NF, kinds, family_N, {"merged", *APART})
        rise = descent - _threshold(of_merges_N, kinds)  # one threshold serves both
        weights[0] += rise
        odds_N = np.maximum(odds_N, of_merges_N + rise)
        part["merged"] = _named(names, weights)
    start = _start(odds_N, kinds, LOST)
    measured = {"families": len(set(family_N)), **_counted(kinds, odds_N, descent, start)}
    return part | {"start": start, "measured": measured}


def _threshold(odds_N: Floats, kinds: Sequence[str]) -> float:
    """Where descent begins: a margin beyond every twin, runs over one text in one order among them."""
    return round(float(odds_N[np.array([kind in APART for kind in kinds])].max(initial=0.0)) + MARGIN + 0.005, 2)


def _start(odds_N: Floats, kinds: Sequence[str], lost: float) -> float:
    """Where a shared start begins: below all but a share of the relatives whose parents were trained."""
    trained_N = np.array([kind not in (*APART, "of a bare one") for kind in kinds])
    return min(0.0, round(float(np.quantile(odds_N[trained_N], lost)), 2))


def _weighed(
    x_NF: Floats, kinds: Sequence[str], family_N: npt.NDArray[np.str_], among: set[str]
) -> tuple[Floats, Floats]:
    """Log-odds of all rows by weights fitted on rows of some kinds of other families; weights fitted on all of them."""
    kin_N = np.array([kind not in APART for kind in kinds])
    weight_N = _weights(kinds, kin_N, among)
    odds_N = np.zeros(len(kinds))
    for family in sorted(set(family_N)):
        held = family_N == family
        odds_N[held] = _odds(fit(x_NF[~held], kin_N[~held], weight_N[~held]), x_NF[held])
    return odds_N, fit(x_NF, kin_N, weight_N)


def _named(names: Sequence[str], weights: Floats) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(["offset", *names], weights, strict=True)}


def kind_of(row: Row) -> str:
    """What a pair counts as in the fit."""
    one, two = str(row["a"]), str(row["b"])
    if row["truth"] == "twin":
        return "one run" if is_one_run(one, two) else "twin"
    if "bare" in one or "bare" in two:
        return "of a bare one"
    return "merged" if "merged" in one or "merged" in two else str(row["truth"])


def _weights(kinds: Sequence[str], kin_N: npt.NDArray[np.bool_], among: set[str]) -> Floats:
    """Weights of rows [N] of some kinds; zero of the others, which take no part."""
    there_N = np.array([kind in among for kind in kinds])
    kin, apart = int((kin_N & there_N).sum()), int((~kin_N & there_N).sum())
    weight_N = np.where(kin_N, 1.0 / max(1, kin), TWINS / max(1, apart)) * (kin + apart) / (1.0 + TWINS)
    of_kind = {"of a bare one": BARE, "merged": 1.0 if among == {"merged", *APART} else MERGED}
    factor_N = np.array([of_kind.get(kind, 1.0) for kind in kinds])
    return np.asarray(weight_N * factor_N * there_N)


def fit(x_NF: Floats, kin_N: npt.NDArray[np.bool_], weight_N: Floats) -> Floats:
    """Offset and weights [1 + F] of the log-odds of kin; rows without weight take no part."""
    from scipy.optimize import minimize

    there_N = weight_N > 0.0
    x_NF, kin_N, weight_N = x_NF[there_N], kin_N[there_N], weight_N[there_N]
    mean_F, spread_F = x_NF.mean(0), x_NF.std(0) + 1e-9
    z_NF, sign_N = (x_NF - mean_F) / spread_F, np.where(kin_N, 1.0, -1.0)

    def loss(p: Floats) -> tuple[float, Floats]:
        margin_N = sign_N * (z_NF @ p[1:] + p[0])
        value = float((weight_N * np.logaddexp(0.0, -margin_N)).mean() + PENALTY * (p[1:] ** 2).sum())
        slope_N = -weight_N * sign_N / (1.0 + np.exp(margin_N)) / len(sign_N)
        return value, np.concatenate([[slope_N.sum()], z_NF.T @ slope_N + 2.0 * PENALTY * p[1:]])

    p = minimize(loss, np.zeros(x_NF.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    weights_F = p[1:] / spread_F
    return np.concatenate([[p[0] - float(weights_F @ mean_F)], weights_F])


def _odds(weights: Floats, x_NF: Floats) -> Floats:
    return np.asarray(x_NF @ weights[1:] + weights[0])


def _counted(kinds: Sequence[str], odds_N: Floats, descent: float, start: float) -> dict[str, dict[str, int]]:
    """Pairs of each kind, and how many of them are called related and twins by weights fitted on other families."""
    found: dict[str, dict[str, int]] = {}
    for kind in sorted(Counter(kinds)):
        mine_N = np.array([k == kind for k in kinds])
        found[kind] = {
            "pairs": int(mine_N.sum()), "descent": int((odds_N[mine_N] >= descent).sum()),
            "start": int((odds_N[mine_N] <= start).sum()),
        }  # fmt: skip
    return found
