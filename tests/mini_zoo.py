"""The tiny trained families of `pedigree.benchmark.zoo`, made once and shared by all test processes and later runs.

Kept in pytest's cache under a digest of the code that makes them, so a changed recipe, operator or library makes them
anew and an unchanged one costs nothing. `pytest --cache-clear` forgets them.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pedigree.benchmark import zoo as package
from pedigree.benchmark.zoo import Zoo, make_mini
from pedigree.benchmark.zoo.catalog import OPERATORS
from pedigree.benchmark.zoo.snapshot import Snapshot
from pedigree.forensics.compare import compare
from pedigree.records.comparison import Comparison

Compare = Callable[[str | Path, str | Path], Comparison]
Derive = Callable[..., Path]
Write = Callable[[Snapshot], Path]


def digest() -> str:
    """Of everything the numbers of the zoo depend on."""
    import transformers

    found = hashlib.sha256(f"{sys.version} {torch.__version__} {transformers.__version__}".encode())
    for path in sorted(Path(package.__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Other test processes wait here until the first has made the models."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_zoo(config: pytest.Config, factory: pytest.TempPathFactory) -> Zoo:
    """The mini set, from the cache where it is there."""
    pytest.importorskip("transformers")
    base = factory.getbasetemp()
    if hasattr(config, "workerinput"):
        base = base.parent  # what all workers of one run share
    cache = getattr(config, "cache", None)
    root = Path(cache.mkdir("mini-zoo")) if cache is not None else base
    with one_at_a_time(root / "lock"):
        directory = root / f"mini-{digest()}"
        for old in root.glob("mini-*"):
            if not old.name.startswith(directory.name):
                shutil.rmtree(old, ignore_errors=True)
        directory.mkdir(exist_ok=True)
        return make_mini(directory)


@pytest.fixture(scope="session")
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """The mini set: two seeds, a twin and most kinds of derivative, trained once."""
    return make_zoo(request.config, tmp_path_factory)


@pytest.fixture(scope="session")
def compared(zoo: Zoo) -> Compare:
    """`compared(a, b)` of two models of the zoo by name, or by path; each pair is compared once."""
    answers: dict[tuple[str, str], Comparison] = {}

    def answer(a: str | Path, b: str | Path) -> Comparison:
        key = (str(zoo.models.get(str(a), a)), str(zoo.models.get(str(b), b)))
        if key not in answers:
            answers[key] = compare(*key)
        return answers[key]

    return answer


@pytest.fixture(scope="session")
def derive(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Derive:
    """`derive("cast", "base0", dtype="bfloat16")` makes a derivative with an operator of the zoo."""
    folder = tmp_path_factory.mktemp("derived")

    def make(operator: str, *parents: str | Path, **arguments: Any) -> Path:
        words = repr((operator, [str(p) for p in parents], sorted(arguments.items())))
        target = folder / f"{operator}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
        if not target.exists():
            if OPERATORS[operator].seeded:
                arguments.setdefault("seed", 9)
            snapshots = [Snapshot.load(zoo.models.get(str(p), Path(p))) for p in parents]
            OPERATORS[operator].apply(*snapshots, **arguments).save(target)
        return target

    return make


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a snapshot to a folder of this test."""

    def to_disk(snapshot: Snapshot) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        snapshot.save(folder)
        return folder

    return to_disk
