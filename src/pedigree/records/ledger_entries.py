"""What the verbs of `pedigree ledger` that write, and `pedigree import`, print with --json: the entry that was made.

Law: fields may be added, never renamed or given another meaning; fields we do not know are kept on rewrite.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pedigree.records.audit import EdgeVerdict
from pedigree.records.command_answers import CommandAnswer
from pedigree.records.comparison import Record
from pedigree.records.ledger_answers import LedgerProblem


class Imported(Record):
    """A model from elsewhere and its entry; `known_before` is the entry that it had already."""

    artifact: str
    entry: int
    status: str
    origin: str
    license: str
    signature: dict[str, str]
    claims: list[dict[str, str]]
    known_before: int | None


class Import(CommandAnswer):
    """The answer of `pedigree import`."""

    schema_name: Literal["pedigree/import"] = Field(alias="schema")
    result: Imported


class Anchored(Record):
    """The file that a checkpoint was added to, what the checkpoint covers, and the entry about it."""

    file: str
    size: int
    root: str
    entry: int


class LedgerAnchor(CommandAnswer):
    """The answer of `pedigree ledger anchor`."""

    schema_name: Literal["pedigree/ledger-anchor"] = Field(alias="schema")
    result: Anchored


class Released(Record):
    """What the sidecar of a released model proves: so many entries in so many bytes; `unknown` are gaps in them."""

    artifact: str
    entry: int | None
    entries: int
    bytes: int
    credit_root: str
    unknown: list[str]


class SignedFiles(Record):
    """An OpenSSF model signature that was written, its public key, and the entry that names the key."""

    signature: str
    public_key: str
    key: str
    entry: int
    files: int


class LedgerExport(CommandAnswer):
    """The answer of `pedigree ledger export` of a release, or in the format oms."""

    schema_name: Literal["pedigree/ledger-export"] = Field(alias="schema")
    result: Released | SignedFiles


class ListedKey(Record):
    """One key: its role, the entries that it was good for, and how verifiers of notes write the key of a log."""

    id: str
    role: str
    name: str
    since: int
    until: int | None
    last_trusted: int | None
    reason: str
    verifier_key: str | None


class LedgerKeyList(CommandAnswer):
    """The answer of `pedigree ledger key list`."""

    schema_name: Literal["pedigree/ledger-key-list"] = Field(alias="schema")
    result: list[ListedKey]


class KeyAdded(Record):
    """A key that was admitted, from the entry after this one on."""

    key: str
    role: str
    name: str
    entry: int


class LedgerKeyAdd(CommandAnswer):
    """The answer of `pedigree ledger key add`."""

    schema_name: Literal["pedigree/ledger-key-add"] = Field(alias="schema")
    result: KeyAdded


class KeyRotated(Record):
    """The key that a role had, and the one that it has from the entry after this one on."""

    old: str
    new: str
    role: str
    entry: int


class LedgerKeyRotate(CommandAnswer):
    """The answer of `pedigree ledger key rotate`."""

    schema_name: Literal["pedigree/ledger-key-rotate"] = Field(alias="schema")
    result: KeyRotated


class KeyRevoked(Record):
    """A key that is trusted up to an entry; `new` takes its place where it was in use."""

    key: str
    role: str
    last_trusted: int
    entry: int
    new: str | None


class LedgerKeyRevoke(CommandAnswer):
    """The answer of `pedigree ledger key revoke`."""

    schema_name: Literal["pedigree/ledger-key-revoke"] = Field(alias="schema")
    result: KeyRevoked


class Erased(Record):
    """The id of whoever was forgotten."""

    id: str


class LedgerErase(CommandAnswer):
    """The answer of `pedigree ledger erase`."""

    schema_name: Literal["pedigree/ledger-erase"] = Field(alias="schema")
    result: Erased


class Signed(Record):
    """The entry that an artifact got."""

    artifact: str
    entry: int


class LedgerApprove(CommandAnswer):
    """The answer of `pedigree ledger approve`."""

    schema_name: Literal["pedigree/ledger-approve"] = Field(alias="schema")
    result: Signed


class Waived(Signed):
    """The rule that is set aside for an artifact."""

    rule: str


class LedgerWaive(CommandAnswer):
    """The answer of `pedigree ledger waive`."""

    schema_name: Literal["pedigree/ledger-waive"] = Field(alias="schema")
    result: Waived


class Attached(Signed):
    """The record that was signed about an artifact: its kind, its digest, what it measured or decided."""

    name: str
    record: str = Field(alias="schema")
    sha256: str
    numbers: dict[str, str]
    verdict: str


class LedgerAttach(CommandAnswer):
    """The answer of `pedigree ledger attach`."""

    schema_name: Literal["pedigree/ledger-attach"] = Field(alias="schema")
    result: Attached


class ReplayedStep(Record):
    """What came of doing one step again; `tensor` is the first that differs, `stretch` says that a part was done."""

    entry: int
    child: str
    child_name: str
    parents: list[str]
    verdict: Literal["REPLAYED", "CONTRADICTED", "DECLARED"]
    why: str
    tensor: str | None
    stretch: bool


class Replays(Record):
    """Every step that was done again, and the entries that say so."""

    replayed: list[ReplayedStep]
    entries: list[int]


class LedgerReplay(CommandAnswer):
    """The answer of `pedigree ledger replay`."""

    schema_name: Literal["pedigree/ledger-replay"] = Field(alias="schema")
    result: Replays


class Signature(Record):
    """What a signature is worth here: the gravest of its problems, who signed, how many files are as they were."""

    artifact: str
    verdict: EdgeVerdict
    signed_name: str
    material: str
    signature_good: bool
    signer: dict[str, Any]
    files_covered: int
    ignored: list[str]
    problems: list[LedgerProblem]
    not_checked: list[str]


class LedgerSignature(CommandAnswer):
    """The answer of `pedigree ledger signature`."""

    schema_name: Literal["pedigree/ledger-signature"] = Field(alias="schema")
    result: Signature


LEDGER_ENTRIES: dict[str, type[Record]] = {
    "import": Import,
    "ledger-anchor": LedgerAnchor,
    "ledger-approve": LedgerApprove,
    "ledger-attach": LedgerAttach,
    "ledger-erase": LedgerErase,
    "ledger-export": LedgerExport,
    "ledger-key-add": LedgerKeyAdd,
    "ledger-key-list": LedgerKeyList,
    "ledger-key-revoke": LedgerKeyRevoke,
    "ledger-key-rotate": LedgerKeyRotate,
    "ledger-replay": LedgerReplay,
    "ledger-signature": LedgerSignature,
    "ledger-waive": LedgerWaive,
}
