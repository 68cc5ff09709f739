"""What is found of a merge while it is taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field

from pedigree.forensics.merges.merge_groups import Group
from pedigree.records.unmerging import Explained, MergeSource, UnmergeVerdict


@dataclass
class Decomposition:
    """What was found; model numbers count the child as 0, then the parents, then the base."""

    verdict: UnmergeVerdict
    method: str | None = None
    sources: list[MergeSource] = field(default_factory=list)
    explained: Explained = field(default_factory=Explained)
    groups: list[Group] = field(default_factory=list)
    stack: list[tuple[int, int]] = field(default_factory=list)
    parameters: dict[str, float | bool] = field(default_factory=dict)
    each: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    also_possible: list[str] = field(default_factory=list)
    recipe: str | None = None
    left_out: list[str] = field(default_factory=list)
    whole: bool = True
    is_short: bool = False  # a parent is missing, so that nobody can make the merge again
    warnings: list[str] = field(default_factory=list)

    def update(self, number: int, **fields: object) -> None:
        """Change fields of the source with that model number."""
        self.sources[number - 1] = self.sources[number - 1].model_copy(update=fields)

    def name(self, number: int) -> str:
        """Last part of the location of the source with that model number."""
        return self.sources[number - 1].location.rstrip("/").rsplit("/", maxsplit=1)[-1]
