"""The record of an evaluation: which artifact was measured, on what, with which numbers (`pedigree eval DIR --json`).

Laws
1. Fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
2. The artifact is named by its id: numbers without it speak of nothing.
3. Bits per byte divide by bytes of text, so that models with other tokenizers can be compared; what was not measured is
   absent, never zero.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import Producer, Record
from pedigree.records.training_run import DomainScore


class Evaluated(Record):
    """The artifact that was evaluated: its id, where it lay, bytes of its files."""

    id: str
    location: str
    bytes: int


class EvaluationText(Record):
    """One corpus that was read: its domain, its kind, where it lay, and the digest of its tokens."""

    domain: str
    kind: str
    location: str | None = None
    digest: str


class EvaluationInputs(Record):
    """What was measured, on what, how."""

    artifact: Evaluated
    texts: list[EvaluationText] = Field(default_factory=list)
    settings: dict[str, Any] = Field(default_factory=dict)


class EvaluationResult(Record):
    """The numbers.

    `arithmetic` is the share of sums that are right, by language and `all`; `tasks` what lm-evaluation-harness says,
    task by task, under its own metric names.
    """

    scores: list[DomainScore] = Field(default_factory=list)
    arithmetic: dict[str, float] = Field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    seconds: float | None = None


class Evaluation(Record):
    """What an artifact can do."""

    schema_name: Literal["pedigree/evaluation"] = Field(default="pedigree/evaluation", alias="schema")
    version: Literal[1] = 1
    command: str = "eval"
    producer: Producer = Field(default_factory=Producer)
    inputs: EvaluationInputs
    result: EvaluationResult
    warnings: list[str] = Field(default_factory=list)
