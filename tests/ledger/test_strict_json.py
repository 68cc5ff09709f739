"""JSON as a verifier reads it: what could be read in two ways is refused, and at once."""

from __future__ import annotations

import pytest

from pedigree.errors import MalformedFile
from pedigree.ledger.strict_json import _without_twins


class Counted(str):
    """A key that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, str(other))

    __hash__ = str.__hash__


def test_a_twin_is_found_in_a_few_looks_at_each_key() -> None:
    pairs = [(Counted(f"k{n}"), 0) for n in range(2000)]
    with pytest.raises(MalformedFile, match="the key 'k1999' twice"):
        _without_twins([*pairs, (Counted("k1999"), 1)], "a sidecar")
    assert Counted.compared < 20_000
