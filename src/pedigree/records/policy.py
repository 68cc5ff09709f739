"""A policy: what must be recorded of a model before it may be released, in one YAML file, the same for everybody.

    policy: 1
    release: {by: [alice, bob], signatures: 2}
    edges: declared                       # the gravest verdict that an edge behind the model may have
    audits: [lineage, clearance]
    evaluations: [{of: english, at_most: 1.2}]
    ancestors: {exclude: ["owner/model*", "sha256:0a1b2c3d4e5f"], unrecorded: refuse}
    licenses: {exclude: ["cc-by-nc-*"], unknown: refuse}
    datasets: {exclude: ["owner/texts"]}
    scratch: {required: true, allow: [tokenizer, teacher]}
    freshness: {max_age_days: 7, anchored: true}
    waivers: {by: [alice], rules: [evaluations]}

Every section is optional; what is not said is not asked for. Unknown keys are errors; all problems are told at once.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from pedigree.errors import InternalError, MissingInput
from pedigree.records.comparison import Record
from pedigree.records.problems import Problems
from pedigree.records.yaml_tree import parse_tree, read_text

EdgeWord = Literal["verified", "replayed", "corroborated", "declared", "unknown"]
Answer = Literal["allow", "refuse"]
RuleWord = Literal[
    "record", "release", "signers", "signatures", "edges", "audits", "evaluations", "ancestors", "unrecorded",
    "licenses", "datasets", "scratch", "freshness", "anchored",
]  # fmt: skip
RULES: tuple[RuleWord, ...] = (
    "record", "release", "signers", "signatures", "edges", "audits", "evaluations", "ancestors", "unrecorded",
    "licenses", "datasets", "scratch", "freshness", "anchored",
)  # fmt: skip


class _Section(Record):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ReleaseRules(_Section):
    """Who may release.

    `by` names keys, by the name they were admitted with or by digits of their id; `signatures` counts different keys of
    them that signed the release or an approval of this model.
    """

    by: list[str] = Field(default_factory=list)
    signatures: int = Field(default=1, ge=1, le=64)


class EvaluationRule(_Section):
    """One measurement that must be attached: a domain, a task, or `arithmetic`, and the limits of its number."""

    of: str = Field(min_length=1)
    at_most: float | None = None
    at_least: float | None = None


class AncestorRules(_Section):
    """What may not be behind the model: artifact ids (their first digits do), names, patterns of names."""

    exclude: list[str] = Field(default_factory=list)
    unrecorded: Answer = "allow"


class LicenseRules(_Section):
    """Licenses that the model and what is behind it may not have, as patterns; what to do where none is recorded."""

    exclude: list[str] = Field(default_factory=list)
    unknown: Answer = "allow"


class DatasetRules(_Section):
    """Data sets that nothing behind the model may be trained on: names, patterns of names, digests."""

    exclude: list[str] = Field(default_factory=list)


class ScratchRules(_Section):
    """What counts as from scratch: nothing from elsewhere behind the model, but in the roles that are allowed."""

    required: bool = True
    allow: list[str] = Field(default_factory=list)


class FreshnessRules(_Section):
    """How old the newest entry may be, and whether a checkpoint held outside must cover the model."""

    max_age_days: float | None = Field(default=None, gt=0)
    anchored: bool = False


class WaiverRules(_Section):
    """Who may set a rule aside, and which; a waiver is a signed entry of the ledger, and is shown."""

    by: list[str] = Field(default_factory=list)
    rules: list[RuleWord] = Field(default_factory=list)


class Policy(_Section):
    """Rules that a model and its record must keep."""

    policy: Literal[1]
    release: ReleaseRules | None = None
    edges: EdgeWord | None = None
    audits: list[str] = Field(default_factory=list)
    evaluations: list[EvaluationRule] = Field(default_factory=list)
    ancestors: AncestorRules | None = None
    licenses: LicenseRules | None = None
    datasets: DatasetRules | None = None
    scratch: ScratchRules | None = None
    freshness: FreshnessRules | None = None
    waivers: WaiverRules | None = None

    def digest(self, text: bytes) -> str:
        """`sha256:` of the file it was read from: what a release names."""
        return "sha256:" + hashlib.sha256(text).hexdigest()


def read_policy(path: Path) -> tuple[Policy, str]:
    """Read a policy.

    Returns:
        The policy, and the digest of its file.

    Raises:
        MissingInput: there is no such file.
        ProblemsFound: everything that is wrong with it, with file and line.
    """
    if not path.is_file():
        raise MissingInput("there is no such policy", where=str(path), expected="a YAML file")
    problems = Problems(str(path))
    text = read_text(path, problems)
    root = None if text is None else parse_tree(text, problems)
    problems.stop()
    value: Any = None if root is None else root.plain()
    found = None if root is None else problems.fitted(Policy, value, root, ())
    problems.stop()
    if found is None:
        raise InternalError("a policy was refused without a word", where=str(path))
    return found, found.digest(path.read_bytes())
