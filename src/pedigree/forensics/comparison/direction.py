"""Which of two related models came first, as log-odds with the reasons.

Ordered evidence (forensics study, section 9.6): structure that only a child can have (coarser number grid, copies of
one unit, subsets), then the asymmetry of additive changes: regress each matrix of one model on the other; in the true
direction the squared residual does not grow with the squared parent weight, in the false one it does.

Then, whose the difference is (`forensics.share`). If one of the two descends from the other, that says which, and was
never clearly wrong on the pairs it was fitted on; its log-odds are fitted (`data/direction.json`, by
`benchmark.direction`). But of siblings the one that drifted less has a small share too. So a pair alone gets the odds
of a second fit, in which half of the weight lies on siblings; the first ones count in a tree, where third models tell
siblings by their shape. For the same reason structure that only a child can have decides nothing about a pair in which
the other model has something of its own, too: both may come from a third. The second odds stay below a decision: the
average of a model with what it was tuned from, or of its last checkpoints, lies where an earlier checkpoint would, and
was made later.

Where no share can be measured, what lives on of one in the other and the votes of the additive test say which lies
nearer to the branch point, and stay below a decision for the same reason, unless what one has on top of the other was
not learned: a sibling would bring what it learned itself.

Shapes: N = matched numbers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from pedigree.forensics.comparison.findings import Findings
from pedigree.forensics.comparison.number_edits import masked_side, was_there_before
from pedigree.forensics.descent.additions import is_untrained
from pedigree.forensics.descent.origin import RAW
from pedigree.forensics.descent.share import Share
from pedigree.forensics.descent.survival import EVEN, SEEN_LEARNING, Survival
from pedigree.forensics.sides.bits import Zeros
from pedigree.forensics.sides.side import Side
from pedigree.records.comparison import DirectionVerdict
from pedigree.weights.number_types import WIDE_FLOATS

ABSTAIN_BELOW = math.log(20.0)
"""Log-odds below which the direction stays undetermined."""

MAX_NUMBERS = 250_000
"""Numbers of a matrix that take part in the additive test, evenly spaced."""

WHOLE = (0.95, 1.06)
"""Mean survival that counts as living on whole."""

SILENT_LOG_ODDS = 2.0
"""What units that write nothing may add: less than a decision, since pruning by a mask leaves them in a parent too."""

MIDPOINT = 0.9
"""Share by which a parent of a merge lives on is below this; a child that was only trained a little is above."""

LEARNED = 1.5
"""Energy of what was added, along strong over middling directions, above which it was learned and is not noise."""

NOISE = 1.2
"""The same, below which it is noise and nothing else: 0.97 to 1.15 of noise of 2 to 100 % and of four-bit grids; what
late steps of training add, and averages of checkpoints take away, begins at 1.4."""

MAX_VOTES_LOG_ODDS = math.log(15.0)
"""What the additive test alone may add: less than a decision, since it cannot tell a parent from a nearer sibling."""

MAX_NEARER_LOG_ODDS = math.log(15.0)
"""What all evidence of nearness may add in a pair, for the same reason."""

OWN = 0.37
"""Share of the difference from which on a model is seen to have something of its own. Parents of what was grown or
upcycled and trained have 0.34 at most (0.20 where nothing was reordered); siblings 0.4 and more, but where they saw
little of their own or read the same text in the same order."""

MOST_LOST = 0.9
"""The same by how much of a model lives on in the other, where no share can be measured."""

ROUNDED = 6.0
"""Log-odds of one number grid that is coarser than the other's."""

MASKED = 6.0
"""Log-odds of zeros that stand in places of numbers which cannot have grown out of them."""

CUT_OUT, LEAST_CUT = 6.0, 2
"""Log-odds of matrices that are the other's with some directions left out, and how many of them it takes."""

MOST_ODDS = 6.0
"""What the share of the difference may add: as much as the pairs it was fitted on can vouch for."""


@dataclass
class DirectionEvidence:
    """Log-odds in favor of A being the ancestor, with one reason for each piece.

    Attributes:
        log_odds: of a pair of which nothing is known: siblings are among the possibilities.
        if_descent: the same if one of the two descends from the other.
        pieces: log-odds of what only a child can have, each by itself, and of what lives on as a whole.
    """

    log_odds: float = 0.0
    reasons: list[str] = field(default_factory=list)
    if_descent: float = 0.0
    pieces: list[float] = field(default_factory=list)

    def add(self, log_odds: float, reason: str) -> None:
        """Add a piece of evidence; positive favors A to B."""
        self.pieces.append(log_odds)
        self.log_odds += log_odds
        self.if_descent += log_odds
        self.reasons.append(f"{reason} ({'+' if log_odds >= 0 else ''}{log_odds:.1f})")

    @property
    def verdict(self) -> DirectionVerdict:
        """`a-to-b`, `b-to-a`, or `undetermined`."""
        return _word(self.log_odds)

    @property
    def verdict_if_descent(self) -> DirectionVerdict:
        """The same where one of the two is known to descend from the other."""
        return _word(self.if_descent)


def _word(log_odds: float) -> DirectionVerdict:
    if abs(log_odds) < ABSTAIN_BELOW:
        return "undetermined"
    return "a-to-b" if log_odds > 0 else "b-to-a"


def weigh_direction(a: Side, b: Side, found: Findings, *, alone: bool = True) -> DirectionEvidence:
    """All evidence on who came first; symmetric in A and B but for the sign.

    Args:
        a, b, found: the pair and what was measured of it.
        alone: whether nothing but this pair is known. Who has third models tells siblings by their shape and takes
            evidence of nearness in full.
    """
    out = DirectionEvidence()
    if found.same_numbers:
        return out
    _layer_copies(found, out)
    _unit_copies(found, out)
    _vocabulary(found, out)
    copied = sum(out.pieces)
    _number_grids(a, b, found, out)
    is_rounded = sum(out.pieces) != copied  # the very numbers of the other: nothing of its own is left out of sight
    reduced = _mask(found, out) or _cut_out(found, out)
    # Of unlike layers that were put into one, each lives on by a half, and the one that was made of them whole.
    if not reduced and not found.mixed and not found.mixed_back:
        _never_trained(a, b, found, out)
        # A model cut to another width has lost a part of its energy, which would look like drift.
        comparable = a.width == b.width and not is_mixed(found.forward, found.backward)
        _difference(found, out, comparable=comparable, alone=alone)
        if alone and a.width == b.width and not is_rounded and abs(copied) >= ABSTAIN_BELOW:
            _own_parts(found, out, is_a_first=copied > 0, comparable=comparable)
    if alone:
        _two_children(out)
    return out


def _difference(found: Findings, out: DirectionEvidence, *, comparable: bool, alone: bool) -> None:
    """Whose the difference is, or where that cannot be measured, which of the two lies nearer to where they parted."""
    if found.bits is not None and found.bits.equal and not (found.bits.different or found.bits.equal_after_cast):
        return  # what differs are gains that one of the files lacks, and they were folded into the rows
    plain_noise = _only_noise_was_added(found)
    if found.share is not None and comparable and not plain_noise:
        _share(found.share, out, alone=alone)
        return
    nearer = DirectionEvidence()
    _survival(found, nearer)
    _votes(found, nearer)
    _add_nearness(nearer, out, capped=alone and not plain_noise)


def _own_parts(found: Findings, out: DirectionEvidence, *, is_a_first: bool, comparable: bool) -> None:
    """Copies say who is no ancestor; whether the other is one depends on what it has of its own."""
    first, lives_on = ("A", found.forward) if is_a_first else ("B", found.backward)
    if found.share is not None and comparable:
        own = found.share.of_a if is_a_first else 1.0 - found.share.of_a
        if own > OWN:
            _cap(out, f"{_percent(own)} of the difference belongs to {first}")
    elif lives_on is not None and lives_on.mean < MOST_LOST:
        _cap(out, f"{lives_on.mean:.0%} of {first} lives on in the other")


def _two_children(out: DirectionEvidence) -> None:
    """What speaks for one as the child and what speaks for the other are both true of siblings."""
    if max(out.pieces, default=0.0) >= ABSTAIN_BELOW and min(out.pieces, default=0.0) <= -ABSTAIN_BELOW:
        _cap(out, "each has what only a child can have")


def _cap(out: DirectionEvidence, reason: str) -> None:
    """Keep the odds of a pair below a decision: both may come from a third model."""
    out.log_odds = max(-MAX_NEARER_LOG_ODDS, min(MAX_NEARER_LOG_ODDS, out.log_odds))
    out.reasons.append(f"{reason}: both may come from a third model, so together at most {MAX_NEARER_LOG_ODDS:.1f}")


UNTRAINED_LOG_ODDS = 4.0
"""One of two relatives was never trained, and the other was: nobody takes back what was learned."""


def _never_trained(a: Side, b: Side, found: Findings, out: DirectionEvidence) -> None:
    """A start came before what was trained from it: all its gains are as they begin, and its matrices are random."""
    if found.forward is None or found.backward is None or a.width != b.width:
        return
    seen_a, seen_b = found.forward.excess, found.backward.excess
    if seen_a < RAW and seen_b >= SEEN_LEARNING and is_untrained(a) and not is_untrained(b):
        name, other, odds = "A", "B", UNTRAINED_LOG_ODDS
    elif seen_b < RAW and seen_a >= SEEN_LEARNING and is_untrained(b) and not is_untrained(a):
        name, other, odds = "B", "A", -UNTRAINED_LOG_ODDS
    else:
        return
    out.add(odds, f"{name} was never trained, as far as its gains and matrices tell, and {other} was")


@cache
def calibration() -> dict[str, Any]:
    """The fitted numbers that ship with the package, and what they did on families that took no part in the fit."""
    source = files("pedigree.forensics").joinpath("data/direction.json")
    return dict(json.loads(source.read_text(encoding="utf-8")))


def _share(share: Share, out: DirectionEvidence, *, alone: bool) -> None:
    """Whose the difference is: by the fit for descent and, of a pair alone, by the one that knows siblings."""
    lean = share.lean
    line = _clamped(float(calibration()["line"]["slope"]) * lean)
    words = f"{_percent(share.of_a)} of the difference belongs to A, {_percent(1.0 - share.of_a)} to B"
    out.if_descent += line
    said = f"if one descends from the other, {'A' if line > 0 else 'B'} came first: log odds {abs(line):.1f}"
    if not alone:
        out.log_odds += line
        out.reasons.append(f"{words} ({line:+.1f})")
        return
    pair = _pair_odds(lean, math.log(max(share.moved, 1e-6)))
    pair = max(-MAX_NEARER_LOG_ODDS, min(MAX_NEARER_LOG_ODDS, pair))
    out.log_odds += pair
    also = "a sibling that drifted less, siblings of an ancestor unseen, or an average made later, fit too"
    out.reasons.append(f"{words} ({pair:+.1f}; {said}; {also})")


def _percent(share: float) -> str:
    return f"{min(1.0, max(0.0, share)):.0%}"


def _clamped(log_odds: float) -> float:
    return max(-MOST_ODDS, min(MOST_ODDS, log_odds))


def _pair_odds(lean: float, log_moved: float) -> float:
    """Log-odds that A is the ancestor where that is likelier than not, minus those of B where that is, else zero."""
    three = calibration()["pair"]
    either = float(three["offset"]) + float(three["rate"]) * log_moved
    first, second = math.exp(either + float(three["slope"]) * lean), math.exp(either - float(three["slope"]) * lean)
    for_a, for_b = math.log(first / (second + 1.0)), math.log(second / (first + 1.0))
    return max(for_a, 0.0) - max(for_b, 0.0)


def is_mixed(forward: Survival | None, backward: Survival | None) -> bool:
    """Whether one may be a merge of the other with a third model: the other lives on in it by one even share. There the
    share of the difference means nothing, since the mean of two strangers has a part of each."""
    both = [s for s in (forward, backward) if s is not None]
    if len(both) < 2:
        return False
    part = min(both, key=lambda s: s.top + s.middle)
    return part.is_even_part


def _add_nearness(nearer: DirectionEvidence, out: DirectionEvidence, *, capped: bool) -> None:
    most = MAX_NEARER_LOG_ODDS if capped else math.inf
    log_odds = max(-most, min(most, nearer.log_odds))
    out.reasons += nearer.reasons
    if log_odds != nearer.log_odds:
        out.reasons.append(f"a sibling that drifted less would look the same: together at most {most:.1f}")
    out.log_odds += log_odds
    out.if_descent += nearer.if_descent
    out.pieces.append(nearer.log_odds)


def _only_noise_was_added(found: Findings) -> bool:
    """Whether what one has on top of the other bears no trace of learning, seen from the one that lives on best."""
    both = [s for s in (found.forward, found.backward) if s is not None]
    main = max(both, key=lambda s: s.top + s.middle, default=None)
    if found.additions is not None and not found.additions.is_noise(found.gains):
        return False  # what an optimizer adds that makes all directions equally long looks the same
    return main is not None and main.residual < NOISE


def _votes(found: Findings, out: DirectionEvidence) -> None:
    if found.additive is None:
        return
    forward, backward = found.additive
    total = forward + backward
    if total >= 4:
        lean = (forward - backward) / total
        odds = max(-MAX_VOTES_LOG_ODDS, min(MAX_VOTES_LOG_ODDS, lean * abs(lean) * math.sqrt(total) * 0.6))
        out.add(odds, f"additive changes grow with the weights of one side: {forward} matrices to {backward}")


def _survival(found: Findings, out: DirectionEvidence) -> None:
    """A child is its parent plus something new: followed from the parent every direction lives on at strength one,
    followed from the child some of them, being new, do not. Two siblings fall short of one both ways."""
    if found.forward is None or found.backward is None:
        return
    there, back = found.forward.mean, found.backward.mean
    whole, part, sign = (there, back, 1.0) if there > back else (back, there, -1.0)
    if not WHOLE[0] <= whole <= WHOLE[1] or part > 1.0:
        return
    if _is_midpoint(*((found.forward, found.backward) if sign > 0 else (found.backward, found.forward))):
        return
    gap = whole - part
    if gap < 0.01:
        return
    odds = 4.0 if gap > 0.05 else 2.0
    names = ("A", "B") if sign > 0 else ("B", "A")
    out.add(
        sign * odds,
        f"directions of {names[0]} live on in {names[1]} at {whole:.2f}, "
        f"those of {names[1]} in {names[0]} at {part:.2f}",
    )


def _is_midpoint(from_whole: Survival, from_part: Survival) -> bool:
    """Whether the side that lives on whole may be the middle of a merge rather than an ancestor.

    The mean of two strangers lives on whole in each of them, since each is the mean plus half their difference. It
    betrays itself: its parents live on in it by one even share, and what each has on top of it was learned and is not
    noise (docs/LOG.md, 2026-11-25). Where none of the two learned anything there is no such word, and noise as large as
    the weights is the less likely of the two.
    """
    even = abs(from_part.top - from_part.middle) < EVEN * abs(from_part.middle)
    learned = from_whole.residual > LEARNED or max(from_whole.excess, from_part.excess) < RAW
    return even and from_part.middle < MIDPOINT and learned


def _number_grids(a: Side, b: Side, found: Findings, out: DirectionEvidence) -> None:
    # Numbers that training moved apart, before or after, are not in one order any more: then two models may have been
    # made from a third, the one by rounding and the other by training.
    coarse = found.rounded or _of_few_bits(a, b)
    if coarse is not None and found.in_order:
        who, sign = ("B", 1.0) if coarse == "b" else ("A", -1.0)
        out.add(sign * ROUNDED, f"{who} is the other rounded to a grid of few bits: all numbers are still in order")
    bits = found.bits
    if bits is None or not bits.equal_after_cast:
        return
    share = len(bits.equal_after_cast) / max(1, len(bits.equal_after_cast) + len(bits.different))
    if share > 0.5:
        sign = 1.0 if bits.coarser == "b" else -1.0
        who = "B" if bits.coarser == "b" else "A"
        out.add(sign * ROUNDED, f"{who} is the other rounded to a coarser number type")


def _of_few_bits(a: Side, b: Side) -> str | None:
    """`"a"` or `"b"`, which of the two alone is stored in a type of few bits."""
    few = [side.number_type not in WIDE_FLOATS for side in (a, b)]
    return None if few[0] == few[1] else "a" if few[0] else "b"


def _mask(found: Findings, out: DirectionEvidence) -> bool:
    """Numbers cut to zero: what is left of a model lives on whole in it, so nearness would point the wrong way."""
    zeros = found.bits.zeros if found.bits is not None and found.rounded is None else Zeros()
    masked = masked_side(zeros)
    if masked is not None and was_there_before(zeros, masked):
        sign, who = (1.0, "B") if masked == "b" else (-1.0, "A")
        out.add(sign * MASKED, f"numbers of the other were cut to zero in {who}")
    return masked is not None


def _cut_out(found: Findings, out: DirectionEvidence) -> bool:
    """Directions left out: as with zeros, what is left lives on whole in the model that it was cut out of."""
    if found.forward is None or found.backward is None or not found.evidence.gauge.reaches_all:
        return False  # in a wider stream whatever is narrower has fewer directions
    of_a, of_b = found.forward.cut, found.backward.cut
    if max(of_a, of_b) < LEAST_CUT or min(of_a, of_b) > 0:
        return False
    sign, who, many = (1.0, "B", of_b) if of_b else (-1.0, "A", of_a)
    out.add(sign * CUT_OUT, f"{many} matrices of {who} are those of the other with some directions left out")
    return True


def _layer_copies(found: Findings, out: DirectionEvidence) -> None:
    """Independent training does not repeat a layer: the model with repeats was made from the other. Nor does it put two
    unlike layers into one."""
    forward, backward = len(found.mixed), len(found.mixed_back)
    if (forward > 0) != (backward > 0):
        who, name, sign = (forward, "B", 1.0) if forward else (backward, "A", -1.0)
        # Nothing tells here whether the other has something of its own, as a sibling of the one they were put together
        # from has.
        out.add(sign * MAX_NEARER_LOG_ODDS, f"layers of {name} that hold parts of several layers of the other: {who}")
        return
    forward, backward = _repeats(found.layer_map), _repeats(found.reverse_map)
    if forward and not backward:
        out.add(5.0, f"layers of B that repeat layers of A: {forward}")
    elif backward and not forward:
        out.add(-5.0, f"layers of A that repeat layers of B: {backward}")


def _repeats(path: list[int | None]) -> int:
    used = [i for i in path if i is not None]
    return len(used) - len(set(used))


def _unit_copies(found: Findings, out: DirectionEvidence) -> None:
    """Nor does it repeat a unit; silent units (written nowhere) were added to a finished model. Of two with equally
    many units both have them: a training parts the copies and wakes the silent ones, so that the one before it would
    seem to be made from the other."""
    same_sizes = all(u.total_a == u.total_b for u in found.unit_maps.values())
    if same_sizes and len(found.layer_map) == len(found.reverse_map):
        return
    total = sum(int(u.index_b_N.shape[0]) for u in found.unit_maps.values())
    here = sum(u.copies for u in found.unit_maps.values())
    there = sum(u.copies for u in found.reverse_units.values())
    many = max(8, 0.02 * total)
    if here >= many > there and here > 4 * there:
        out.add(5.0, f"{here} units of B are copies of units that A has once")
    elif there >= many > here and there > 4 * here:
        out.add(-5.0, f"{there} units of A are copies of units that B has once")
    silent_b = sum(int(u.silent_N.sum()) for u in found.unit_maps.values())
    silent_a = sum(int(u.silent_N.sum()) for u in found.reverse_units.values())
    if silent_b > 4 * silent_a and silent_b >= 8:
        out.add(SILENT_LOG_ODDS, f"{silent_b} units of B write nothing, as added units do before training")
    elif silent_a > 4 * silent_b and silent_a >= 8:
        out.add(-SILENT_LOG_ODDS, f"{silent_a} units of A write nothing, as added units do before training")


def _vocabulary(found: Findings, out: DirectionEvidence) -> None:
    tokens = found.tokens
    if tokens.by != "surface form" or tokens.count < 256:
        return
    if tokens.count >= 0.98 * tokens.tokens_a and tokens.tokens_b > 1.01 * tokens.tokens_a:
        out.add(1.0, "B's vocabulary is A's with tokens added")
    elif tokens.count >= 0.98 * tokens.tokens_b and tokens.tokens_a > 1.01 * tokens.tokens_b:
        out.add(-1.0, "A's vocabulary is B's with tokens added")


def additive_vote(a_ND: Tensor, b_ND: Tensor) -> int:
    """Vote of one pair of matched matrices by the additive asymmetry: +1 for A as parent, -1 for B, 0 for neither."""
    step = max(1, a_ND.numel() // MAX_NUMBERS)
    x_N, y_N = a_ND.flatten()[::step].double(), b_ND.flatten()[::step].double()
    there, back = _residual_dependence(x_N, y_N), _residual_dependence(y_N, x_N)
    if not (math.isfinite(there) and math.isfinite(back)):
        return 0
    return 1 if abs(there) < abs(back) else -1


def _residual_dependence(x_N: Tensor, y_N: Tensor) -> float:
    """Correlation of the squared regression residual of y on x with x squared, outliers clipped."""
    scale = (x_N * x_N).sum()
    if float(scale) == 0.0:
        return math.nan
    residual2 = (y_N - x_N * ((x_N * y_N).sum() / scale)) ** 2
    square = x_N**2
    residual2 = residual2.clamp_max(float(residual2.mean()) * 16.0)
    square = square.clamp_max(float(square.mean()) * 16.0)
    stacked = torch.stack([residual2, square])
    if float(stacked.std(dim=1).min()) == 0.0:
        return math.nan
    return float(torch.corrcoef(stacked)[0, 1])
