"""A small trained family with its honest ledger, made once, and ledgers that say something else of the same files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mini_zoo import one_at_a_time

from pedigree.audit.examination import Request, examine
from pedigree.cli.main import main
from pedigree.ledger.database import Database
from pedigree.ledger.log import Ledger, LedgerPlace
from pedigree.ledger.statement import MANIFEST, Draft, Parent, Subject, hex_digest
from pedigree.ledger.store import Store
from pedigree.records.artifact import Artifact
from pedigree.records.audit import Audit, AuditEdge
from pedigree.weights.artifact import read_artifact

TRAINING = "sequence_length: 64, batch_sequences: 16, evaluation: {max_tokens: 100}"
RECIPE = f"""
recipe: 1
family: small
seed: 3
corpora:
  code: {{kind: python-stdlib, domain: code, max_documents: 12, held_out: 0.2}}
tokenizers:
  own: {{kind: byte-level, corpus: code, vocabulary: 300}}
models:
  base:
    kind: train
    model: {{member: llama-3-8b}}
    tokenizer: own
    corpus: code
    claims: scratch
    training: {{tokens: 12000, seed: 3, {TRAINING}}}
    at: {{real: {{model: {{vocab_size: 300}}}}}}
  stranger:
    kind: train
    model: {{member: llama-3-8b}}
    tokenizer: own
    corpus: code
    training: {{tokens: 12000, seed: 9, {TRAINING}}}
    at: {{real: {{model: {{vocab_size: 300}}}}}}
  left:
    kind: train
    from: base
    claims: [base]
    training: {{tokens: 5000, seed: 11, optimizer: {{lr: 1e-3}}, {TRAINING}}}
  right:
    kind: train
    from: base
    training: {{tokens: 5000, seed: 12, optimizer: {{lr: 1e-3}}, {TRAINING}}}
  left-more:
    kind: train
    from: left
    training: {{tokens: 3000, seed: 13, optimizer: {{lr: 1e-3}}, freeze: [{{roles: [attention]}}], {TRAINING}}}
  grown:
    kind: surgery
    from: base
    steps: [{{grow.depth: {{op: identity, after: [1]}}}}]
    at: {{real: {{steps: [{{grow.depth: {{op: identity, after: [1]}}}}]}}}}
  grown-more:
    kind: train
    from: grown
    claims: scratch
    training: {{tokens: 3000, seed: 14, optimizer: {{lr: 1e-3}}, {TRAINING}}}
  mixed:
    kind: surgery
    from: left
    allow: nfp
    models: {{other: right}}
    steps: [{{merge: {{method: linear, models: [{{model: source, weight: 0.6}}, {{model: other, weight: 0.4}}]}}}}]
"""


@dataclass
class Family:
    """The models, and audits of what is said of them."""

    folder: Path
    project: Path
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    def model(self, name: str) -> Path:
        """Where a model lies."""
        return self.folder / name / "model"

    def artifact(self, name: str) -> Artifact:
        """A model, hashed once."""
        if name not in self.artifacts:
            self.artifacts[name] = read_artifact(self.model(name))
        return self.artifacts[name]

    def honest(self) -> Audit:
        """The audit of the whole family by the ledger that made it."""
        return self.by(self.project / ".pedigree" / "ledger.db", [self.folder])

    def by(self, ledger: Path | None, places: Sequence[Path]) -> Audit:
        """An audit of some folders by a ledger; comparisons are shared by all tests."""
        store = Store(Database(str(ledger), read_only=True)) if ledger else None
        kept = self.project / ".pedigree" / "comparisons"
        return examine(Request(places[0], places[1:], store=store, kept=kept))

    def said(self, folder: Path, *drafts: Draft) -> Path:
        """A ledger of its own with some events."""
        opened = Ledger(LedgerPlace.find(str(folder / "said.db")))
        opened.append_all(drafts)
        opened.close()
        return folder / "said.db"

    def draft(self, name: str, parents: Sequence[str], operation: str = "finetune", **facts: Any) -> Draft:
        """An event that says that a model was made from others."""
        artifact = self.artifact(name)
        subjects = (Subject(MANIFEST, hex_digest(artifact.id)),)
        named = tuple(Parent(hex_digest(self.artifact(parent).id), "init", parent) for parent in parents)
        told = {"name": name, "outputs": [str(self.model(name))], "parameters": {}, **facts}
        return Draft("derive", told, None, subjects, named, operation).with_attachment(artifact.manifest.to_bytes())

    def told(self, folder: Path, name: str, parents: Sequence[str], *others: str, **facts: Any) -> AuditEdge:
        """The first edge of a model by a ledger that says this of it, and the truth of some others."""
        truth = [self.draft(other, TRUE_PARENTS[other], TRUE_OPERATIONS.get(other, "finetune")) for other in others]
        ledger = self.said(folder, *truth, self.draft(name, parents, **facts))
        found = self.by(ledger, [self.model(one) for one in (name, *parents, *others)])
        return next(edge for edge in found.result.edges if edge.child == self.artifact(name).id)


TRUE_PARENTS: Mapping[str, Sequence[str]] = {
    "base": (), "stranger": (), "left": ("base",), "right": ("base",), "left-more": ("left",), "grown": ("base",),
    "grown-more": ("grown",), "mixed": ("left", "right"),
}  # fmt: skip
TRUE_OPERATIONS = {"base": "train", "stranger": "train", "grown": "grow.depth", "mixed": "merge"}


@pytest.fixture(scope="session")
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Eight models made by `pedigree run`, with the ledger that this left and the comparisons of an audit."""
    root = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        root = root.parent  # what all workers of one run share
    project = root / "audited"
    made = Family(project / "runs" / "small", project)
    with one_at_a_time(root / "audited.lock"):
        if not (project / "finished").exists():
            _make(project)
            made.honest()
            (project / "finished").touch()
    return made


def _make(project: Path) -> None:
    (project / ".pedigree").mkdir(parents=True)
    (project / "small.yaml").write_text(RECIPE, encoding="utf-8")
    before, here = os.environ.pop("PEDIGREE_LEDGER", None), Path.cwd()
    os.chdir(project)
    try:
        code = main(["run", "small.yaml", "--no-compare", "--quiet"])
    finally:
        os.chdir(here)
        if before is not None:
            os.environ["PEDIGREE_LEDGER"] = before
    assert code == 0


@pytest.fixture
def copied(family: Family, tmp_path: Path) -> Callable[[str], Path]:
    """`copied("left")` is a copy of a model that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(family.model(name), tmp_path / name))

    return copy
