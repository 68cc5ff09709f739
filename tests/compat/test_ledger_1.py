"""A ledger of version 1, frozen: every later version must read it, and say of it what was said when it was written.

It holds an import, two runs, a merge, rotations of all keys, a revocation, a replay, a comparison and a release.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pedigree.ledger.database import Database
from pedigree.ledger.directory import look_at
from pedigree.ledger.log import LedgerPlace
from pedigree.ledger.note import Checkpoint
from pedigree.ledger.proof import verify_proof
from pedigree.ledger.store import Store
from pedigree.ledger.verification import verify

FROZEN = Path(__file__).parent / "ledger-1"


@pytest.fixture
def ledger(tmp_path: Path) -> Store:
    shutil.copy(FROZEN / "ledger.db", tmp_path / "ledger.db")
    return Store(Database(LedgerPlace.find(str(tmp_path / "ledger.db")).database, read_only=True))


def test_it_is_read_and_says_the_same(ledger: Store) -> None:
    kept = Checkpoint.from_note((FROZEN / "checkpoint.txt").read_text(encoding="utf-8"))
    found = verify(ledger, [kept]).to_dict()
    expected = json.loads((FROZEN / "expected.json").read_text(encoding="utf-8"))
    # Fields may be added to an answer; those that were there keep their meaning.
    assert {name: found[name] for name in expected} == expected
    assert {edge["verdict"] for edge in found["edges"]} >= {
        "VERIFIED",
        "REPLAYED",
        "CORROBORATED",
        "UNKNOWN",
        "SUSPECT",
    }


def test_the_released_model_still_carries_its_proof() -> None:
    found = look_at(FROZEN / "tuned")
    assert found.proof is not None
    report = verify_proof(found.proof, found.digest)
    assert [(item.verdict, item.word) for item in report.problems if item.verdict != "UNKNOWN"] == []
    assert {edge.child_name for edge in report.edges} == {"origin", "tuned"}
