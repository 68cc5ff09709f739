"""The records of an audit and of a clearance: what `pedigree audit DIR --json` and `pedigree clear DIR --json` print.

Laws
1. Fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
2. An edge has one of eight words, never a bare pass, and says why in one sentence; `recorded` is what stands behind the
   record alone, `verdict` what is left of it once the weights were asked.
3. A clearance says `unrelated` only where every model of the library was compared on its weights.
4. `content_digest` leaves out the time, the seconds, and where files lie: the same models and records give the same
   digest on another machine.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.canonical import canonical_digest
from pedigree.records.comparison import Comparison, Decoy, ErrorRate, Producer, Record, Verdict
from pedigree.records.scan import Multiplicity

EdgeVerdict = Literal["VERIFIED", "REPLAYED", "CORROBORATED", "DECLARED", "UNKNOWN", "STALE", "SUSPECT", "CONTRADICTED"]
# Repeated from pedigree.ledger.verdict, which records may not import; a test holds them together.
WORST_LAST: tuple[EdgeVerdict, ...] = (
    "VERIFIED", "REPLAYED", "CORROBORATED", "DECLARED", "UNKNOWN", "STALE", "SUSPECT", "CONTRADICTED",
)  # fmt: skip
Source = Literal["ledger", "card", "family"]
CheckWord = Literal[
    "files",
    "relation",
    "operation",
    "steps",
    "states",
    "frozen",
    "parents",
    "nearest",
    "start",
    "direction",
]
Answer = Literal["agrees", "note", "cannot-say", "doubtful", "disagrees"]
Lie = Literal[
    "undeclared-parent",
    "swapped-sibling",
    "hidden-step",
    "wrong-upload",
    "not-from-scratch",
    "not-the-parent",
    "frozen-moved",
    "frozen-undeclared",
    "changed-files",
    "backwards",
]
State = Literal["as-recorded", "weights-as-recorded", "changed", "unrecorded", "missing", "unreadable"]


class AuditModel(Record):
    """One model: its name, its artifact id, and how its files stand to the record.

    `state`: `as-recorded`, `weights-as-recorded` (other files changed), `changed`, `unrecorded` (in no record),
    `missing` (recorded, its files are not here), `unreadable`.
    """

    name: str
    artifact: str
    state: State
    recorded_as: str | None = None
    location: str | None = None
    note: str = ""


class AuditCheck(Record):
    """One check of a claim: which, its answer, one sentence, and the name of what is not as claimed."""

    check: CheckWord
    answer: Answer
    sentence: str
    lie: Lie | None = None


class AuditEdge(Record):
    """One claim of ancestry and what it is worth.

    `parent` is empty where the claim is a random start, or an origin outside. `source` says who claims it: an entry of
    the ledger, a model card, or the record of a family. `comparison` is with the parent or, of a random start, with
    the relative that `beside` names. `decoys` are other models put to the same test.
    """

    child: str
    child_name: str
    parent: str
    parent_name: str
    role: str
    operation: str
    source: Source
    entry: int | None = None
    recorded: EdgeVerdict
    verdict: EdgeVerdict
    why: str
    lies: list[Lie] = Field(default_factory=list)
    checks: list[AuditCheck] = Field(default_factory=list)
    distance2: float | None = None
    comparison: Comparison | None = None
    beside: str = ""
    decoys: list[Decoy] = Field(default_factory=list)

    @property
    def decided(self) -> bool:
        """Whether the weights have spoken, for or against."""
        return self.verdict in ("REPLAYED", "CORROBORATED", "SUSPECT", "CONTRADICTED")


class AuditResult(Record):
    """The gravest word, every model, every edge, and how often such comparisons are wrong.

    `pairs` were compared, `pairs_from_before` of them in an earlier audit. `false_positives` were counted among the
    independent pairs of `error_rate`; `any_false_upper_95` bounds the chance of any among so many pairs. `bank_scores`
    are the standard scores of the strongest layer pair of each of these independent pairs, in ascending order.
    """

    verdict: EdgeVerdict
    counts: dict[EdgeVerdict, int] = Field(default_factory=dict)
    edges: list[AuditEdge] = Field(default_factory=list)
    models: list[AuditModel] = Field(default_factory=list)
    relatives: list[str] = Field(default_factory=list)
    pairs: int = 0
    pairs_from_before: int = 0
    any_false_upper_95: float | None = None
    error_rate: ErrorRate | None = None
    false_positives: int | None = None
    bank_scores: list[float] = Field(default_factory=list)
    not_checked: list[str] = Field(default_factory=list)
    seconds: float = 0.0


class Audit(Record):
    """Claims of ancestry held against the weights, edge by edge."""

    schema_name: Literal["pedigree/audit"] = Field(default="pedigree/audit", alias="schema")
    version: Literal[1] = 1
    command: Literal["audit"] = "audit"
    producer: Producer = Field(default_factory=Producer)
    created: str | None = None
    inputs: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    result: AuditResult
    warnings: list[str] = Field(default_factory=list)

    def content_digest(self) -> str:
        """`sha256:<hex>` over what was found."""
        return _content_digest(self.to_dict())


class Cleared(Record):
    """One model of the library and the answer on it.

    `compared` says on what: "weights", "fingerprint", or "" where it was not. `detection_limit` is the smallest share
    of surviving units that would have been called a relation, None on fingerprints, which exclude nothing.
    """

    name: str
    location: str
    digest: str | None = None
    compared: str = ""
    verdict: Verdict | None = None
    log10_p: float | None = None
    log10_p_corrected: float | None = None
    score: float | None = None
    strength: str = ""
    detection_limit: float | None = None
    architecture: str = ""
    error: str | None = None


class ClearanceResult(Record):
    """The answer, and every model of the library with its own; the nearest ones first.

    `verdict` is `unrelated` (tested against all, no relation found), the word of the nearest relative, or
    `inconclusive`. `detection_limit` is the worst of those of the models. `components` are those of the comparison
    with the model that came nearest.
    """

    verdict: Verdict
    artifact: str
    name: str
    library: str
    against: list[Cleared] = Field(default_factory=list)
    left_out: list[str] = Field(default_factory=list)
    detection_limit: float | None = None
    multiplicity: Multiplicity
    nearest: Comparison | None = None
    error_rate: ErrorRate | None = None
    false_positives: int | None = None
    not_checked: list[str] = Field(default_factory=list)
    seconds: float = 0.0


class Clearance(Record):
    """One model against every model of a library."""

    schema_name: Literal["pedigree/clearance"] = Field(default="pedigree/clearance", alias="schema")
    version: Literal[1] = 1
    command: Literal["clear"] = "clear"
    producer: Producer = Field(default_factory=Producer)
    created: str | None = None
    inputs: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    result: ClearanceResult
    warnings: list[str] = Field(default_factory=list)

    def content_digest(self) -> str:
        """`sha256:<hex>` over what was found."""
        return _content_digest(self.to_dict())


_UNSTABLE = frozenset(
    {"created", "seconds", "location", "inputs", "options", "warnings", "pairs_from_before", "library"}
)


def _content_digest(plain: dict[str, Any]) -> str:
    return canonical_digest(_settled(plain))


def _settled(value: Any) -> Any:
    """A record without what differs between machines and moments."""
    if isinstance(value, dict):
        return {key: _settled(item) for key, item in value.items() if key not in _UNSTABLE}
    return [_settled(item) for item in value] if isinstance(value, list) else value
