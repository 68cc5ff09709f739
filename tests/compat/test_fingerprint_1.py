"""A fingerprint that version 1 of the format has written is read for ever, as the same file."""

from __future__ import annotations

from pathlib import Path

from tests.forensics.fingerprints.test_held_norms import first_version
from tests.forensics.merge_shop import write_model
from tests.forensics.tiny_models import Sizes, llama

from pedigree.forensics.compare import compare
from pedigree.forensics.fingerprints.fingerprint import is_fingerprint, make_fingerprint, read_fingerprint

FILE = Path(__file__).parent / "fingerprint-1.safetensors"
SIZES = Sizes(layers=2, vocab=40)


def test_it_is_read_compared_and_the_same_file_again(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", llama(1, SIZES), SIZES)
    assert is_fingerprint(FILE)
    old = read_fingerprint(FILE)
    assert (old.facts["version"], old.model.norms) == (1, None)
    assert old.to_bytes() == FILE.read_bytes() == first_version(make_fingerprint(model)).to_bytes()
    found = compare(FILE, model).result
    assert found.verdict == "related"
    assert any("the fingerprint of A is of version 1, which holds none" in words for words in found.not_checked)
