"""The record of an answer: what `pedigree chat DIR --json` prints for each.

Law: fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pedigree.records.comparison import Producer, Record


class AnswerInputs(Record):
    """What was asked of which model, and how tokens were drawn."""

    model: str
    prompt: str
    system: str | None = None
    chat_template: bool
    temperature: float
    top_k: int | None = None
    top_p: float | None = None
    max_tokens: int
    seed: int


class AnswerResult(Record):
    """What was said. `finish_reason` is stop, length, or interrupted."""

    text: str
    finish_reason: Literal["stop", "length", "interrupted"]
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    tokens_per_second: float | None = None


class Answer(Record):
    """One answer of a model."""

    schema_name: Literal["pedigree/answer"] = Field(default="pedigree/answer", alias="schema")
    version: Literal[1] = 1
    command: Literal["chat"] = "chat"
    producer: Producer = Field(default_factory=Producer)
    inputs: AnswerInputs
    result: AnswerResult
    warnings: list[str] = Field(default_factory=list)
