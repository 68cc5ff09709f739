"""What `pedigree why` and the reading verbs of `pedigree ledger` print with --json.

Law: fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite. Digests of
artifacts are `sha256:` and 64 digits, or the digits alone in edges and leaves, as the ledger has them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.audit import EdgeVerdict
from pedigree.records.command_answers import CommandAnswer
from pedigree.records.comparison import Record


class LedgerEdge(Record):
    """One claim of ancestry: `child` was made from `parent` by `operation`, as `entry` says; and its verdict."""

    child: str
    child_name: str
    parent: str
    parent_name: str
    role: str
    operation: str
    entry: int
    verdict: EdgeVerdict
    why: str


class LedgerProblem(Record):
    """Something a check found: its verdict, a word for programs, a sentence, and the entry where there is one."""

    verdict: EdgeVerdict
    word: str
    sentence: str
    entry: int | None = None


class LedgerChecked(Record):
    """How much was checked: leaves of the tree, signatures, bodies, and checkpoints from before or elsewhere."""

    leaves: int
    signatures: int
    bodies: int
    outside: int


class LedgerVerified(Record):
    """The gravest verdict, what was checked, and every problem and edge.

    `anchored` entries are under a checkpoint held outside (tier T1), none of them in tier T0. With a directory there is
    its `artifact`; with a policy, the rules of it.
    """

    origin: str
    size: int
    root: str
    verdict: EdgeVerdict
    tier: Literal["T0", "T1"]
    checked: LedgerChecked
    anchored: int
    age_days: float | None
    root_keys: list[str]
    verdicts: dict[EdgeVerdict, int]
    problems: list[LedgerProblem]
    edges: list[LedgerEdge]
    not_checked: list[str]
    artifact: str | None = None
    policy: dict[str, Any] | None = None


class LedgerVerification(CommandAnswer):
    """The answer of `pedigree ledger verify`."""

    schema_name: Literal["pedigree/ledger-verify"] = Field(alias="schema")
    result: LedgerVerified


class LedgerListed(Record):
    """One entry, as it stands in the log; what it says is not checked here."""

    index: int
    kind: str
    time: str
    run: str | None
    key: str | None
    subjects: list[str]
    parents: list[str]
    facts: dict[str, Any]


class LedgerLog(CommandAnswer):
    """The answer of `pedigree ledger log`: entries, the oldest first."""

    schema_name: Literal["pedigree/ledger-log"] = Field(alias="schema")
    result: list[LedgerListed]


class LedgerCheckpointed(Record):
    """Size and root of the tree, and the signed note over both."""

    size: int
    root: str
    note: str


class LedgerCheckpoint(CommandAnswer):
    """The answer of `pedigree ledger checkpoint`."""

    schema_name: Literal["pedigree/ledger-checkpoint"] = Field(alias="schema")
    result: LedgerCheckpointed


class LedgerNode(Record):
    """An artifact of the graph."""

    id: str
    name: str


class LedgerGraphed(Record):
    """Every artifact, and every edge between two."""

    nodes: list[LedgerNode]
    edges: list[LedgerEdge]


class LedgerGraph(CommandAnswer):
    """The answer of `pedigree ledger graph`."""

    schema_name: Literal["pedigree/ledger-graph"] = Field(alias="schema")
    result: LedgerGraphed


class LedgerShown(Record):
    """Everything about one artifact or entry; `artifact` is absent of an entry that was asked for by its number."""

    artifact: str | None
    entries: list[dict[str, Any]]
    edges: list[LedgerEdge]
    problems: list[LedgerProblem]
    descendants: list[str]


class LedgerShow(CommandAnswer):
    """The answer of `pedigree ledger show`."""

    schema_name: Literal["pedigree/ledger-show"] = Field(alias="schema")
    result: LedgerShown


class LedgerCredit(Record):
    """A person by the random id of the ledger, the name where it was not erased, and what was done."""

    id: str
    name: str | None
    roles: list[str]
    entries: int


class LedgerCredited(Record):
    """Everybody behind an artifact; `credit_root` is what a release commits to."""

    artifact: str
    credit_root: str
    credits: list[LedgerCredit]


class LedgerCredits(CommandAnswer):
    """The answer of `pedigree ledger credits`."""

    schema_name: Literal["pedigree/ledger-credits"] = Field(alias="schema")
    result: LedgerCredited


class LifeOfModel(Record):
    """Where a model comes from: edges, data, tokens, compute, people by id, code, gaps, findings of audits."""

    artifact: str
    name: str
    verdict: EdgeVerdict
    edges: list[LedgerEdge]
    data: list[str]
    tokens: int | None
    floating_point_operations: float | None
    people: list[str]
    code: Any
    gaps: list[str]
    audited: list[str]
    first: str
    last: str
    entries: int
    names: dict[str, str]


class Why(CommandAnswer):
    """The answer of `pedigree why`."""

    schema_name: Literal["pedigree/why"] = Field(alias="schema")
    result: LifeOfModel


LEDGER_ANSWERS: dict[str, type[Record]] = {
    "ledger-checkpoint": LedgerCheckpoint,
    "ledger-credits": LedgerCredits,
    "ledger-graph": LedgerGraph,
    "ledger-log": LedgerLog,
    "ledger-show": LedgerShow,
    "ledger-verify": LedgerVerification,
    "why": Why,
}
