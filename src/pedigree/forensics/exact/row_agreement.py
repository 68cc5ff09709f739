"""Row agreement: do paired units agree in a frame that nobody could choose?

Question  Units of B were paired with units of A. Do their rows agree in the frame that vocabulary rows give?
Null      B's units were drawn independently of A's and of the vocabulary rows of both; pairs, lengths and signs were
          then chosen to make them agree
Assumes   rows of units that do not belong together show how far independent ones agree
Source    Chernoff bound of a chi-square, union bound over pairings; the best pairings of strangers use 0.37 of what is
          paid for them (docs/LOG.md, 2026-11-30)
Shapes    U and W = units of A and of B, K = pairs, D = directions that are looked through

Gram agreement (`gram_agreement.py`) asks for no frame, and has to be paid for it: of few units in few coordinates inner
products say little. Where vocabulary rows give the frame, rows can be laid side by side. Squared cosines of rows that
belong to different units have some mean m, more than 1 / D where rows crowd in few directions. Those of paired ones,
divided by it, are chi-squares of one degree of freedom under the null; with r their mean over n rows,
    ln p <= -n (r - 1 - ln r) / 2
times the number of pairings. The square knows no sign, so signs are free.
"""

from __future__ import annotations

import math

from torch import Tensor

from pedigree.forensics.exact.card import TestCard, TestOutcome
from pedigree.forensics.exact.gram_agreement import LEAST_UNITS, MARGIN
from pedigree.forensics.exact.tails import LN10

CARD = TestCard(
    name="row-agreement",
    version=1,
    null="B's units are independent of A's and of all vocabulary rows; pairs and signs were then chosen to make them "
    "agree",
    assumes="rows of units that do not belong together show how far independent ones agree",
    source="Chernoff bound of a chi-square, union bound over pairings; docs/guide/methods.md",
    unit="mean squared agreement of rows, 1 when they are independent",
)


class RowMeter:
    """Adds up the agreement of paired rows, one projection of a layer after the other."""

    def __init__(self) -> None:
        self.units = 0
        self._rows = 0
        self._total = 0.0

    def add(self, a_UD: Tensor, b_WD: Tensor, at_K: Tensor, there_K: Tensor) -> None:
        """Take in rows of length one of all units of a layer, and which of them are paired."""
        square_UW = (a_UD.double() @ b_WD.double().T).square()
        paired_K = square_UW[at_K, there_K]
        others = square_UW.numel() - len(paired_K)
        apart = float(square_UW.sum() - paired_K.sum()) / max(1, others)
        if not len(paired_K) or apart <= 0.0:
            return
        self._rows += len(paired_K)
        self._total += float(paired_K.sum()) / max(apart, 1.0 / a_UD.shape[1])

    def outcome(self, choices: float) -> TestOutcome:
        """The test over everything taken in.

        Args:
            choices: natural logarithm of the number of pairings (and layer maps) that were open.
        """
        if self.units < LEAST_UNITS or not self._rows:
            return TestOutcome.not_applicable(CARD, f"fewer than {LEAST_UNITS} paired units", n=self.units)
        ratio = self._total / self._rows
        log_given = -0.5 * self._rows * (ratio - 1.0 - math.log(ratio)) if ratio > 1.0 else 0.0
        return TestOutcome(
            CARD,
            statistic=ratio,
            n=self.units,
            log10_p=min(0.0, (log_given + MARGIN * choices) / LN10),
            extra={"log10_p_given": log_given / LN10, "log10_choices": choices / LN10},
        )
