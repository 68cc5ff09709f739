"""The trained families that the tests of this folder share."""

import pytest
from mini_zoo import Zoo, compared, derive, write, zoo

from pedigree.benchmark.zoo.snapshot import Snapshot

__all__ = ["compared", "derive", "write", "zoo"]


@pytest.fixture(scope="module")
def victim(zoo: Zoo) -> Snapshot:
    return Snapshot.load(zoo.models["base0"])


@pytest.fixture(scope="module")
def stranger(zoo: Zoo) -> Snapshot:
    return Snapshot.load(zoo.models["base1"])
