"""The record of training: what `pedigree train RECIPE --json` prints, one result for each step of the recipe.

Laws
1. Fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
2. Losses are nats per token, scores bits per byte; a number that was not measured is null.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import Producer, Record


class RecipeInput(Record):
    """The recipe: its path, the digest of its text, and what was set over it."""

    path: str
    digest: str
    overrides: dict[str, Any] = Field(default_factory=dict)


class TrainingInputs(Record):
    """What was read."""

    recipe: RecipeInput


class DomainScore(Record):
    """How well held-out text of a domain is predicted."""

    domain: str
    bits_per_byte: float
    nats_per_token: float
    n_bytes: int
    n_tokens: int


class StepResult(Record):
    """How the training of one step ended.

    `experts` is what the experts of a mixture are worth and how they are used (see `pedigree.training.moe_health`).
    `skipped` says that nothing it is made of had changed: these are the numbers of the run that made what is on disk.
    `utilization` is the share of the rate of matrix products that was measured on this device before the first step.
    """

    step: str
    outcome: Literal["finished", "interrupted", "stopped"]
    digest: str
    skipped: bool = False
    steps: int
    tokens: int
    first_step: int
    loss: float
    seconds: float
    tokens_per_second: float
    utilization: float | None = None
    scores: list[DomainScore] = Field(default_factory=list)
    arithmetic: dict[str, float] = Field(default_factory=dict)
    experts: dict[str, Any] | None = None
    decisions: list[dict[str, Any]] = Field(default_factory=list)
    output: str
    model: str | None = None
    report: str | None = None


class TrainingRun(Record):
    """What was trained, how it ended, where it lies."""

    schema_name: Literal["pedigree/training-run"] = Field(default="pedigree/training-run", alias="schema")
    version: Literal[1] = 1
    command: Literal["train"] = "train"
    producer: Producer = Field(default_factory=Producer)
    inputs: TrainingInputs
    result: list[StepResult]
    warnings: list[str] = Field(default_factory=list)
