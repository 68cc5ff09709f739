"""What `pip install .` brings: a wheel with every file of the package, the data files too."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from source_tree import PACKAGE, ROOT, SOURCE


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names inside a wheel built from this checkout."""
    pytest.importorskip("hatchling", reason="the builder of wheels is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def package_files() -> set[str]:
    """Every file of the package by its path below src, caches left out."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(SOURCE).as_posix() for path in files}


def test_the_wheel_carries_every_file_of_the_package(wheel_names: set[str]) -> None:
    assert not package_files() - wheel_names


@pytest.mark.parametrize(
    "name",
    [
        "pedigree/weights/data/llama.json",
        "pedigree/weights/data/roles.json",
        "pedigree/report/templates/comparison.html.j2",
        "pedigree/report/templates/style.css",
        "pedigree/py.typed",
    ],
)
def test_data_that_is_read_at_run_time_is_in_the_wheel(wheel_names: set[str], name: str) -> None:
    assert name in wheel_names


def test_the_wheel_carries_nothing_but_the_package(wheel_names: set[str]) -> None:
    tops = {Path(name).parts[0].partition("-")[0] for name in wheel_names}
    assert tops == {"pedigree", "llm_pedigree"}
