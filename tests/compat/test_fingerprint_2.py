"""Fingerprints that versions 2 and 3 of the format have written are read for ever, as the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.forensics.fingerprints.test_token_frame import second_version
from tests.forensics.merge_shop import write_model
from tests.forensics.tiny_models import Sizes, llama

from pedigree.forensics.compare import compare
from pedigree.forensics.fingerprints.fingerprint import make_fingerprint, read_fingerprint

HERE = Path(__file__).parent
SIZES = Sizes(layers=2, vocab=140)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_model(tmp_path_factory.mktemp("models") / "model", llama(1, SIZES), SIZES)
    (place / "vocab.json").write_text(json.dumps({f"word{row}": row for row in range(SIZES.vocab)}))
    return place


def test_the_second_version_is_read_compared_and_the_same_file_again(model: Path) -> None:
    old = read_fingerprint(HERE / "fingerprint-2.safetensors")
    assert (old.facts["version"], old.model.turns) == (2, False)
    assert old.model.norms is not None
    same = second_version(make_fingerprint(model))
    assert old.to_bytes() == (HERE / "fingerprint-2.safetensors").read_bytes() == same.to_bytes()
    found = compare(HERE / "fingerprint-2.safetensors", model).result
    assert found.verdict == "related"
    assert any("the fingerprint of A holds no frame of vocabulary rows" in words for words in found.not_checked)


def test_the_third_version_is_read_compared_and_has_the_same_rows_again(model: Path) -> None:
    kept = read_fingerprint(HERE / "fingerprint-3.safetensors")
    assert kept.to_bytes() == (HERE / "fingerprint-3.safetensors").read_bytes()
    made = make_fingerprint(model)
    assert kept.model.tensors.keys() == made.model.tensors.keys()
    for name, held in made.model.tensors.items():
        # Decompositions may differ in their last bits between machines, and rounding to bfloat16 shows that.
        assert float((held.float() - kept.model.tensors[name].float()).abs().max()) <= 0.01 * float(held.abs().max())
    assert compare(HERE / "fingerprint-3.safetensors", model).result.verdict == "related"
