"""Calibration and test, held apart.

Law  a threshold can be asked of the calibration split alone: `threshold` refuses scores of any other, and a split hands
     out no model of a family that lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pedigree.benchmark.families.members import Member, SplitName
from pedigree.errors import UsageError


@dataclass(frozen=True)
class Split:
    """The members of one split.

    Args:
        name: calibration or test.
        members: whole families, all of this split.
    """

    name: SplitName
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        astray = [member.name for member in self.members if member.family.split != self.name]
        if astray:
            raise UsageError(
                "a model of another split", where=f"split {self.name}", got=astray[0],
                expected=f"families of the {self.name} split",
            )  # fmt: skip

    @classmethod
    def of(cls, name: SplitName, members: Sequence[Member]) -> Split:
        """The split of that name among all members; steps on the way are left out."""
        return cls(name, tuple(m for m in members if m.family.split == name and not m.step))


@dataclass(frozen=True)
class SplitScores:
    """Scores of strangers, with the split they come from.

    Args:
        split: where the models lie.
        strangers: one score for each pair of unrelated models.
    """

    split: SplitName
    strangers: tuple[float, ...]

    def threshold(self) -> float:
        """The highest score of a stranger: above it, nothing independent was seen.

        Raises:
            UsageError: these are scores of the test split, or there are none.
        """
        if self.split != "calibration":
            raise UsageError(
                "a threshold was asked of the test split",
                got=f"{len(self.strangers)} scores of split {self.split}",
                expected="scores of the calibration split",
                fix="set thresholds on calibration, look at test once",
            )
        if not self.strangers:
            raise UsageError("no stranger of the calibration split was scored", fix="pedigree bench run")
        return max(self.strangers)
