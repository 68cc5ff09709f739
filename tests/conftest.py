"""What every test may use: one thread, the shared data, golden files with one update switch."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before anybody imports torch or numpy, so that results do not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "svg")
# What tests make is recorded in a folder of its own, never in the ledger of this repository.
_RECORDS = tempfile.mkdtemp(prefix="pedigree-tests-")
os.environ["PEDIGREE_LEDGER"] = f"{_RECORDS}/ledger.db"
os.environ["PEDIGREE_SEEN"] = f"{_RECORDS}/memory.json"
# Behind a script's `&` SIGINT is ignored from birth, by children, too: what tests of Ctrl-C send would reach nobody.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """One switch that changes the truth, on purpose and visibly."""
    parser.addoption("--update-goldens", action="store_true", help="rewrite the files under tests/golden")


def pytest_unconfigure() -> None:
    """Remove what was recorded."""
    shutil.rmtree(_RECORDS, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights, tokenizers and malformed files beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` demands that tests/golden/name holds exactly `text`."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-goldens"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing; run pytest --update-goldens and read what it wrote"
        assert text == path.read_text(encoding="utf-8"), f"{name} changed; pytest --update-goldens if that is meant"

    return check
