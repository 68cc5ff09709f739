"""The records that have a published JSON schema, by name."""

from __future__ import annotations

from typing import Any

from pedigree.records.answer import Answer
from pedigree.records.artifact import Artifact, Manifest, TensorManifest
from pedigree.records.audit import Audit, Clearance
from pedigree.records.benchmark import Benchmark, BenchmarkStep
from pedigree.records.command_answers import COMMAND_ANSWERS
from pedigree.records.comparison import Comparison, Record
from pedigree.records.evaluation import Evaluation
from pedigree.records.family_run import FamilyRun
from pedigree.records.family_tree import FamilyTree
from pedigree.records.fingerprint import FingerprintMade
from pedigree.records.ledger_answers import LEDGER_ANSWERS
from pedigree.records.ledger_entries import LEDGER_ENTRIES
from pedigree.records.machine import Machine
from pedigree.records.plan import Plan
from pedigree.records.policy import Policy
from pedigree.records.scan import LibraryListing, Scan
from pedigree.records.surgery import OperatorList, SurgeryCheck, SurgeryPlan, SurgeryRun
from pedigree.records.tokenizer import (
    ConflictList,
    TokenizerAudit,
    TokenizerComparison,
    TokenizerConcatenation,
    TokenizerExtension,
    TokenizerTraining,
)
from pedigree.records.training_run import TrainingRun
from pedigree.records.unmerging import Unmerging

_RECORDS: dict[str, type[Record]] = {
    "answer": Answer,
    "artifact": Artifact,
    "audit": Audit,
    "benchmark": Benchmark,
    "benchmark-step": BenchmarkStep,
    "clearance": Clearance,
    "comparison": Comparison,
    "evaluation": Evaluation,
    "family-run": FamilyRun,
    "family-tree": FamilyTree,
    "fingerprint-made": FingerprintMade,
    "library": LibraryListing,
    "machine": Machine,
    "manifest": Manifest,
    "plan": Plan,
    "policy": Policy,
    "scan": Scan,
    "surgery-check": SurgeryCheck,
    "surgery-operators": OperatorList,
    "surgery-plan": SurgeryPlan,
    "surgery-run": SurgeryRun,
    "tensors": TensorManifest,
    "tokenizer-audit": TokenizerAudit,
    "tokenizer-comparison": TokenizerComparison,
    "tokenizer-concatenation": TokenizerConcatenation,
    "tokenizer-conflicts": ConflictList,
    "tokenizer-extension": TokenizerExtension,
    "tokenizer-training": TokenizerTraining,
    "training-run": TrainingRun,
    "unmerging": Unmerging,
}
SCHEMAS = dict(sorted((_RECORDS | COMMAND_ANSWERS | LEDGER_ANSWERS | LEDGER_ENTRIES).items()))


def json_schema(name: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of the record called `name`; unknown fields are allowed everywhere."""
    schema = SCHEMAS[name].model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
