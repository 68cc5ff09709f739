"""Same random start, or descent? The log-odds of descent, from what lives on of what was learned.

Two models of one start are W + a and W + b, a parent and its child P and P + e, siblings P + a and P + b; W is noise, P
is noise and what was learned. No single number tells these apart in short trainings: models of one start learn
alike in their first steps, so a part of what one learned lives on in its twin; what little a bare training leaves is
not seen above the noise; and long tuning covers what a parent knew. So the numbers of `survival.py`, the share of the
difference (`share.py`) and the learned gains (`gains.py`) are weighed together, by weights that
`pedigree.benchmark.origin` fits on families of known descent and ships in `data/origin.json`. What descends by training
and what was merged do not look alike, so each is told from twins by weights of its own, and the larger odds count.
There are weights with gains and without, for frames in which gains mean nothing; in the frame of tokens, where models
of one language learn directions more alike, the latter have thresholds of their own.

A twin called related is an error, a relative about which nothing is said is not. So the weights and both thresholds
count a twin called related ten times, and between the thresholds the answer is "unknown".

Source  forensics study, section 9.10 (survival); the rest is not from the literature (docs/LOG.md, 2026-11-30).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import permutations
from typing import Any, Literal

from pedigree.forensics.descent.additions import SAME, TRACE, Additions
from pedigree.forensics.descent.gains import LearnedGains, are_same
from pedigree.forensics.descent.share import Share
from pedigree.forensics.descent.survival import MIXED_MIDDLE, SEEN_LEARNING, Survival

Origin = Literal["start", "descent", "unknown"]

FLOOR = 0.05
"""Added to shares of energy before their logarithm is taken, so that nothing visible is not minus infinity."""


LEAST_PART = 0.05

FOLLOWED = 0.05
"""Survival of the bulk below which nothing was followed: the frame is not the right one, or nothing is left."""

BEYOND_CHANCE = 6.0
"""The same in deviations of chance, over all matrices: of 194 relatives of the benchmark the least has 21, of matrices
drawn apart none has 4. Two models that learned one function in one frame (students of one teacher who were given its
tables) have top directions and gains in common, and of a few matrices one seems to live on by chance."""

EVENLY: tuple[tuple[float, float], ...] = ((0.05, 0.08), (0.02, 0.12))
LESS_THAN_HALF, LESS_EVENLY, LOPSIDED = 0.5, (0.1, 0.2), 2.0
"""A part of less than a half may be less even, where the other way round is uneven by so much more: the merge holds
what the other parent learned, too. Twins are about as uneven either way."""

EVEN_PART = 0.15
"""One share throughout: in the mean and in every matrix, either way, and of at least so much."""

APART_GAINS = 0.15
"""Cosine of gains below which they were learned apart, whatever else is even. Gains of a merge have one of a fifth to
a half with those of its minor parent."""

RAW, ALL_OF_ONE = 0.01, 0.3
"""Learning that a start that was never trained may show, by chance; and how far from even the share of the difference
has to be for it to be all of one side."""

FAINT, FAINT_MIDDLE, FAINT_UNEVEN = (0.8, 1.25), 0.35, 0.3
"""Top over middle between which a faint share is even on the average, the share up to which it is faint, and how far
single matrices may be from even. Twins reach that at shares of 0.45 and more."""

HALVED, TAKEN, LITTLE_TAKEN, BELOW = 0.15, -0.15, -0.03, 0.01
"""How far from a half the share of a difference may be that belongs to both; cosine of it with what one learned from
which it takes that away, without gains, and where next to nothing was learned; and how far below descent such a pair
stays."""

MINOR_MIDDLE, MINOR_EVEN = 0.3, 0.25
"""Below this share of the middle, and even to this part of it, nothing is called a shared start."""


@dataclass(frozen=True)
class OriginEvidence:
    """How likely descent is.

    Attributes:
        origin: the answer.
        log_odds: natural log-odds of descent against a shared start; zero where nothing could be followed.
        by_gains: whether learned gains took part.
        learned: share of energy that was learned and can be seen, of the side on which it is less.
        by_chance: whether what seems to live on is what chance gives: then the two share no numbers, whatever agrees.
        beyond: log-odds beyond the threshold of descent.
    """

    origin: Origin
    log_odds: float = 0.0
    by_gains: bool = False
    learned: float = 0.0
    by_chance: bool = False
    beyond: float = -math.inf


@cache
def calibration() -> dict[str, Any]:
    """The fitted numbers that ship with the package, and what they did on families that took no part in the fit."""
    source = files("pedigree.forensics").joinpath("data/origin.json")
    return dict(json.loads(source.read_text(encoding="utf-8")))


def weigh_origin(
    forward: Survival | None,
    backward: Survival | None,
    share: Share | None,
    gains: LearnedGains | None,
    additions: Additions | None = None,
    *,
    faint: bool = False,
    gainless: bool = False,
    by_tokens: bool = False,
) -> OriginEvidence:
    """Whether two models share a random start and nothing learned, or descend from one another or from one ancestor.

    Args:
        forward, backward: what lives on of A in B, and of B in A.
        share: whose the difference is; None where nothing differs.
        gains: agreement of learned gains; None where they cannot be laid side by side.
        additions: what kind of difference there is between the two.
        faint: whether so little is shared that single matrices scatter; then a share that is the same on the average of
            all matrices is even.
        gainless: whether the models stand in place and have no learned gains at all, as some designs do.
        by_tokens: whether coordinates are tokens. Then the threshold of descent is higher, and what was learned may not
            be taken away on both sides; the exceptions below were seen to hold in frames of the stream.

    Returns:
        "unknown" where no matrices could be laid side by side: agreement of units alone does not tell a start from
        descent, since two models of one seed begin with the same numbers wherever their shapes overlap.
    """
    both = [s for s in (forward, backward) if s is not None]
    if not both or max(s.middle for s in both) < FOLLOWED:
        return OriginEvidence("unknown")
    if max(s.beyond_chance for s in both) < BEYOND_CHANCE:
        return OriginEvidence("unknown", by_chance=True)
    name = "tokens" if by_tokens else "matrices" if gains is None else "gains"
    fitted = calibration()[name]
    descent = float(fitted["descent"])
    measured = numbers(forward, backward, share, gains)
    log_odds = odds(fitted["weights"], measured)
    learned = min(s.excess for s in both)
    too_little = _is_too_little(both, share, gains, additions, learned)
    if by_tokens:
        # Twins that learned alike in their first steps have most of each other in that frame, learned directions too;
        # but their difference takes away what both learned, and that of a parent and its child is the child's.
        taken = too_little or all(s.own < TAKEN for s in both)
        origin = _by_odds(log_odds, fitted, may_descend=not taken)
        return OriginEvidence(origin, log_odds, False, learned, beyond=log_odds - descent)
    if gains is not None and not learned_apart(gains):
        log_odds = max(log_odds, odds(fitted["merged"], measured))
    if gainless and _took_from_both(both, share, TAKEN):
        log_odds = min(log_odds, descent - BELOW)
    if _lives_on_evenly(both, taken=_took_from_both(both, share, TAKEN)) and not learned_apart(gains):
        log_odds = max(log_odds, descent)
    if faint and _is_even_on_average(both):
        log_odds = max(log_odds, descent)
    if too_little:
        log_odds = min(log_odds, descent - BELOW)
    if additions is not None and _is_noise(additions, share, learned, gains, max(s.own for s in both)):
        log_odds = max(log_odds, descent)
    origin = _by_odds(log_odds, fitted)
    if origin == "start" and (_is_minor_part(both) or _is_left_open(additions, share, learned)):
        origin = "unknown"
    return OriginEvidence(origin, log_odds, gains is not None, learned, beyond=log_odds - descent)


def learned_apart(gains: LearnedGains | None) -> bool:
    """Whether gains were learned apart, whatever else looks like a merge."""
    return gains is not None and gains.cosine < APART_GAINS


def _by_odds(log_odds: float, fitted: Mapping[str, Any], *, may_descend: bool = True) -> Origin:
    if log_odds >= float(fitted["descent"]):
        return "descent" if may_descend else "unknown"
    return "start" if log_odds <= float(fitted["start"]) else "unknown"


def _took_from_both(both: list[Survival], share: Share | None, taken: float, errors: float = 0.0) -> bool:
    """Whether the difference belongs to both alike and takes away from both what they learned. Twins of an optimizer
    whose first steps are the same for any text (Lion, or any at a low rate) have all of each other but for that."""
    return _is_halved(share, errors) and len(both) == 2 and all(s.own < taken for s in both)


def _is_halved(share: Share | None, errors: float = 0.0) -> bool:
    """Whether the difference belongs to both, or may within so many standard errors. What is added to a model, be it
    noise, belongs to one side alone: that which has it takes no part of it from the other."""
    return share is not None and abs(share.lean) < HALVED + errors * share.error


def _is_too_little(
    both: list[Survival],
    share: Share | None,
    gains: LearnedGains | None,
    additions: Additions | None,
    learned: float,
) -> bool:
    """Whether next to nothing was learned, and the difference takes that from both, or is too short to ask whose it is,
    or gains are all that speaks and are not the same: at a low rate, or where nothing else was trained, two trainings
    have gains that agree at 0.92. And gains that are the same may have been so in the start: then the difference has to
    be one side's."""
    if learned < RAW:
        unasked = share is None and additions is not None
        if unasked or _is_halved(share, errors=2.0) or (gains is not None and not are_same(gains)):
            return True
    return learned < SEEN_LEARNING and _took_from_both(both, share, LITTLE_TAKEN, errors=2.0)


def odds(weights: Mapping[str, float], measured: Mapping[str, float]) -> float:
    """The weighed sum; `offset` counts once."""
    return weights["offset"] + sum(weight * measured[name] for name, weight in weights.items() if name != "offset")


def numbers(
    forward: Survival | None, backward: Survival | None, share: Share | None, gains: LearnedGains | None
) -> dict[str, float]:
    """The numbers that are weighed, by name, each cut to the range that it has in models of known descent.

    The side along which the middle of the spectrum lives on best is the one that looks like a parent; its numbers come
    first, those of the other one end in 2.
    """
    one = forward or backward
    other = backward or forward
    if one is None or other is None:
        return {}
    turned = other.middle > one.middle
    if turned:
        one, other = other, one
    lean = 0.5 if share is None else _cut(abs(share.lean), 0.0, 0.8)
    found = {
        "ratio": _cut(one.ratio, 0.3, 1.2), "own": _cut(one.own, -1.0, 0.5), "own2": _cut(other.own, -1.0, 0.5),
        "middle": _cut(one.middle, 0.0, 1.1), "growth": _cut(one.middle, 0.8, 1.1),
        "middle2": _cut(other.middle, 0.0, 1.1), "uneven": _cut(one.unevenness, 0.0, 1.0),
        "ratio2": _cut(other.ratio, 0.0, 1.3), "mixed": float(other.is_even_part and other.middle > LEAST_PART),
        "uneven2": _cut(other.unevenness, 0.0, 1.0), "alike": _cut(one.alike, 0.0, 1.0),
        "lean": lean, "lean_square": lean**2, "residual": math.log(_cut(one.residual, 0.1, 50.0)),
        "learned": math.log(one.excess + FLOOR), "learned2": math.log(other.excess + FLOOR),
    }  # fmt: skip
    if gains is not None:
        slope = _log(gains.backward if turned else gains.forward)
        found |= {"gains": gains.cosine, "gain_growth": slope, "gain_change": abs(slope)}
    return found


def _lives_on_evenly(both: list[Survival], taken: bool) -> bool:
    """Whether one lives on in the other by one share, in every matrix, though much was learned: nothing died, as in a
    merge, or under noise and a frame that was not met exactly. Of 786 twins of the calibration families none does.

    A start that was drawn with strong directions has them in both of its trainings, and they may look even. But of a
    parent that is half of a merge or more the merge lacks less than it has: with M = p A + (1 - p) C, the difference
    A - M goes along M by (1 - p) (p |A|^2 - (1 - p) |C|^2), which is not below zero for p of a half and alike lengths.

    Args:
        both: what lives on, either way.
        taken: whether their difference takes from both alike what they learned. Twins over one text in another order
            do so and may look even; in a turned stream, gains folded away, nothing else tells them from a merge.
    """
    if min(s.excess for s in both) < SEEN_LEARNING:
        return False
    most = LESS_THAN_HALF if taken else MIXED_MIDDLE
    if any(_is_even(s, *limits) and EVEN_PART < s.middle < most for s in both for limits in EVENLY):
        return True
    return any(
        _is_even(one, *LESS_EVENLY)
        and EVEN_PART < one.middle < LESS_THAN_HALF
        and other.unevenness > LOPSIDED * one.unevenness
        for one, other in permutations(both, 2)
    )


def _is_even(survival: Survival, mean: float, each: float) -> bool:
    return abs(survival.top - survival.middle) < mean * survival.middle and survival.unevenness < each


def _is_even_on_average(both: list[Survival]) -> bool:
    """Whether one is in the other by a small share, on the average the same in every direction, those that were learned
    among them (what learned nothing that can be seen is in its twins so, too), while the other way round is uneven, as
    it is in a merge. Of 1,362 pairs of one start that were kept none is (docs/LOG.md, 2026-11-30)."""
    return min(s.excess for s in both) >= SEEN_LEARNING and any(
        FAINT[0] <= one.ratio <= FAINT[1]
        and LEAST_PART < one.middle < FAINT_MIDDLE
        and one.unevenness < FAINT_UNEVEN
        and other.unevenness > LOPSIDED * one.unevenness
        for one, other in permutations(both, 2)
    )


def _is_noise(
    additions: Additions, share: Share | None, learned: float, gains: LearnedGains | None, own: float
) -> bool:
    """Whether little was learned, but the difference is noise that was added to one side, or nothing. Noise in both is
    another matter: steps that follow noise (private gradients, random directions tried one by one) leave it in any two
    trainings of one start."""
    if learned >= SEEN_LEARNING:
        return False  # what was learned speaks for itself
    if learned < RAW and SAME <= additions.moved < TRACE:
        return False  # a first step is as short
    if learned_apart(gains) or (_is_halved(share, errors=2.0) and additions.moved >= TRACE):
        return False
    return additions.is_noise(gains, own)


def _is_left_open(additions: Additions | None, share: Share | None, learned: float) -> bool:
    """Whether a shared start is not said either: parts were planted, or one side is as it was drawn, or a first step
    away, as far as can be seen, and all of the difference is the other's. That one may be the start of the other, or a
    training of its own too short to be seen, of a body whose gains and tables were frozen: a thousandth of the energy
    of a matrix moves no number that is looked at. Nothing that was learned is shared in either case, so descent is not
    said."""
    if additions is None:
        return False
    if additions.is_planted:
        return True
    if learned >= RAW:
        return False
    if additions.bare is None:
        one_stepped = additions.untrained and not additions.both_untrained
        return one_stepped and share is not None and abs(share.lean) >= ALL_OF_ONE
    return share is None or (share.lean if additions.bare == "a" else -share.lean) >= ALL_OF_ONE


def _is_minor_part(both: list[Survival]) -> bool:
    """Whether so little lives on, and by one share, that a small part in a merge would look the same."""
    part = min(both, key=lambda s: s.middle)
    return part.middle < MINOR_MIDDLE and abs(part.top - part.middle) < MINOR_EVEN * abs(part.middle)


def _cut(value: float, low: float, high: float) -> float:
    return min(max(value, low), high) if math.isfinite(value) else low


def _log(value: float) -> float:
    return _cut(math.log(max(value, 0.05)), -2.0, 1.0)
