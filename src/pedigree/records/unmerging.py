"""The record of a decomposition: what `pedigree unmerge MODEL --parents A B --json` prints."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import InputRecord, Producer, ReadRecord, Record

UnmergeVerdict = Literal["merge", "one-parent", "not-explained", "not-in-frame"]


class MergeSource(Record):
    """One candidate parent, or the base, with its weight in the model.

    `standard_error` is by leaving out one tensor after the other. `branch_ratio` is the residual energy over what mere
    common descent would leave at least: 1 or more without a merge, 0 for an exact one. `cosine` is with the model,
    number by number, in place. `density` is the share of changes that was kept where the method masks them.
    """

    location: str
    role: Literal["parent", "base"] = "parent"
    weight: float = 0.0
    standard_error: float | None = None
    branch_ratio: float | None = None
    density: float | None = None
    cosine: float | None = None
    digest: str | None = None


class MergeGroup(Record):
    """Weights of one component of one layer, in the order of the sources; `t` for spherical interpolation."""

    layer: int | None = None
    component: str = ""
    weights: list[float] = Field(default_factory=list)
    t: float | None = None
    residual_share: float | None = None


class Explained(Record):
    """How well the mixture accounts for the model.

    `over_best_source` is 1 - residual / squared distance to the nearest single source, fitted on half of the rows of
    every tensor and scored on the other half. `residual_share` is the residual over the energy of the model.
    `rounding_ratio` is the residual over what storing the model in its number type costs by itself: near 1 for an
    exact merge; None where that is unknown. `numbers_explained` is, for methods that mask changes, the share of
    readable numbers explained one by one. `numbers` were looked at. `unassigned` is the part of the weights that no
    source accounts for, or may not account for: of a parent that is not among the sources; None where that was not
    asked.
    """

    over_best_source: float | None = None
    residual_share: float | None = None
    rounding_ratio: float | None = None
    numbers_explained: float | None = None
    unassigned: float | None = None
    exact: bool = False
    numbers: int = 0
    tensors: int = 0


class UnmergeResult(Record):
    """The answer, and what it rests on."""

    verdict: UnmergeVerdict
    method: str | None = None
    also_possible: list[str] = Field(default_factory=list)
    sources: list[MergeSource] = Field(default_factory=list)
    explained: Explained = Field(default_factory=Explained)
    groups: list[MergeGroup] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)
    recipe: str | None = None
    read: ReadRecord = Field(default_factory=ReadRecord)
    not_checked: list[str] = Field(default_factory=list)


class Unmerging(Record):
    """One decomposition of a model into candidate parents. `recipe` is YAML for mergekit."""

    schema_name: Literal["pedigree/unmerging"] = Field(default="pedigree/unmerging", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    created: str | None = None
    inputs: dict[str, InputRecord | list[InputRecord] | None] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    result: UnmergeResult
    warnings: list[str] = Field(default_factory=list)
