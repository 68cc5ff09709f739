"""The record of a fingerprint that was made: what `pedigree fingerprint MODEL -o FILE --json` prints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pedigree.records.comparison import Producer, ReadRecord, Record


class FingerprintResult(Record):
    """The file, what it holds, and what it could not take. `coordinates` and the like are counts."""

    file: str | None = None
    digest: str
    bytes: int
    architecture: str = ""
    layers: int = 0
    width: int = 0
    coordinates: int = 0
    units: int = 0
    attention_dimensions: int = 0
    tokens: int = 0
    norms: int = 0
    salted: bool = False
    left_out: list[str] = Field(default_factory=list)
    read: ReadRecord = Field(default_factory=ReadRecord)


class FingerprintMade(Record):
    """A fingerprint that was made from a model. The file itself has a format of its own (docs/spec/fingerprint.md)."""

    schema_name: Literal["pedigree/fingerprint-made"] = Field(default="pedigree/fingerprint-made", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    inputs: dict[str, str] = Field(default_factory=dict)
    result: FingerprintResult
    warnings: list[str] = Field(default_factory=list)
