"""What a test is (its card) and what it found (its outcome).

A test never answers with a bare number. The card says which null was tested and what it rests on; the outcome
carries the statistic, the p-value as a base-ten logarithm (evidence here goes far below what a float can hold)
and, where the test could not be made, the reason. NaN is never an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pedigree.errors import InternalError


@dataclass(frozen=True, slots=True)
class TestCard:
    """The fixed facts about a test.

    Args:
        name: the test's name in reports, hyphenated.
        version: raised whenever the same weights could give another number.
        null: the hypothesis that a small p-value speaks against.
        assumes: what has to hold for the p-value to be valid.
        source: where the mathematics is written down.
        unit: what the statistic counts or measures.
    """

    __test__: ClassVar[bool] = False  # the name would make pytest collect it

    name: str
    version: int
    null: str
    assumes: str
    source: str
    unit: str


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """What one test found on one pair.

    Args:
        card: which test.
        statistic: the observed value, in the card's unit; 0.0 where the test does not apply.
        n: how many units, pairs or blocks it rests on.
        log10_p: log10 of the p-value or of an upper bound on it, in (-inf, 0]; None where there is none.
        applicable: whether the test could be made.
        why_not: the reason where it could not, else None.
        extra: further numbers, ready for JSON.

    Raises:
        InternalError: a number is not finite, a p-value lies above one, or a test that does not apply says why
            nothing or claims a p-value.
    """

    __test__: ClassVar[bool] = False  # the name would make pytest collect it

    card: TestCard
    statistic: float
    n: int
    log10_p: float | None
    applicable: bool = True
    why_not: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"test {self.card.name}"
        if not math.isfinite(self.statistic):
            raise InternalError("A statistic is not a finite number", where=where, got=self.statistic)
        if self.log10_p is not None and not (math.isfinite(self.log10_p) and self.log10_p <= 0.0):
            raise InternalError(
                "A log10 p-value lies outside its range",
                where=where,
                got=self.log10_p,
                expected="a finite number, at most 0",
            )
        if self.applicable != (self.why_not is None):
            raise InternalError(
                "A test must give a reason exactly when it does not apply", where=where, got=self.why_not
            )
        if not self.applicable and self.log10_p is not None:
            raise InternalError("A test that does not apply claims a p-value", where=where, got=self.log10_p)

    @classmethod
    def not_applicable(
        cls, card: TestCard, why: str, *, n: int = 0, extra: dict[str, Any] | None = None
    ) -> TestOutcome:
        """The outcome of a test that could not be made, with the reason."""
        return cls(card, statistic=0.0, n=n, log10_p=None, applicable=False, why_not=why, extra=extra or {})
