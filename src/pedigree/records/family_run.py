"""The record of a family: what `pedigree run RECIPE` made, and what the weights say of every edge of its tree.

Laws
1. Fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
2. What the recipe did (`parents`) and what a model is said to be (`claims`) are kept apart; the weights judge both.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import ComponentVerdict, DirectionVerdict, Producer, Record, Transformation, Verdict
from pedigree.records.training_run import DomainScore, RecipeInput

Finding = Literal["corroborated", "contradicted", "cannot-say"]
Standing = Literal["made", "claimed", "checked"]


class MemberResult(Record):
    """One model of the family.

    `parents` are the steps it was made from, `operators` what was done to their weights, in order. `claims` is what it
    is said to descend from: absent where nothing is said, empty where it is said to be trained from scratch.
    """

    name: str
    kind: str
    about: str = ""
    digest: str
    outcome: Literal["made", "unchanged", "interrupted", "stopped"]
    parents: dict[str, str] = Field(default_factory=dict)
    operators: list[str] = Field(default_factory=list)
    claims: list[str] | None = None
    claim: Finding | None = None
    claim_because: str = ""
    parameters: int
    tokens: int = 0
    seconds: float = 0.0
    scores: list[DomainScore] = Field(default_factory=list)
    sentence: str = ""
    model: str | None = None
    report: str | None = None


class EdgeResult(Record):
    """A pair of models and what their weights say.

    `standing` says why the pair was compared: one was made from the other, one is said to descend from the other, or
    the recipe asks. `finding` holds the verdict against that: a made or claimed edge is corroborated by shared
    ancestry; a checked pair has `kin`, whether the recipe gave them a common ancestor, and is held against it.
    """

    a: str
    b: str
    standing: list[Standing]
    kin: bool
    verdict: Verdict
    log10_p: float | None = None
    direction: DirectionVerdict
    components: dict[str, ComponentVerdict] = Field(default_factory=dict)
    layer_map: list[int | None] = Field(default_factory=list)
    transformations: list[Transformation] = Field(default_factory=list)
    finding: Finding
    seconds: float = 0.0
    report: str | None = None


class MemberEvaluation(Record):
    """What one model can do, under the name of an evaluation of the recipe.

    `artifact` is the id of the files that were measured, `file` the record of it (`pedigree/evaluation`) beside the
    page, `outcome` whether it was measured now or before.
    """

    evaluation: str
    model: str
    artifact: str
    outcome: Literal["made", "unchanged"]
    scores: list[DomainScore] = Field(default_factory=list)
    arithmetic: dict[str, float] = Field(default_factory=dict)
    seconds: float = 0.0
    file: str | None = None


class FamilyResult(Record):
    """The family at one size: members in the order in which they were made, evaluations and edges after that."""

    family: str
    about: str = ""
    size: Literal["pico", "real"]
    members: list[MemberResult]
    evaluations: list[MemberEvaluation] = Field(default_factory=list)
    edges: list[EdgeResult] = Field(default_factory=list)
    page: str | None = None
    seconds: float = 0.0


class FamilyRunInputs(Record):
    """What was read."""

    recipe: RecipeInput


class FamilyRun(Record):
    """A family made by its recipe: members, edges, and what the weights say of them."""

    schema_name: Literal["pedigree/family-run"] = Field(default="pedigree/family-run", alias="schema")
    version: Literal[1] = 1
    command: Literal["run"] = "run"
    producer: Producer = Field(default_factory=Producer)
    inputs: FamilyRunInputs
    options: dict[str, Any] = Field(default_factory=dict)
    result: FamilyResult
    warnings: list[str] = Field(default_factory=list)
