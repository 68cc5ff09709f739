"""Files are hashed once for each state that they are in, inside a block, and never taken for others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pedigree.weights import known_files as module
from pedigree.weights.artifact import artifact_id
from pedigree.weights.known_files import hashed_once, known_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "GRAIN", -(10**12))  # what was written just now counts as long ago
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_bytes(b"{}")
    (root / "model.safetensors").write_bytes(b"abc" * 1000)
    return root


def test_a_file_in_the_same_state_is_read_once_whatever_it_is_called(folder: Path, tmp_path: Path) -> None:
    with hashed_once() as known:
        first = artifact_id(folder)
        assert known.found == 0
        assert artifact_id(folder) == first
        assert known.found == 2
        with hashed_once():  # a piece of work inside another shares what it knows
            assert artifact_id(folder.rename(tmp_path / "moved")) == first
        assert known.found == 4
    assert known_files() is None
    assert artifact_id(tmp_path / "moved") == first


def test_a_change_that_hides_behind_size_and_time_is_seen(folder: Path) -> None:
    file = folder / "model.safetensors"
    with hashed_once() as known:
        before, status = artifact_id(folder), file.stat()
        file.write_bytes(b"abd" * 1000)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert artifact_id(folder) != before
        assert known.found == 1  # the other file


def test_a_file_that_was_written_just_now_is_not_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRAIN", 60 * 10**9)
    with hashed_once() as known:
        assert artifact_id(folder) == artifact_id(folder)
        assert known.found == 0


def test_outside_of_a_block_every_byte_is_read(folder: Path) -> None:
    with hashed_once() as known:
        artifact_id(folder)
    artifact_id(folder)
    assert known.found == 0
