"""What every test may use: one thread, the shared data, golden files with one update switch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before anybody imports torch or numpy, so that results do not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "svg")

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """One switch that changes the truth, on purpose and visibly."""
    parser.addoption("--update-goldens", action="store_true", help="rewrite the files under tests/golden")


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
