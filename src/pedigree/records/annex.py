"""The circumstantial annex of a comparison: what lies beside the weights of both sides, and why it may mean nothing.

Names, headers and paths are written by whoever publishes a file and can be planted or wiped in a minute. They are
listed apart from the result, each with its ordinary explanation; nothing here is a number, and no verdict reads it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pedigree.records.record import Record

AnnexKind = Literal[
    "config", "classes", "declared-kind", "tensor-names", "licenses", "paths", "vocabulary", "merges",
    "special-tokens", "chat-template", "biases",
]  # fmt: skip
Likeness = Literal["same", "partly", "different", "one-side", "neither"]


class AnnexItem(Record):
    """One thing that files say of themselves.

    `a` and `b` hold what was found on each side as text, control characters taken out, long texts cut. `likeness`
    says how the two lists stand to each other and is no evidence. `innocent` is the ordinary explanation of a likeness.
    """

    kind: AnnexKind
    title: str
    a: list[str] = Field(default_factory=list)
    b: list[str] = Field(default_factory=list)
    likeness: Likeness = "neither"
    innocent: str


class Annex(Record):
    """All items, and what could not be looked at (`A: tokenizer.json: the file is too large`)."""

    about: str = (
        "Circumstantial: names, headers, paths and tokenizer files prove nothing, can be planted or wiped at will, "
        "and took no part in any number or verdict."
    )
    items: list[AnnexItem] = Field(default_factory=list)
    not_read: list[str] = Field(default_factory=list)
