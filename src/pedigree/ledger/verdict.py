"""The words of a ledger's verification: one for each edge, never a bare pass.

VERIFIED      signed by a good key, in the tree, and under a checkpoint that somebody else holds
REPLAYED      the operation was done again and gave the same digests
CORROBORATED  the weights agree, as a signed comparison in the ledger says
DECLARED      signed by a good key and in the tree; nobody outside holds a checkpoint over it yet
UNKNOWN       nothing is recorded: an origin outside, a parent never registered, evidence that is missing
STALE         the newest checkpoint is older than was asked for
SUSPECT       signed by a key that was revoked or retired, or out of the order of its run
CONTRADICTED  bytes, signatures, proofs or weights say something else
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

EdgeVerdict = Literal["VERIFIED", "REPLAYED", "CORROBORATED", "DECLARED", "UNKNOWN", "STALE", "SUSPECT", "CONTRADICTED"]
WORST_LAST: tuple[EdgeVerdict, ...] = (
    "VERIFIED", "REPLAYED", "CORROBORATED", "DECLARED", "UNKNOWN", "STALE", "SUSPECT", "CONTRADICTED",
)  # fmt: skip
SAYS_NO: tuple[EdgeVerdict, ...] = ("STALE", "SUSPECT", "CONTRADICTED")


@dataclass(frozen=True)
class Problem:
    """Something a check found: its verdict, a word for programs, a sentence, and the entry where there is one."""

    verdict: EdgeVerdict
    word: str
    sentence: str
    entry: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Edge:
    """One claim of ancestry: `child` was made from `parent` by `operation`, as `entry` says."""

    child: str
    child_name: str
    parent: str
    parent_name: str
    role: str
    operation: str
    entry: int
    verdict: EdgeVerdict
    why: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def worst(words: Iterable[EdgeVerdict]) -> EdgeVerdict | None:
    """The gravest of some verdicts; None of none."""
    return max(words, key=WORST_LAST.index, default=None)
