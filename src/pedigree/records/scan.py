"""Records of libraries and of scans: what `pedigree library ... --json` and `pedigree scan ... --json` print."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.comparison import Direction, InputRecord, Producer, Record, Rest, Verdict


class LibraryModel(Record):
    """One model of a library; `error` says why there is no fingerprint of it."""

    location: str
    digest: str | None = None
    header_digest: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    layers: int | None = None
    width: int | None = None
    added: str = ""
    error: str | None = None


class LibraryListing(Record):
    """The models of a library, all of them or those that a command has just added."""

    schema_name: Literal["pedigree/library"] = Field(default="pedigree/library", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    inputs: dict[str, str] = Field(default_factory=dict)
    result: list[LibraryModel] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class Candidate(Record):
    """One model of the library beside the model that was scanned.

    `rank` is its place in the search. `compared` says on what: "weights", "fingerprint", or "" where it was not
    compared. `log10_p` is as the comparison gave it, `log10_p_corrected` has paid for every model of the library.
    Where it is no relative itself, `rest` holds it against what the nearest relative, `rest_of`, leaves of the model.
    """

    location: str
    rank: int
    similarity: float | None = None
    compared: str = ""
    verdict: Verdict | None = None
    log10_p: float | None = None
    log10_p_corrected: float | None = None
    score: float | None = None
    direction: Direction | None = None
    strength: str = ""
    error: str | None = None
    rest: Rest | None = None
    rest_of: str | None = None


class Multiplicity(Record):
    """How many models were tried, and what that does to error rates.

    `tried` counts every model of the library with a fingerprint, compared or not: the search looked at all of them.
    `any_false_upper_95` bounds the chance that any of so many independent models is called related.
    """

    tried: int
    compared: int
    rule: str
    any_false_upper_95: float | None = None


class ScanResult(Record):
    """Relatives first, then other candidates by rank."""

    verdict: Literal["relatives-found", "none-found", "inconclusive"]
    relatives: list[Candidate] = Field(default_factory=list)
    others: list[Candidate] = Field(default_factory=list)
    multiplicity: Multiplicity
    not_checked: list[str] = Field(default_factory=list)
    seconds: float = 0.0


class Scan(Record):
    """The nearest relatives of one model in a library."""

    schema_name: Literal["pedigree/scan"] = Field(default="pedigree/scan", alias="schema")
    version: Literal[1] = 1
    producer: Producer = Field(default_factory=Producer)
    created: str | None = None
    inputs: dict[str, InputRecord | str] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    result: ScanResult
    warnings: list[str] = Field(default_factory=list)
